// Remembers something between calls. A call runs in a fresh copy of this module, so a variable up
// here would be as new in every call; what must last is kept in `$state`, which belongs to a session:
//
//   curl -s 'localhost:8080/invoke/counter?session=bob' -d '{"by":2}'   {"count": 2, ...
//   curl -s 'localhost:8080/invoke/counter?session=bob' -d '{"by":2}'   {"count": 4, ...
//
// nexus.toml, beside this file, lists what the handler may touch; everything else is refused.
export default function (event) {
  const by = event?.by ?? 1;
  if (!Number.isInteger(by)) throw new TypeError("by must be a whole number");

  // Nothing is stored yet the first time.
  $state.count = ($state.count ?? 0) + by;

  // Nexus tells whoever watches the session, over a WebSocket, of the new count and of this event.
  $emit("counter.changed", { count: $state.count });

  // All of it is stored together when the call succeeds. If it throws, nothing of it is.
  return { count: $state.count };
}
