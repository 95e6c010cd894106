// The guest side of Nexus: what a handler sees, and the one text it hands to the host.
//
// Everything here runs inside the sandbox, where a hostile handler can reach it. Its checks are a
// courtesy to honest authors (an early, clear error); the host checks every operation again.
//
// The value of this script is an object of entry functions; the host keeps handles to them in the
// heap image and calls them:
//   register(namespace)  once, while the handler is loaded: takes its default export
//   registered()         whether it did: "true" or "false"
//   reserve(bytes)       once, before the image is captured: grows the heap and frees it again
//   describe(thrown)     an error as JSON text
//   invoke(text)         start a call; `text` is the input, described at `invoke`
//   resume(text)         deliver answers of extension calls
//   flush()              what happened since the last flush, as JSON text, described at `flush`
(function (hostRandom, hostBreach) {
  "use strict";

  const { parse, stringify } = JSON;
  const { ownKeys, defineProperty } = Reflect;
  const { create, setPrototypeOf, freeze } = Object;
  const { join, push } = Array.prototype;
  const call = Function.prototype.call;
  const uncurry = (method) => call.bind(method);
  const joined = uncurry(join);
  const append = uncurry(push);
  const slice = uncurry(String.prototype.slice);
  const startsWith = uncurry(String.prototype.startsWith);
  const then = uncurry(Promise.prototype.then);
  const hasOwn = Object.hasOwn;
  const now = Date.now;
  const NativePromise = Promise;
  const NativeString = String;
  const NativeError = Error;
  const NativeTypeError = TypeError;

  class PermissionDenied extends NativeError {
    get name() { return "PermissionDenied"; }
  }

  // ---- one call's record -------------------------------------------------------------------

  let handler = null;
  let running = false; // false while the handler's module is being loaded
  let policy = null;   // {read, write, emit, view, ext, crypto: [patterns], calls, mutations, events, logs}
  let state = null;    // readable keys and values, no prototype
  let touched = null;  // keys whose value is an object that was handed out -> its text when last known
  let operations = [];
  let logs = [];
  let denials = [];
  let calls = [];
  let pending = null;  // call id -> [resolve, reject]
  let nextCall = 1;
  let outcome = null;  // JSON text of the settled call's part of the flush
  let used = null;     // {calls, mutations, events, logs}
  let deadline = null;

  const matches = (patterns, name) => {
    for (let index = 0; index < patterns.length; index++) {
      const pattern = patterns[index];
      if (pattern === name) return true;
      const last = pattern.length - 1;
      if (pattern[last] === "*" && startsWith(name, slice(pattern, 0, last))) return true;
    }
    return false;
  };

  const demand = (kind, patterns, name) => {
    if (!running) throw new NativeTypeError(kind + " is only there while the handler runs, not while its module loads");
    if (typeof name !== "string" || !matches(patterns, name)) {
      const token = kind + ":" + NativeString(name);
      append(denials, slice(token, 0, 300));
      throw new PermissionDenied("the handler has no capability " + token);
    }
  };

  // Passing a count ends the call at once: the host traps the guest inside hostBreach.
  const count = (what, limit) => {
    if (++used[what] > limit) hostBreach[what]();
  };

  const operate = (text) => {
    count("calls", policy.calls);
    append(operations, text);
  };

  const jsonText = (value, what) => {
    const text = stringify(value);
    if (text === undefined) throw new NativeTypeError(what + " is not a JSON value");
    return text;
  };

  // ---- $state ------------------------------------------------------------------------------

  const writeState = (key, value) => {
    demand("state:write", policy.write, key);
    if (value === undefined) return deleteState(key);
    const text = jsonText(value, "$state." + key);
    count("mutations", policy.mutations);
    operate('["set",' + stringify(key) + "," + text + "]");
    state[key] = value;
    if (typeof value === "object" && value !== null) touched[key] = text;
    return true;
  };

  const deleteState = (key) => {
    demand("state:write", policy.write, key);
    count("mutations", policy.mutations);
    operate('["delete",' + stringify(key) + "]");
    delete state[key];
    delete touched[key];
    return true;
  };

  const readState = (key) => {
    if (typeof key === "symbol") return undefined;
    demand("state:read", policy.read, key);
    const value = state[key];
    if (typeof value === "object" && value !== null && !(key in touched)) touched[key] = stringify(value);
    return value;
  };

  // A value that was handed out may have been changed in place: those changes are writes too.
  const collectTouched = () => {
    const keys = ownKeys(touched);
    for (let index = 0; index < keys.length; index++) {
      const key = keys[index];
      const text = stringify(state[key]);
      if (text !== touched[key]) writeState(key, state[key]);
    }
  };

  const stateProxy = new Proxy(create(null), {
    get: (_, key) => readState(key),
    set: (_, key, value) => writeState(key, value),
    deleteProperty: (_, key) => deleteState(key),
    has: (_, key) => typeof key === "string" && (demand("state:read", policy.read, key), key in state),
    ownKeys: () => (running ? ownKeys(state) : []),
    getOwnPropertyDescriptor: (_, key) =>
      running && hasOwn(state, key)
        ? { value: readState(key), writable: true, enumerable: true, configurable: true }
        : undefined,
    defineProperty: () => false,
    setPrototypeOf: () => false,
    preventExtensions: () => false,
  });

  // ---- $emit, $view, $ext ------------------------------------------------------------------

  const emit = (name, payload) => {
    demand("events:emit", policy.emit, name);
    const text = payload === undefined ? "null" : jsonText(payload, "the payload of " + name);
    count("events", policy.events);
    operate('["emit",' + stringify(name) + "," + text + "]");
  };

  const view = freeze({
    update(id, data) {
      demand("view:update", policy.view, id);
      operate('["view",' + stringify(id) + "," + (data === undefined ? "null" : jsonText(data, "the data of " + id)) + "]");
    },
  });

  const callExtension = (extension, method, args) =>
    new NativePromise((resolve, reject) => {
      demand("ext", policy.ext, extension);
      const text = jsonText(args, "an argument of $ext." + extension + "." + method);
      count("calls", policy.calls);
      const id = nextCall++;
      append(calls, '{"callId":' + id + ',"extension":' + stringify(extension) + ',"method":' + stringify(method) + ',"args":' + text + "}");
      pending[id] = [resolve, reject];
    });

  const extensionProxies = create(null);
  const extensionProxy = (extension) =>
    (extensionProxies[extension] ??= new Proxy(create(null), {
      // `then` is left out so that an extension is never taken for a promise.
      get: (_, method) =>
        typeof method === "symbol" || method === "then" ? undefined : (...args) => callExtension(extension, method, args),
      set: () => false,
    }));
  const ext = new Proxy(create(null), {
    get: (_, extension) =>
      typeof extension === "symbol" || extension === "then" ? undefined : extensionProxy(extension),
    set: () => false,
  });

  // ---- $log, console, random ---------------------------------------------------------------

  const describe = (value) => {
    if (typeof value === "string") return value;
    try {
      if (value instanceof NativeError) return NativeString(value.stack ? value.name + ": " + value.message + "\n" + value.stack : value);
      return (typeof value === "object" ? stringify(value) : undefined) ?? NativeString(value);
    } catch {
      return "<unprintable>";
    }
  };

  const log = (level) => (...values) => {
    if (!running || used.logs >= policy.logs) return;
    const words = [];
    for (let index = 0; index < values.length; index++) append(words, describe(values[index]));
    const message = slice(joined(words, " "), 0, policy.logs - used.logs);
    used.logs += message.length + 1;
    append(logs, '{"level":"' + level + '","message":' + stringify(message) + "}");
  };
  const levels = { debug: log("debug"), info: log("info"), warn: log("warn"), error: log("error") };

  // sfc32 (Chris Doty-Humphrey, PractRand): the engine's own generator is part of the heap image
  // and would give every call the same numbers; this one is seeded by the host for each call.
  let a = 1, b = 2, c = 3, d = 4;
  const seed = (words) => { [a, b, c, d] = words; };
  Math.random = function random() {
    const sum = (a + b + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum | 0;
    return (sum >>> 0) / 4294967296;
  };

  const randomBytes = (target) => {
    demand("crypto", policy.crypto, "random");
    for (let index = 0; index < target.length; ) {
      count("calls", policy.calls);
      const text = hostRandom();
      for (let at = 0; at < text.length && index < target.length; at += 2) {
        target[index++] = parseInt(slice(text, at, at + 2), 16);
      }
    }
    return target;
  };
  const crypto = freeze({
    getRandomValues(array) {
      if (!ArrayBuffer.isView(array) || array.byteLength > 65536) {
        throw new NativeTypeError("getRandomValues takes a typed array of at most 65536 bytes");
      }
      randomBytes(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
      return array;
    },
    randomUUID() {
      const bytes = randomBytes(new Uint8Array(16));
      bytes[6] = (bytes[6] & 0x0f) | 0x40;
      bytes[8] = (bytes[8] & 0x3f) | 0x80;
      let text = "";
      for (let index = 0; index < 16; index++) {
        text += (index === 4 || index === 6 || index === 8 || index === 10 ? "-" : "") + (bytes[index] + 256).toString(16).slice(1);
      }
      return text;
    },
  });

  // ---- settling ----------------------------------------------------------------------------

  const field = (thrown, name) => {
    try {
      const value = thrown[name];
      return value === undefined ? undefined : slice(NativeString(value), 0, 8192);
    } catch {
      return undefined;
    }
  };

  const errorText = (thrown) => {
    const isObject = (typeof thrown === "object" && thrown !== null) || typeof thrown === "function";
    return stringify(
      isObject
        ? { name: field(thrown, "name"), message: field(thrown, "message") ?? slice(describe(thrown), 0, 8192), stack: field(thrown, "stack") }
        : { name: "Error", message: slice(describe(thrown), 0, 8192) },
    );
  };

  const fail = (thrown) => {
    outcome = '"outcome":"threw","error":' + errorText(thrown);
  };

  const succeed = (value) => {
    try {
      outcome = '"outcome":"returned","value":' + (stringify(value) ?? "null");
    } catch (error) {
      fail(error);
    }
  };

  // ---- entries -----------------------------------------------------------------------------

  const globals = globalThis;
  const expose = (name, value) => defineProperty(globals, name, { value, writable: true, configurable: true });
  expose("$state", stateProxy);
  expose("$emit", emit);
  expose("$view", view);
  expose("$ext", ext);
  expose("$log", freeze({ ...levels }));
  expose("$args", undefined);
  expose("$scope", undefined);
  expose("crypto", crypto);
  expose("console", { ...levels, log: levels.info, trace: levels.debug });

  const context = {
    requestId: null, handler: null, session: null, env: null,
    remainingMs: () => (deadline === null ? Infinity : deadline > now() ? deadline - now() : 0),
  };

  return {
    register(namespace) {
      if (typeof namespace.default !== "function") {
        throw new NativeTypeError("the handler must export a default function: export default async function (event, ctx) { … }");
      }
      handler = namespace.default;
    },

    registered: () => (handler !== null ? "true" : "false"),

    reserve(bytes) {
      new ArrayBuffer(+bytes);
    },

    // What went wrong while the handler was loaded: {name?, message?, stack?} as JSON text.
    describe: errorText,

    // {event, scope, state, policy, seed: [4 integers], deadline: ms since 1970 | null,
    //  context: {requestId, handler, session, env}}
    invoke(text) {
      const input = parse(text);
      policy = input.policy;
      state = setPrototypeOf(input.state, null);
      touched = create(null);
      pending = create(null);
      used = { calls: 0, mutations: 0, events: 0, logs: 0 };
      deadline = input.deadline;
      seed(input.seed);
      context.requestId = input.context.requestId;
      context.handler = input.context.handler;
      context.session = input.context.session;
      context.env = input.context.env;
      globals.$args = input.event;
      globals.$scope = input.scope;
      running = true;
      try {
        const result = handler(input.event, context);
        if (result instanceof NativePromise) then(result, succeed, fail);
        else if (typeof result?.then === "function") then(NativePromise.resolve(result), succeed, fail);
        else succeed(result);
      } catch (error) {
        fail(error);
      }
    },

    // {results: [{callId, ok, value, errorName, errorMessage}], seed: [4 integers]}
    resume(text) {
      const input = parse(text);
      seed(input.seed);
      for (const { callId, ok, value, errorName, errorMessage } of input.results) {
        const entry = pending[callId];
        if (entry === undefined) continue;
        delete pending[callId];
        if (ok) entry[0](value);
        else {
          const error = new NativeError(errorMessage);
          defineProperty(error, "name", { value: errorName, configurable: true, writable: true });
          entry[1](error);
        }
      }
    },

    // {outcome: "returned" | "threw" | "pending", value?, error?, operations, calls, logs, denials}
    flush() {
      try {
        collectTouched();
      } catch (error) {
        fail(error);
      }
      const text =
        "{" + (outcome ?? '"outcome":"pending"') +
        ',"operations":[' + joined(operations, ",") +
        '],"calls":[' + joined(calls, ",") +
        '],"logs":[' + joined(logs, ",") +
        '],"denials":' + (denials.length === 0 ? "[]" : stringify(denials)) + "}";
      operations = [];
      calls = [];
      logs = [];
      denials = [];
      return text;
    },
  };
})
