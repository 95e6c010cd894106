// The work of the HTTP rows: the peers in bench/guests/ answer the same JSON.
export default function (event) {
  return { greeting: "hello " + event.who };
}
