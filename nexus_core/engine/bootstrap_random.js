// Randomness as a handler sees it: `Math.random` and `crypto`.
//
// The value of this script is a function that bootstrap.js calls once; it takes
//   hostRandom()          32 random bytes of the host, as hex text
//   demand(kind, …)       bootstrap.js's early check of a capability
//   countCall()           bootstrap.js's early count of calls of the host
// and returns {crypto, reseed(text of 32 hex digits)}.
(function (hostRandom, demand, countCall) {
  "use strict";

  const slice = Function.prototype.call.bind(String.prototype.slice);
  const { parseInt, Uint8Array, TypeError } = globalThis;
  const { isView } = ArrayBuffer;
  const freeze = Object.freeze;

  // sfc32 (Chris Doty-Humphrey, PractRand): the engine's own generator is part of the heap image
  // and would give every call the same numbers; this one is seeded by the host for each call.
  // Most calls never ask, so the seed is read when the first one does.
  let a = 1, b = 2, c = 3, d = 4, seed = null;
  const sow = () => {
    a = parseInt(slice(seed, 0, 8), 16) | 0;
    b = parseInt(slice(seed, 8, 16), 16) | 0;
    c = parseInt(slice(seed, 16, 24), 16) | 0;
    d = parseInt(slice(seed, 24, 32), 16) | 0;
    seed = null;
  };
  Math.random = function random() {
    if (seed !== null) sow();
    const sum = (a + b + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum | 0;
    return (sum >>> 0) / 4294967296;
  };

  const randomBytes = (target) => {
    demand("crypto", "random");
    for (let index = 0; index < target.length; ) {
      countCall();
      const text = hostRandom();
      for (let at = 0; at < text.length && index < target.length; at += 2) {
        target[index++] = parseInt(slice(text, at, at + 2), 16);
      }
    }
    return target;
  };

  const hex = (byte) => (byte < 16 ? "0" : "") + byte.toString(16);

  const crypto = freeze({
    getRandomValues(array) {
      if (!isView(array) || array.byteLength > 65536) {
        throw new TypeError("getRandomValues takes a typed array of at most 65536 bytes");
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
        text += (index === 4 || index === 6 || index === 8 || index === 10 ? "-" : "") + hex(bytes[index]);
      }
      return text;
    },
  });

  return { crypto, reseed: (text) => { seed = text; } };
})
