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
//   adopt(text)          before the image is captured, or before a call whose policy is another:
//                        what the handler may do, its name and its environment, described at `adopt`
//   invoke(text)         start a call; `text` is the input, described at `invoke`
//   resume(text)         deliver answers of extension calls
//   flush()              what happened since the last flush, as JSON text, described at `flush`
(function (hostRandom, hostBreach, makeRandom) {
  "use strict";

  const { parse, stringify } = JSON;
  const { ownKeys, defineProperty } = Reflect;
  const { create, setPrototypeOf, freeze } = Object;
  const { join } = Array.prototype;
  const call = Function.prototype.call;
  const uncurry = (method) => call.bind(method);
  const joined = uncurry(join);
  const append = (list, item) => { list[list.length] = item; };
  const slice = uncurry(String.prototype.slice);
  const startsWith = uncurry(String.prototype.startsWith);
  const then = uncurry(Promise.prototype.then);
  const hasOwn = Object.hasOwn;
  const now = Date.now;
  const NativeArrayBuffer = ArrayBuffer;
  const NativePromise = Promise;
  const NativeString = String;
  const NativeError = Error;
  const NativeTypeError = TypeError;

  class PermissionDenied extends NativeError {
    get name() { return "PermissionDenied"; }
  }

  // ---- one call's record -------------------------------------------------------------------
  // Every call starts from the heap image, so these are as new each time.

  let handler = null;
  let running = false; // false while the handler's module is being loaded
  let policy = { calls: 0, mutations: 0, events: 0, logs: 0 }; // and rules: read, write, emit, view, ext, crypto
  const state = create(null);    // readable keys and values
  const touched = create(null);  // keys whose value is an object that was handed out -> its text when last known
  let touches = 0;
  let operations = [];
  let logs = [];
  let denials = [];
  let calls = [];
  const pending = create(null);  // call id -> {resolve, reject}
  let nextCall = 1;
  let outcome = null;  // JSON text of the settled call's part of the flush
  const used = { calls: 0, mutations: 0, events: 0, logs: 0 };
  let deadline = null;

  // Patterns as they are asked: everything, exact names, prefixes.
  const rules = (patterns) => {
    const rule = { all: false, names: create(null), prefixes: create(null), count: 0 };
    for (let index = 0; index < patterns.length; index++) {
      const pattern = patterns[index];
      if (pattern === "*") rule.all = true;
      else if (pattern[pattern.length - 1] === "*") rule.prefixes[rule.count++] = slice(pattern, 0, -1);
      else rule.names[pattern] = true;
    }
    return rule;
  };

  const allows = (rule, name) => {
    if (typeof name !== "string") return false;
    if (rule.all || rule.names[name] === true) return true;
    for (let index = 0; index < rule.count; index++) {
      if (startsWith(name, rule.prefixes[index])) return true;
    }
    return false;
  };

  const refuse = (kind, name) => {
    if (!running) throw new NativeTypeError(kind + " is only there while the handler runs, not while its module loads");
    const token = kind + ":" + NativeString(name);
    append(denials, stringify(slice(token, 0, 300)));
    throw new PermissionDenied("the handler has no capability " + token);
  };

  const demand = (kind, rule, name) => {
    if (!running || !allows(rule, name)) refuse(kind, name);
  };

  // Passing a count ends the call at once: the host traps the guest inside hostBreach.
  const countCall = () => {
    if (++used.calls > policy.calls) hostBreach.calls();
  };
  const countMutation = () => {
    if (++used.mutations > policy.mutations) hostBreach.mutations();
  };

  const operate = (text) => {
    countCall();
    append(operations, text);
  };

  const jsonText = (value, what, name) => {
    const text = stringify(value);
    if (text === undefined) throw new NativeTypeError(what + name + " is not a JSON value");
    return text;
  };

  // ---- $state ------------------------------------------------------------------------------

  const touch = (key, text) => {
    touches++;
    touched[key] = text;
  };

  const writeState = (key, value) => {
    demand("state:write", policy.write, key);
    if (value === undefined) return deleteState(key);
    const text = jsonText(value, "$state.", key);
    countMutation();
    operate('["set",' + stringify(key) + "," + text + "]");
    state[key] = value;
    if (typeof value === "object" && value !== null) touch(key, text);
    return true;
  };

  const deleteState = (key) => {
    demand("state:write", policy.write, key);
    countMutation();
    operate('["delete",' + stringify(key) + "]");
    delete state[key];
    delete touched[key];
    return true;
  };

  const readState = (key) => {
    if (typeof key === "symbol") return undefined;
    demand("state:read", policy.read, key);
    const value = state[key];
    if (typeof value === "object" && value !== null && !(key in touched)) touch(key, stringify(value));
    return value;
  };

  // A value that was handed out may have been changed in place: those changes are writes too.
  const collectTouched = () => {
    if (touches === 0) return;
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
    const text = payload === undefined ? "null" : jsonText(payload, "the payload of ", name);
    if (++used.events > policy.events) hostBreach.events();
    operate('["emit",' + stringify(name) + "," + text + "]");
  };

  const view = freeze({
    update(id, data) {
      demand("view:update", policy.view, id);
      operate('["view",' + stringify(id) + "," + (data === undefined ? "null" : jsonText(data, "the data of ", id)) + "]");
    },
  });

  const callExtension = (extension, method, args) =>
    new NativePromise((resolve, reject) => {
      demand("ext", policy.ext, extension);
      const text = jsonText(args, "an argument of $ext.", extension);
      countCall();
      const id = nextCall++;
      append(calls, '{"callId":' + id + ',"extension":' + stringify(extension) + ',"method":' + stringify(method) + ',"args":' + text + "}");
      pending[id] = { resolve, reject };
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

  const { crypto, reseed } = makeRandom(hostRandom, (kind, name) => demand(kind, policy.crypto, name), countCall);

  // ---- settling ----------------------------------------------------------------------------

  const field = (thrown, name) => {
    try {
      const value = thrown[name];
      return value === undefined ? undefined : slice(NativeString(value), 0, 8192);
    } catch {
      return undefined;
    }
  };

  // Of strings only: on its way through an object or an array, `stringify` can run the handler's code,
  // and then the handler could make even its failing fail.
  const errorText = (thrown) => {
    const isObject = (typeof thrown === "object" && thrown !== null) || typeof thrown === "function";
    const name = isObject ? field(thrown, "name") : "Error";
    const message = (isObject ? field(thrown, "message") : undefined) ?? slice(describe(thrown), 0, 8192);
    const stack = isObject ? field(thrown, "stack") : undefined;
    return '{"message":' + stringify(message) +
      (name === undefined ? "" : ',"name":' + stringify(name)) +
      (stack === undefined ? "" : ',"stack":' + stringify(stack)) + "}";
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

  const named = (error, name) => {
    defineProperty(error, "name", { __proto__: null, value: name, configurable: true, writable: true });
    return error;
  };

  const handOver = () => {
    const text =
      "{" + (outcome ?? '"outcome":"pending"') +
      ',"operations":[' + joined(operations, ",") +
      '],"calls":[' + (calls.length === 0 ? "" : joined(calls, ",")) +
      '],"logs":[' + (logs.length === 0 ? "" : joined(logs, ",")) +
      '],"denials":[' + (denials.length === 0 ? "" : joined(denials, ",")) + "]}";
    operations = [];
    calls = [];
    logs = [];
    denials = [];
    return text;
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
      new NativeArrayBuffer(+bytes);
    },

    // What went wrong while the handler was loaded: {name?, message?, stack?} as JSON text.
    describe: errorText,

    // {read, write, emit, view, ext, crypto: [patterns], calls, mutations, events, logs: limits,
    //  handler, env}
    adopt(text) {
      const input = parse(text);
      const { read, write, emit, view, ext, crypto } = input;
      policy = {
        read: rules(read), write: rules(write), emit: rules(emit), view: rules(view), ext: rules(ext), crypto: rules(crypto),
        calls: input.calls, mutations: input.mutations, events: input.events, logs: input.logs,
      };
      context.handler = input.handler;
      context.env = input.env;
    },

    // [event, scope, state, seed: 32 hex digits, deadline: ms since 1970 | null, requestId, session]
    invoke(text) {
      try {
        const input = parse(text);
        const values = input[2];
        const keys = ownKeys(values);
        for (let index = 0; index < keys.length; index++) state[keys[index]] = values[keys[index]];
        reseed(input[3]);
        deadline = input[4];
        context.requestId = input[5];
        context.session = input[6];
        const event = input[0];
        globals.$args = event;
        globals.$scope = input[1];
        running = true;
        const result = handler(event, context);
        if (result instanceof NativePromise) then(result, succeed, fail);
        else if (typeof result?.then === "function") then(NativePromise.resolve(result), succeed, fail);
        else succeed(result);
      } catch (error) {
        fail(error);
      }
    },

    // [[{callId, ok, value, errorName, errorMessage}], seed: 32 hex digits]
    resume(text) {
      try {
        const input = parse(text);
        const answers = input[0];
        reseed(input[1]);
        for (let index = 0; index < answers.length; index++) {
          const { callId, ok, value, errorName, errorMessage } = answers[index];
          const entry = pending[callId];
          if (entry === undefined) continue;
          delete pending[callId];
          if (ok) entry.resolve(value);
          else entry.reject(named(new NativeError(errorMessage), errorName));
        }
      } catch (error) {
        fail(error);
      }
    },

    // {outcome: "returned" | "threw" | "pending", value?, error?, operations, calls, logs, denials}
    flush() {
      try {
        collectTouched();
        return handOver();
      } catch (error) {
        operations = calls = logs = denials = [];
        fail(error);
        return handOver();
      }
    },
  };
})
