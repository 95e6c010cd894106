export default () => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return { math: [Math.random(), Math.random()], crypto: Array.from(bytes), uuid: crypto.randomUUID() };
};
