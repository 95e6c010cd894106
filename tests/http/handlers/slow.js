// Computes for `event.ms` milliseconds, and then tells when it was done.
export default (event) => {
  const end = Date.now() + event.ms;
  while (Date.now() < end);
  return "done";
};
