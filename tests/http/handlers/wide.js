export default (event) => (event === null ? 0 : JSON.stringify(event).length);
