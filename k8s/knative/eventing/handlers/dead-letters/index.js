// Takes what could not be handled, as a plain request: by its type it would come to the handler that failed.
// It only tells of it in the log. Where events must not be lost, put a store here, apart from what failed.
export default function (request) {
  const of = (name) => request.headers[`ce-${name}`];
  $log.error("an event was not handled", {
    id: of("id"),
    type: of("type"),
    source: of("source"),
    status: of("knativeerrorcode"),
    answer: of("knativeerrordata"),
  });
  return { status: 202 };
}
