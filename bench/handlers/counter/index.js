// The work of the call rows, hello with state: JSON in, one state write, one event, JSON out.
// bench/quickjs.py runs this very file, less the words `export default`, for its peer.
export default function counter(event) {
  $state.count = ($state.count ?? 0) + 1;
  $emit("greeted", { who: event.who });
  return { greeting: "hello " + event.who, count: $state.count };
}
