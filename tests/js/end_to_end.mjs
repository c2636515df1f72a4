/**
 * The client against a running demo: `node end_to_end.mjs`, and on standard input a line of JSON with
 * what the demo printed, then one for each time that the demo was started again. What happened comes
 * out as lines of JSON.
 */
import { createInterface } from "node:readline";

import { connect } from "../../trioserver/http/static/trioserver.js";
import { SmallWebSocket } from "./websocket.mjs";

const WebSocket = globalThis.WebSocket ?? SmallWebSocket;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const next = async () => JSON.parse((await lines.next()).value);
const say = (what) => console.log(JSON.stringify(what));

const { ws, tokens, conversations } = await next();
const [id] = conversations.alice;
const url = `${ws}/ws/conversations/${id}`;

for (const token of ["forged", tokens.bob, tokens.alice_expired]) {
  const refused = connect(url, { token, WebSocket });
  await refused.whenReady().catch(({ reason }) => say({ refused: String(reason) }));
}

let asked = 0;
const token = () => (asked++ === 0 ? tokens.alice_expired : tokens.alice);
const client = connect(url, { token, WebSocket, backoff: { firstMs: 100, maximumMs: 200 } });
client.addEventListener("state", ({ detail }) => say({ state: detail.state }));
const { user, heartbeat } = await client.whenReady();
say({ user: user.id, heartbeat: heartbeat.mode });
const { message_id: first } = await client.request("message", { text: "I like trees" });
const kinds = [];
for await (const { kind } of client.stream("ask", { text: "What about trees?" })) {
  kinds.push(kind);
  if (kinds.length === 4) break;
}
say({ kinds, ping: (await client.ping()) < 5000 });

say("stop it");
await next();
const typed = client.request("message", { text: "typed while offline" });
say({ queued: client.queued });
await next();
const { message_id: second } = await typed;
const { messages } = await client.request("history", { limit: 10 });
const times = messages.filter(({ text }) => text === "typed while offline").length;
say({ later: second > first, times, socket: WebSocket === SmallWebSocket ? "small" : "built in" });
await client.close();
say({ closed: client.reason.code });
process.exit(0);
