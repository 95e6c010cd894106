async function answer(request) {
  const event = await request.json();
  return new Response(JSON.stringify({ greeting: "hello " + event.who }), {
    headers: { "content-type": "application/json" },
  });
}

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));
