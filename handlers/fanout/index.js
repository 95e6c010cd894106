// Fetches several pages at once and tells how each went.
//
//   nexus invoke fanout --event '{"urls":["https://example.com/","https://example.org/"]}'
//
// A handler has no network of its own: `$ext.http` asks the host to fetch, and the host does so only
// for the names that nexus.toml allows.
export default async function (event, ctx) {
  const urls = event?.urls ?? ["https://example.com/", "https://example.org/"];

  // Promise.all hands all requests to the host at once, so the call takes as long as the slowest one.
  // While they are under way the handler computes nothing and blocks nobody.
  const pages = await Promise.all(urls.map(fetchPage));

  $log.info("fetched", pages.length, "pages,", Math.round(ctx.remainingMs()), "ms left");
  return { pages, reached: pages.filter((page) => page.status === 200).length };
}

async function fetchPage(url) {
  try {
    // The answer is {status, url, headers, body, bodyEncoding}; a 404 is an answer like any other.
    const { status, headers, body } = await $ext.http.get(url, { timeoutMs: 3000 });
    return { url, status, type: headers["content-type"], length: body.length };
  } catch (error) {
    // EgressDenied (not allowed by nexus.toml), HttpTimeout, HttpError (nobody answers), ...
    return { url, error: error.name, message: error.message };
  }
}
