export default (event) => event;
