// The smallest handler: one file, one function. It may do nothing but compute, and needs no manifest.
//
//   nexus invoke hello --event '{"who":"bob"}'
//   curl -s localhost:8080/invoke/hello -d '{"who":"bob"}'
//
// `event` is the JSON the caller sent, null when it sent nothing. What is returned is the answer.
export default function (event) {
  return { greeting: "hello " + (event?.who ?? "world") };
}
