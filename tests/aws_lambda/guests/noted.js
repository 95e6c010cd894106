// What it gets from any source goes into the log, the only place to see it: nobody waits for its answer.
export default (event) => {
  console.log(`noted ${JSON.stringify(event)}`);
  const told = JSON.stringify(event);
  if (told.includes("fail-this")) throw new Error("told to fail");
};
