// Does wrong on demand, to show what becomes of it: the call ends with an error that names the limit,
// nothing of it is stored, and the next call, of this handler or another, finds the sandbox as new.
//
//   nexus invoke misbehave --event '{"mode":"loop"}'
export default function (event) {
  const misdeed = MISDEEDS[event?.mode];
  if (misdeed === undefined) {
    return { modes: Object.keys(MISDEEDS) };
  }
  $state.attempts = ($state.attempts ?? 0) + 1; // not stored either: the call fails as a whole
  return misdeed();
}

const MISDEEDS = {
  // TIMEOUT: the sandbox is interrupted from outside, whatever it computes.
  loop() {
    for (;;);
  },

  // TIMEOUT: a promise that resolves for ever leaves no gap either.
  async microtasks() {
    for (;;) await null;
  },

  // STACK_OVERFLOW
  recursion() {
    const deeper = (level) => 1 + deeper(level + 1);
    return deeper(0);
  },

  // MEMORY_LIMIT
  memory() {
    const hoard = [];
    for (;;) hoard.push(new Uint8Array(1 << 20).fill(1));
  },

  // RESOURCE_LIMIT: `max_events` of nexus.toml.
  events() {
    for (;;) $emit("misbehave.flood", null);
  },

  // PERMISSION_DENIED: nexus.toml does not list this key. A handler that catches the error may go on,
  // but the write is not done, and the audit log tells of it. The host checks again what it is handed:
  // tampering with `$state` itself gains nothing.
  "forbidden-write"() {
    $state.secrets = "mine now";
  },

  // EXECUTION_ERROR, and the error tells this file, the line below, and the column.
  throw() {
    throw new RangeError("thrown on purpose");
  },

  // EXECUTION_ERROR, "never settled": nothing will ever resolve this promise.
  hang() {
    return new Promise(() => {});
  },
};
