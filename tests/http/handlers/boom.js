export default () => {
  console.log("a line of the operator's log");
  throw new TypeError("no such luck");
};
