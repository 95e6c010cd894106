// Takes orders from every source that AWS Lambda has for it. nexus.toml says which; events/ holds a sample of each.
//
//   nexus invoke orders --event '{"queue":"nexus-work","body":{"item":"tea","count":3}}'
//
// What it returns goes nowhere when the event came from a queue, stream or bus: those only learn whether it failed.
export default function (event) {
  if (event["detail-type"] === "Scheduled Event") {
    $log.info("nothing was ordered meanwhile");
    return { ordered: null };
  }
  const order = orderIn(event);

  // A failed call of a batch is delivered again, alone; after some times it goes to the dead letters.
  if (typeof order?.item !== "string") throw new TypeError("an order names an item");

  $log.info(`${order.count ?? 1} of ${order.item}`);
  return { ordered: order.item };
}

function orderIn(event) {
  if (event.bucket !== undefined) return { item: `what ${event.key} lists` };
  if (event.eventName === "REMOVE") return event.oldImage;
  // An SQS message, a Kinesis record, an SNS message, a DynamoDB change, an event of the bus.
  return event.body ?? event.data ?? event.message ?? event.newImage ?? event.detail;
}
