export default (event) => { throw new TypeError(`nothing to do with ${event.what}`); };
