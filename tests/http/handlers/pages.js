// Answers with whatever response the request's body asks for; without one, with what it was told.
export default (event) => (event.method === "POST" || event.method === "PUT" ? event.body : event);
