// What stands around a handler in quickjs-rs, and no more than it needs: one crossing in, one out.
// State writes and events are buffered and handed over with the result, as the Nexus bootstrap does.
let $operations;
let $state;
const $emit = (name, payload) => {
  $operations.push({ op: "emit", name, payload });
};
globalThis.$call = (text) => {
  const input = JSON.parse(text);
  $operations = [];
  $state = new Proxy(input.state, {
    set(target, key, value) {
      $operations.push({ op: "set", key, value });
      target[key] = value;
      return true;
    },
  });
  const returnValue = counter(input.event);
  return JSON.stringify({ returnValue, operations: $operations });
};
