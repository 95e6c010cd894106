// Does what the event's data ask for; by default replies with the event it got.
export default function (event) {
  const asked = event.data?.do;
  if (asked === "nothing") return null;
  if (asked === "throw") throw new Error("no tea left");
  if (asked === "recurse") { const f = () => f() + 1; return f(); }
  if (asked === "forbid") $state.x = 1;
  if (asked === "loop") for (;;);
  if (asked === "reply") return event.data.event;
  return { specversion: "1.0", type: "com.example.seen", data: event };
}
