// Node's clients: node node_clients.mjs NAME URL TOKEN QUESTION
import { converse } from "./conversation.mjs";

const [name, url, token, question] = process.argv.slice(2);
const clients = {
  ws: async () => (await import("ws")).default,
  undici: async () => (await import("undici")).WebSocket,
  "built in": async () => globalThis.WebSocket,
};
const client = await clients[name]();
if (client === undefined) {
  console.log("missing");
} else {
  console.log(await converse(client, url, token, question));
}
process.exit(0);
