export default (event) => event.text.length;
