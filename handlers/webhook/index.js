// Answers a route of its own. nexus.toml says which:
//
//   curl -si localhost:8080/users/7
//   curl -si localhost:8080/users/8
//
// The event of a route is {method, path, params, query, rawQuery, headers, body, isBase64Encoded}.
const USERS = {
  7: { name: "Ada", roles: ["admin"] },
  9: { name: "Grace", roles: [] },
};

export default function ({ params, query }) {
  const user = Object.hasOwn(USERS, params.id) ? USERS[params.id] : undefined;

  // An object with a status is the response itself: headers and body are optional.
  if (user === undefined) {
    return { status: 404, headers: { "content-type": "text/plain" }, body: `no user ${params.id}\n` };
  }

  // Anything else is sent as JSON, with status 200.
  return query.fields === "name" ? { id: params.id, name: user.name } : { id: params.id, ...user };
}
