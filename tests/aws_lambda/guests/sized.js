export default (event) => "x".repeat(event.bytes);
