// Takes the event of the Trigger. What it returns goes back to the Broker as an event of its own.
export default function (event) {
  const name = event.data?.name;

  // Thrown errors are final: the Broker sends this event to the dead letters, and does not try it again.
  if (typeof name !== "string") throw new TypeError("a user has a name");

  return { specversion: "1.0", type: "com.example.user.greeted", data: { text: `hello ${name}` } };
}
