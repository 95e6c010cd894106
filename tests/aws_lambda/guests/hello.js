export default (event) => ({ greeting: `hello ${event.who}` });
