// Has a minute of its own, which is more than the function has.
export default () => { for (;;); };
