export default (event) => ({ body: event.body, isBase64Encoded: event.isBase64Encoded, text: true });
