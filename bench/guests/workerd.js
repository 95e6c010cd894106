export default {
  async fetch(request) {
    const event = await request.json();
    return Response.json({ greeting: "hello " + event.who });
  },
};
