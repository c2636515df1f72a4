/** What the client does beyond the transcripts, in virtual time. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";

import * as module from "../../trioserver/http/static/trioserver.js";
import { FakeClock, settled } from "./clock.mjs";
import { FakeServer, READY } from "./server.mjs";

const {
  BufferOverflowError, connect, ConnectionLostError, QueueFullError, RequestRejectedError,
  RequestTimeoutError,
} = module; // prettier-ignore
const URL_OF_THING = "ws://server/ws/things/1";

/** A client, its server, and the states it went through. */
async function world(options = {}, url = URL_OF_THING) {
  const clock = new FakeClock();
  const server = new FakeServer(clock);
  const shared = { clock, WebSocket: server.WebSocket, random: () => 0.5, token: "secret-token" };
  const client = connect(url, { ...shared, ...options });
  const states = [];
  client.addEventListener("state", ({ detail }) => states.push(detail));
  await settled();
  return { clock, server, client, states, names: () => states.map(({ state }) => state) };
}

/** The same, and ready. */
async function ready(options = {}, message = {}) {
  const made = await world(options);
  made.auth = made.server.last.admit(message);
  await settled();
  return made;
}

const limits = (changed) => ({ limits: { ...READY.limits, ...changed } });
const error = (code, retry, more = {}) => ({ type: "error", code, retry, fatal: true, ...more });
const failing = (promise) => promise.then(() => assert.fail("it did not fail"), (why) => why);
const types = (socket) => socket.received.map(({ type }) => type);

/* States, and coming back. */

test("the states are told in order, with a reason in words and the next attempt", async () => {
  const { clock, server, states, names } = await ready();
  assert.deepEqual(names(), ["connecting", "authenticating", "ready"]);
  server.last.end();
  await settled();
  assert.deepEqual(names().slice(3), ["offline"]);
  assert.equal(states[3].retryInMs, 250);
  const lost = "connection_lost: The connection ended without a close code.";
  assert.equal(String(states[3].reason), lost);
  await clock.advance(250);
  server.last.admit();
  await settled();
  assert.deepEqual(names().slice(4), ["reconnecting", "authenticating", "ready"]);
  server.last.say(error("access_denied", "never", { message: "Not yours." }));
  server.last.end(1008, "access_denied");
  await settled();
  assert.equal(String(states.at(-1).reason), "access_denied: Not yours. (close code 1008)");
  assert.equal(names().at(-1), "closed");
  assert.equal(clock.waiting, 0);
});

test("the delays grow, have a cap, and begin anew after a session that held", async () => {
  const { clock, server, client } = await world({ random: () => 1 });
  for (const pause of [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
    const attempts = server.attempts.length;
    server.last.end();
    await settled();
    assert.equal(String(client.reason), "connection_lost: Cannot connect.");
    await clock.advance(pause - 1);
    assert.equal(server.attempts.length, attempts);
    await clock.advance(1);
    assert.equal(server.attempts.length, attempts + 1);
  }
  server.last.admit();
  await clock.advance(29_000);
  server.last.end();
  await clock.advance(29_999);
  assert.equal(client.state, "offline"); // it was ready for less than the longest pause
  await clock.advance(1);
  server.last.admit();
  for (let n = 0; n < 2; n += 1) {
    await clock.advance(20_000);
    server.last.say({ type: "ping" });
  }
  server.last.end();
  await clock.advance(500);
  assert.equal(client.state, "reconnecting");
});

test("the server's advice comes first: its time, its slot, and never", async () => {
  const { clock, server, client, states } = await ready();
  server.last.say(error("rate_limited", "backoff", { retry_after_ms: 5000 }));
  server.last.end(1008, "rate_limited");
  await settled();
  assert.equal(states.at(-1).retryInMs, 5250);
  await clock.advance(5250);
  server.last.admit();
  server.last.say({ type: "goaway", reason: "restart", deadline_ms: 900, reconnect_after_ms: 4000 });
  await clock.advance(1000);
  server.last.end(1012, "restart");
  await settled();
  assert.equal(states.at(-1).retryInMs, 3000);
  await clock.advance(3000);
  server.last.open();
  server.last.end(4001, "disconnected");
  await clock.advance(100_000);
  assert.equal(client.state, "closed");
  assert.equal(server.sockets.length, 3);
});

for (const [code, text, name, retry] of [
  [1000, "", "normal", "never"],
  [1001, "", "shutdown", "backoff"],
  [1002, "", "protocol_error", "never"],
  [4000, "", "heartbeat_timeout", "backoff"],
  [4001, "out_of_words", "disconnected", "never"],
  [1005, "", "connection_lost", "backoff"],
  [1006, "", "connection_lost", "backoff"],
  [1008, "token_expired", "token_expired", "refresh_token"],
  [1008, "", "close_1008", "never"],
  [1008, "out_of_credit", "out_of_credit", "never"],
  [1011, "", "internal_error", "backoff"],
  [3001, "", "close_3001", "backoff"],
  [4000, "heartbeat_timeout", "heartbeat_timeout", "backoff"],
  [4999, "toString", "toString", "never"],
]) {
  test(`a close with ${code} '${text}' alone means ${name}, ${retry}`, () => {
    const reason = module.CloseReason.fromClose(code, text);
    assert.deepEqual([reason.code, reason.retry], [name, retry]);
  });
}

test("an attempt that does not get ready in time is given up", async () => {
  const { clock, server, client } = await world();
  server.last.open();
  await clock.advance(30_000);
  assert.equal(client.reason.code, "connect_timeout");
  assert.deepEqual(server.last.closedWith, { code: 1000, reason: "connect_timeout" });
});

test("a page that is told when to give up does", async () => {
  const { clock, server, client } = await world({ maxAttempts: 2 });
  server.last.end();
  await clock.advance(1000);
  server.last.end();
  await settled();
  assert.equal(client.state, "closed");
  assert.ok((await failing(client.whenReady())) instanceof ConnectionLostError);
});

test("a network that is back cuts the pause short, unless the server asked for it", async () => {
  const listeners = new Set();
  globalThis.addEventListener = (_, listener) => listeners.add(listener);
  globalThis.removeEventListener = (_, listener) => listeners.delete(listener);
  try {
    const { clock, server, client } = await world({ backoff: { firstMs: 30_000 } });
    const back = () => listeners.forEach((listener) => listener());
    back();
    server.last.end();
    back();
    await clock.advance(15_000); // jitter, of the first pause
    server.last.open();
    server.last.say(error("server_busy", "backoff", { retry_after_ms: 60_000 }));
    server.last.end(1013, "server_busy");
    back();
    await clock.advance(59_000);
    assert.equal(client.state, "offline");
    client.reconnect(); // a person may
    assert.equal(client.state, "reconnecting");
    client.close();
    assert.equal(listeners.size, 0);
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

/* Tokens. */

test("a function for the token is asked at each connection, and told why", async () => {
  const asked = [];
  const token = ({ why }) => asked.push(why) && `token-${asked.length}`;
  const { clock, server, auth } = await ready({ token });
  assert.equal(auth.token, "token-1");
  server.last.end();
  await clock.advance(1000);
  assert.equal(server.last.admit().token, "token-2");
  server.last.say(error("token_expired", "refresh_token"));
  server.last.end(1008, "token_expired");
  await clock.advance(0); // at once
  server.last.open();
  assert.equal(server.last.take().token, "token-3");
  server.last.say(error("token_expired", "refresh_token"));
  server.last.end(1008, "token_expired");
  await clock.advance(499); // not at once a second time
  assert.equal(server.sockets.length, 3);
  await clock.advance(1);
  assert.deepEqual(asked, ["connect", "connect", "expired", "expired"]);
});

test("an expired token is not sent a second time", async () => {
  let token = "old";
  const { clock, server, client } = await world({ token: async () => token });
  server.last.open();
  server.last.end(1008, "token_expired");
  await clock.advance(60_000);
  assert.equal(server.sockets.length, 1);
  assert.equal(client.reason.code, "token_unavailable");
  token = "new";
  await clock.advance(60_000);
  server.last.open();
  assert.equal(server.last.take().token, "new");
});

test("without a function an expired token is the end", async () => {
  const { clock, server, client } = await world();
  server.last.open();
  server.last.end(1008, "token_expired");
  await clock.advance(60_000);
  assert.equal(client.state, "closed");
  assert.equal(client.reason.code, "token_expired");
});

test("a function that fails is a failed attempt, or the end where it says so", async () => {
  let failure = new Error("secret detail");
  const { clock, client } = await world({ token: () => Promise.reject(failure) });
  assert.equal(client.state, "offline");
  assert.equal(String(client.reason), "token_unavailable: No token could be obtained.");
  failure = Object.assign(new Error("log in again"), { retry: "never" });
  await clock.advance(60_000);
  assert.equal(client.state, "closed");
  const { client: other } = await world({ token: () => 7 });
  assert.equal(other.reason.code, "token_unavailable");
});

test("a token that nobody gives in time is a failed attempt", async () => {
  const { clock, server, client } = await world({ token: () => new Promise(() => {}) });
  await clock.advance(30_000);
  assert.equal(client.reason.code, "connect_timeout");
  assert.equal(server.sockets.length, 0);
});

test("a token is renewed in-band, and again where that could not be verified", async () => {
  const asked = [];
  const token = ({ why }) => asked.push(why) && `token-${asked.length}`;
  const { clock, server, client } = await ready({ token });
  server.last.say({ type: "auth_expiring", expires_in_ms: 60_000 });
  await settled();
  const first = server.last.take();
  assert.deepEqual([first.type, first.token], ["auth", "token-2"]);
  server.last.say({ type: "error", code: "unavailable", retry: "backoff", fatal: false, id: first.id });
  await clock.advance(14_999);
  assert.deepEqual(server.last.received, []);
  await clock.advance(1);
  const second = server.last.take();
  server.last.say({ type: "auth_refreshed", id: second.id });
  await clock.advance(30_000);
  assert.deepEqual(server.last.received, []);
  assert.deepEqual(asked, ["connect", "expiring", "expiring"]);
  assert.equal(client.state, "ready");
});

test("no token is in anything that can be looked at", async () => {
  const printed = [];
  const methods = ["log", "info", "warn", "error", "debug"];
  const console_ = Object.fromEntries(methods.map((name) => [name, console[name]]));
  methods.forEach((name) => (console[name] = (...words) => printed.push(...words)));
  try {
    const { clock, server, client, states } = await world({ tokenInQuery: true });
    assert.equal(server.last.url, `${URL_OF_THING}?token=secret-token&heartbeat=message`);
    server.last.open();
    assert.deepEqual(server.last.received, []); // it stands in the URL
    const request = failing(client.request("echo"));
    server.last.end(1008, "token_expired");
    await clock.advance(1000);
    const seen = [client, states, await request, client.reason, client.ready, Object.keys(client)];
    assert.doesNotMatch(inspect(seen, { depth: 9, showHidden: true }), /secret-token/);
    assert.doesNotMatch(JSON.stringify(seen), /secret-token/);
    assert.throws(() => connect("http://[secret-token"), (why) => !/secret/.test(inspect(why)));
    assert.deepEqual(printed, []);
  } finally {
    Object.assign(console, console_);
  }
});

/* Requests, and the queue. */

test("what is asked while offline goes out once, in order, when it is back", async () => {
  const { clock, server, client } = await ready();
  server.last.end();
  await settled();
  const payload = { text: "one" };
  const answers = [client.request("note", payload), client.send("seen", 2), client.publish("news", 3)];
  payload.text = "changed afterwards";
  assert.equal(client.queued, 3);
  await clock.advance(250);
  server.last.admit();
  await settled();
  const [note, seen, publish] = server.last.received.splice(0);
  assert.deepEqual(note, { type: "note", id: note.id, data: { text: "one" } });
  assert.deepEqual(seen, { type: "seen", data: 2 });
  assert.deepEqual([publish.type, publish.topic, publish.data], ["publish", "news", 3]);
  server.last.say({ type: "ack", id: note.id, data: "done" });
  server.last.say({ type: "ack", id: publish.id, data: { offset: 7 } });
  assert.deepEqual(await Promise.all(answers), ["done", undefined, 7]);
  server.last.end();
  await clock.advance(1000);
  server.last.admit();
  await clock.advance(1000);
  assert.deepEqual(server.last.received, []); // and only once
});

test("what was under way when the connection was lost is told, and not repeated", async () => {
  const { clock, server, client } = await ready();
  const sent = failing(client.request("pay", { amount: 1 }));
  await settled();
  server.last.end();
  const queued = client.request("note");
  const why = await sent;
  assert.ok(why instanceof ConnectionLostError);
  assert.equal(why.sent, true);
  await clock.advance(250);
  server.last.admit();
  await settled();
  assert.deepEqual(types(server.last), ["note"]);
  server.last.say({ type: "ack", id: server.last.take().id });
  assert.equal(await queued, null);
});

test("of several requests under way each is rejected with an error of its own", async () => {
  const { server, client } = await ready();
  const asked = [failing(client.request("pay", 1)), failing(client.request("pay", 2))];
  await settled();
  server.last.end();
  const [first, second] = await Promise.all(asked);
  assert.notEqual(first, second);
  assert.equal(first.reason, second.reason);
});

test("the queue has bounds, in messages and in bytes", async () => {
  const { client } = await world({ maxQueue: 2, maxQueueBytes: 100 });
  const kept = client.request("note", "x".repeat(90));
  assert.ok((await failing(client.request("note", "x".repeat(20)))) instanceof QueueFullError);
  const small = client.request("note", 1);
  assert.ok((await failing(client.request("note", 2))) instanceof QueueFullError);
  assert.equal(client.queued, 2);
  client.close();
  for (const why of [await failing(kept), await failing(small)]) assert.equal(why.sent, false);
  assert.equal(client.queued, 0);
});

test("what waits for too long, is aborted, or must not wait, is never sent", async () => {
  const { clock, server, client } = await world({ queueTimeoutMs: 5000 });
  const abort = new AbortController();
  const late = failing(client.request("late"));
  const aborted = failing(client.request("aborted", null, { signal: abort.signal }));
  const now = await failing(client.request("now", null, { queueTimeoutMs: 0 }));
  assert.equal(now.sent, false);
  assert.ok(now instanceof ConnectionLostError);
  abort.abort(new Error("changed my mind"));
  assert.equal((await aborted).message, "changed my mind");
  assert.equal(await failing(client.request("x", 1, { signal: abort.signal })), abort.signal.reason);
  await clock.advance(5000);
  const why = await late;
  assert.ok(why instanceof RequestTimeoutError);
  assert.equal(why.sent, false);
  server.last.admit();
  await clock.advance(1000);
  assert.deepEqual(server.last.received, []);
});

test("a request without an answer says that it was sent; a late answer is nobody's", async () => {
  const { clock, server, client } = await ready();
  const asked = failing(client.request("slow", null, { timeoutMs: 100 }));
  await clock.advance(100);
  const why = await asked;
  assert.ok(why instanceof RequestTimeoutError);
  assert.equal(why.sent, true);
  server.last.say({ type: "ack", id: server.last.take().id });
  assert.equal(client.state, "ready");
});

test("a backlog goes out no faster than the server takes it", async () => {
  const { clock, server, client } = await world();
  for (let n = 0; n < 25; n += 1) client.send("note", n);
  server.last.admit(limits({ messages_per_second: 10 }));
  await settled();
  assert.equal(server.last.received.length, 10);
  client.send("note", 25); // behind the others
  await clock.advance(1000);
  assert.equal(server.last.received.length, 20);
  await clock.advance(1000);
  assert.deepEqual(server.last.received.map(({ data }) => data), [...Array(26).keys()]);
  assert.equal(clock.waiting, 1); // for the server's sign of life
});

test("no more is under way than the server takes, nor more bytes than the socket", async () => {
  const { clock, server, client } = await ready({}, limits({ max_in_flight: 2 }));
  const answers = [1, 2, 3].map((n) => client.request("note", n));
  await settled();
  assert.equal(server.last.received.length, 2);
  server.last.say({ type: "ack", id: server.last.take().id });
  await settled();
  assert.equal(server.last.received.length, 2);
  server.last.bufferedAmount = 1_000_000;
  server.last.say({ type: "ack", id: server.last.take().id });
  server.last.say({ type: "ack", id: server.last.take().id });
  await Promise.all(answers);
  client.send("note", 4);
  await clock.advance(1000);
  assert.deepEqual(server.last.received, []);
  server.last.bufferedAmount = 0;
  await clock.advance(50);
  assert.deepEqual(types(server.last), ["note"]);
});

test("a refusal is the request's own, with its advice", async () => {
  const { server, client } = await ready();
  const asked = failing(client.request("note"));
  await settled();
  const { id } = server.last.take();
  const refusal = { type: "error", code: "rate_limited", retry: "backoff", fatal: false };
  server.last.say({ ...refusal, retry_after_ms: 500, id });
  const why = await asked;
  assert.ok(why instanceof RequestRejectedError);
  assert.deepEqual([why.code, why.retry, why.retryAfterMs], ["rate_limited", "backoff", 500]);
  assert.equal(client.state, "ready");
});

test("a message that would cost the connection is not sent: bytes count, not letters", async () => {
  const { server, client } = await ready({}, limits({ max_message_bytes: 100 }));
  const why = await failing(client.request("note", "ü".repeat(50)));
  assert.deepEqual([why.code, why.retry], ["message_too_big", "never"]);
  assert.deepEqual(server.last.received, []);
});

test("a ping measures the way there and back", async () => {
  const { clock, server, client } = await ready();
  const asked = client.ping();
  await clock.advance(40);
  server.last.say({ type: "pong", id: server.last.take().id });
  assert.equal(await asked, 40);
});

/* Streams. */

test("a stream is iterated to its end, with what came last", async () => {
  const { server, client } = await ready();
  const stream = client.stream("count", { to: 2 });
  await settled();
  const { id, data } = server.last.take();
  assert.deepEqual(data, { to: 2 });
  server.last.say({ type: "chunk", id, seq: 0, data: "a" });
  server.last.say({ type: "chunk", id, seq: 1, data: null });
  server.last.say({ type: "end", id, data: "total" });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.deepEqual(chunks, ["a", null]);
  assert.equal(stream.result, "total");
});

test("leaving a stream's loop cancels it once, and what still comes is nobody's", async () => {
  const { server, client } = await ready();
  const stream = client.stream("forever");
  await settled();
  const { id } = server.last.take();
  server.last.say({ type: "chunk", id, seq: 0, data: 0 });
  for await (const chunk of stream) {
    assert.equal(chunk, 0);
    break;
  }
  stream.cancel();
  assert.deepEqual(server.last.received.splice(0), [{ type: "cancel", id }]);
  server.last.say({ type: "chunk", id, seq: 1, data: 1 });
  server.last.say({ type: "end", id, cancelled: true });
  assert.deepEqual(await stream.next(), { value: undefined, done: true });
  assert.equal(client.state, "ready");
});

test("a stream that was never sent is cancelled without a word", async () => {
  const { server, client } = await world();
  client.stream("forever").cancel();
  assert.equal(client.queued, 0);
  server.last.admit();
  await settled();
  assert.deepEqual(server.last.received, []);
});

test("a stream says what ended it: a refusal, the connection, its reader, its server", async () => {
  const { server, client } = await ready({ maxBufferBytes: 3000 });
  const begin = async () => {
    const stream = client.stream("count");
    await settled();
    return [stream, server.last.take().id];
  };
  const [refused, first] = await begin();
  server.last.say({ type: "error", code: "not_found", retry: "never", fatal: false, id: first });
  assert.equal((await failing(refused.next())).code, "not_found");

  const [slow, second] = await begin();
  for (let seq = 0; seq < 20; seq += 1) server.last.say({ type: "chunk", id: second, seq, data: seq });
  assert.deepEqual(types(server.last), ["cancel"]);
  let taken = 0;
  const why = await failing((async () => {
    for await (const chunk of slow) assert.equal(chunk, taken++);
  })());
  assert.ok(why instanceof BufferOverflowError);
  assert.ok(taken > 3 && taken < 20);

  server.last.received.length = 0;
  const [broken, third] = await begin();
  server.last.say({ type: "chunk", id: third, seq: 5, data: 0 });
  assert.equal((await failing(broken.next())).reason.code, "protocol_error");
  assert.equal(client.state, "closed");
  assert.equal((await failing(client.stream("count").next())).sent, false);
});

/* Topics. */

test("subscriptions are asked for again after a reconnect, and say that there is a gap", async () => {
  const { clock, server, client } = await ready();
  const news = client.subscribe("news");
  const asked = server.last.take();
  assert.deepEqual(asked.topics, ["news"]);
  server.last.say({ type: "ack", id: asked.id });
  await news.active;
  server.last.say({ type: "event", topic: "news", offset: 0, data: "a" });
  server.last.say({ type: "event", topic: "other", offset: 0, data: "not ours" });
  server.last.end();
  await clock.advance(250);
  server.last.admit();
  await settled();
  assert.deepEqual(server.last.take().topics, ["news"]);
  server.last.say({ type: "event", topic: "news", offset: 9, data: "b" });
  server.last.say({ type: "event", topic: "news", offset: 10, data: "c" });
  const heard = [];
  for await (const { data, gap } of news) if (heard.push([data, gap]) === 3) break;
  assert.deepEqual(heard, [["a", false], ["b", true], ["c", false]]);
  assert.deepEqual(types(server.last), ["unsubscribe"]);
});

test("two that hear the same topic are told once each, and the last one leaves it", async () => {
  const { server, client } = await ready();
  const heard = [];
  const ended = [];
  const onEnd = (why) => ended.push(why);
  const first = client.subscribe(["news", "news"], ({ data }) => heard.push(["first", data]), { onEnd });
  const second = client.subscribe(["news", "more"], ({ data }) => heard.push(["second", data]));
  server.last.received.length = 0;
  server.last.say({ type: "event", topic: "news", offset: 0, data: 1 });
  assert.deepEqual(heard, [["first", 1], ["second", 1]]);
  first.close();
  first.close();
  assert.deepEqual(server.last.received, []);
  second.close();
  assert.deepEqual(server.last.take().topics, ["news", "more"]);
  assert.deepEqual(ended, [null]);
});

test("a subscription that is refused says so, before and after a reconnect", async () => {
  const { clock, server, client } = await ready();
  const ended = [];
  const news = client.subscribe("news", () => {}, { onEnd: (why) => ended.push(why.code) });
  const refuse = () => {
    const { id } = server.last.take();
    server.last.say({ type: "error", code: "forbidden", retry: "never", fatal: false, id });
  };
  refuse();
  assert.equal((await failing(news.active)).code, "forbidden");
  const later = client.subscribe("later");
  server.last.say({ type: "ack", id: server.last.take().id });
  server.last.end();
  await clock.advance(250);
  server.last.admit();
  await settled();
  refuse();
  assert.equal((await failing(later.next())).code, "forbidden");
  assert.deepEqual(ended, ["forbidden"]);
});

test("a subscriber that is behind is told how much it missed, and goes on", async () => {
  const { server, client } = await ready({ maxBufferBytes: 1000 });
  const news = client.subscribe("news");
  for (let n = 0; n < 10; n += 1) server.last.say({ type: "event", topic: "news", offset: n, data: n });
  const heard = [];
  let missed = 0;
  for (;;) {
    try {
      heard.push((await news.next()).value.data);
      if (heard.at(-1) === 99) break;
    } catch (why) {
      missed = why.missed;
      server.last.say({ type: "event", topic: "news", offset: 99, data: 99 });
    }
  }
  assert.equal(missed + heard.length, 11);
  assert.ok(missed > 0);
});

test("what a page's own function throws is the page's, and stops nothing else", async () => {
  const thrown = [];
  const own = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (why) => thrown.push(why.message));
  try {
    const { server, client } = await ready();
    const heard = [];
    client.subscribe("news", () => {
      throw new Error("the page's own");
    });
    client.subscribe("news", ({ data }) => heard.push(data));
    server.last.say({ type: "event", topic: "news", offset: 0, data: 1 });
    await settled();
    assert.deepEqual(heard, [1]);
    assert.deepEqual(thrown, ["the page's own"]);
    assert.equal(client.state, "ready");
  } finally {
    process.removeAllListeners("uncaughtException");
    own.forEach((listener) => process.on("uncaughtException", listener));
  }
});

/* What the application sends by itself. */

test("pushed messages are events, and an iteration for each that wants one", async () => {
  const { server, client } = await ready();
  const heard = [];
  client.addEventListener("message", ({ detail }) => heard.push(detail));
  const first = client.messages();
  server.last.say({ type: "welcome", data: { user: "alice" } });
  server.last.say({ type: "toString", data: 1 });
  assert.deepEqual(heard, [{ type: "welcome", data: { user: "alice" }, id: undefined }]);
  assert.deepEqual((await first.next()).value, heard[0]);
});

test("kept messages are handed over once, in order, and then acknowledged", async () => {
  const taken = [];
  let fail = true;
  const onStoredMessage = async ({ id, data }) => {
    taken.push([id, data]);
    if (id === "m2" && fail) throw new Error("no room");
  };
  const { clock, server, auth } = await ready({ onStoredMessage });
  assert.equal(auth.mailbox, "ack");
  const say = (id, data) => server.last.say({ type: "note", id, data });
  say("m1", 1);
  say("m2", 2);
  say("m1", 1); // again, before it was handed over
  await settled();
  assert.deepEqual(taken, [["m1", 1], ["m2", 2]]);
  assert.deepEqual(server.last.received.splice(0), [{ type: "mailbox.ack", data: { ids: ["m1"] } }]);
  server.last.end();
  await clock.advance(250);
  server.last.admit();
  fail = false;
  say("m1", 1); // its acknowledgement was lost
  say("m2", 2);
  await settled();
  assert.deepEqual(taken.slice(2), [["m2", 2]]);
  const acknowledged = server.last.received.map(({ data }) => data.ids[0]);
  assert.deepEqual(acknowledged, ["m1", "m2"]);
});

/* A server that is silent, or speaks another language. */

test("a silent server is noticed, and the next connection is not far", async () => {
  const { clock, server, client } = await ready();
  await clock.advance(30_000);
  server.last.say({ type: "ping", id: "p", data: 5 });
  assert.deepEqual(server.last.take(), { type: "pong", id: "p", data: 5 });
  await clock.advance(39_999);
  assert.equal(client.state, "ready");
  await clock.advance(1);
  assert.equal(client.state, "offline");
  assert.equal(client.reason.code, "server_silent");
});

test("a machine that slept asks before it gives the server up", async () => {
  const { clock, server, client } = await ready();
  clock.sleep(3_600_000);
  await settled();
  await clock.advance(0);
  assert.deepEqual(types(server.last), ["ping"]);
  await clock.advance(9_000);
  server.last.say({ type: "pong", id: server.last.take().id });
  await clock.advance(30_000);
  assert.equal(client.state, "ready");
  clock.sleep(3_600_000);
  await clock.advance(10_000);
  assert.equal(client.reason.code, "server_silent");
});

for (const [name, text] of Object.entries({
  "no JSON": "hello",
  "a list": "[1]",
  null: "null",
  "no type": "{}",
  "a bad type": '{"type":"Hello"}',
  "a number for a type": '{"type":5}',
  "a second ready": JSON.stringify(READY),
  "a second hello": '{"type":"hello","protocol":"trioserver.v1","auth_timeout_ms":1}',
  "an ack without an id": '{"type":"ack"}',
  "an error without advice": '{"type":"error","code":"x","message":"","fatal":true}',
  "an error that is half fatal": '{"type":"error","code":"x","message":"","retry":"never","fatal":1}',
  "an event without an offset": '{"type":"event","topic":"x","data":1}',
  "a goaway without a time": '{"type":"goaway","reason":"shutdown","deadline_ms":1}',
  binary: new ArrayBuffer(8),
})) {
  test(`a server that says ${name} does not speak this protocol`, async () => {
    const { clock, server, client } = await ready();
    const asked = failing(client.request("note"));
    await settled();
    server.last.text(text);
    assert.equal((await asked).reason.code, "protocol_error");
    assert.equal(client.reason.closeCode, 1002);
    assert.deepEqual(server.last.closedWith, { code: 4900, reason: "protocol_error" });
    await clock.advance(60_000);
    assert.equal(server.sockets.length, 1);
    assert.equal(clock.waiting, 0);
  });
}

test("unknown fields, types and errors are ignored, or handled by their advice", async () => {
  const { server, client } = await ready({}, { surprise: 1, __proto__: null });
  server.last.say({ type: "constructor", data: 1 });
  server.last.say({ type: "error", code: "brand_new", retry: "never", fatal: false });
  server.last.say({ type: "ack", id: 99 });
  server.last.say({ type: "chunk", id: "1", seq: 7, data: 1 });
  assert.equal(client.state, "ready");
  server.last.say(error("brand_new", "backoff"));
  server.last.end(1008, "brand_new");
  assert.equal(client.state, "offline");
});

test("what a newer server says before ready is ignored", async () => {
  const session = new module.ClientProtocol(0);
  assert.equal(session.receive('{"type":"server_info","data":1}', 0), null);
  session.authenticate("t");
  assert.equal(session.receive('{"type":"auth_progress"}', 0), null);
  assert.equal(session.state, "authenticating");
  assert.throws(() => session.receive('{"type":"ack","id":1}', 0), module.ProtocolError);
});

test("an unknown retry means backoff, of a request and of the connection", async () => {
  const { server, client } = await ready();
  const asked = failing(client.request("note"));
  await settled();
  const { id } = server.last.take();
  server.last.say({ type: "error", code: "new", retry: "elsewhere", fatal: false, id });
  assert.equal((await asked).retry, "backoff");
  server.last.say(error("new", "elsewhere"));
  server.last.end(4321, "new");
  assert.equal(client.reason.retry, "backoff");
  assert.equal(client.state, "offline");
});

/* Leaving. */

test("leaving says goodbye once, tells everybody, and leaves nothing behind", async () => {
  const { clock, server, client } = await ready();
  const request = failing(client.request("note"));
  const stream = client.stream("forever");
  const news = client.subscribe("news");
  const messages = client.messages();
  await settled();
  const over = [client.close(), client.close()];
  const late = failing(client.request("late"));
  assert.deepEqual(server.last.closedWith, { code: 1000, reason: undefined });
  server.last.end(1000);
  await Promise.all(over);
  assert.equal((await request).sent, true);
  assert.equal((await late).sent, false);
  for (const each of [stream, news, messages]) {
    assert.equal((await failing(each.next())).reason.code, "closed");
  }
  assert.equal((await failing(client.whenReady())).reason.code, "closed");
  assert.equal((await failing(client.request("note"))).sent, false);
  assert.equal((await failing(client.subscribe("x").next())).reason.code, "closed");
  assert.equal((await failing(client.refresh("x"))).sent, false);
  await client.close();
  assert.equal(clock.waiting, 0);
});

test("leaving waits no longer than five seconds for a server that says nothing", async () => {
  const { clock, client } = await ready();
  client.close();
  await clock.advance(5000);
  assert.equal(client.state, "closed");
});

test("leaving is possible at any moment", async () => {
  const clock = new FakeClock();
  const server = new FakeServer(clock);
  const early = connect(URL_OF_THING, { clock, WebSocket: server.WebSocket });
  await early.close();
  await settled();
  assert.equal(server.sockets.length, 0);
  const asking = await world({ token: () => new Promise(() => {}) });
  await asking.client.close();
  assert.equal(asking.clock.waiting, 0);
  const connecting = await world();
  await connecting.client.close();
  const pausing = await world();
  pausing.server.last.end();
  await pausing.client.close();
  await pausing.clock.advance(60_000);
  assert.equal(pausing.server.sockets.length, 1);
});

test("a server that has finished ends the iterations quietly", async () => {
  const { server, client } = await ready();
  const news = client.subscribe("news");
  server.last.end(1000);
  assert.deepEqual(await news.next(), { value: undefined, done: true });
  assert.equal(client.reason.code, "normal");
  assert.ok((await failing(client.request("note"))) instanceof ConnectionLostError);
});

/* What cannot be. */

test("bad options and URLs are refused where they are given", () => {
  const { WebSocket } = new FakeServer(new FakeClock());
  for (const options of [
    { token: 7 }, { tokn: "x" }, { heartbeat: "drum" }, { readyTimeoutMs: 0 },
    { onStoredMessage: true },
    { requestTimeoutMs: NaN }, { WebSocket: undefined, clock: new FakeClock() },
  ]) {
    const kinds = (why) => why instanceof TypeError || why instanceof RangeError;
    assert.throws(() => connect(URL_OF_THING, { WebSocket, ...options }), kinds);
  }
  for (const url of ["/ws/1", "ftp://x/", "ws://u:p@x/", "ws://x/#a", "", "ws://"]) {
    assert.throws(() => connect(url, { WebSocket }), TypeError);
  }
});

test("ws or wss is the page's, where the URL does not say", async () => {
  globalThis.location = { href: "https://example.org/page?x=1" };
  try {
    const { server } = await world({}, "/ws/rooms/1");
    assert.equal(server.last.url, "wss://example.org/ws/rooms/1");
  } finally {
    delete globalThis.location;
  }
});

test("a WebSocket that cannot be made is the end", async () => {
  const WebSocket = class {
    constructor(url) {
      throw new SyntaxError(url);
    }
  };
  const { client } = await world({ WebSocket, tokenInQuery: true });
  assert.equal(client.reason.code, "bad_url");
  assert.doesNotMatch(String(client.reason), /secret/);
});

test("bad types and data are refused, and nothing is sent", async () => {
  const { server, client } = await ready();
  const circular = {};
  circular.self = circular;
  for (const type of ["", "Note", "a b", "x".repeat(65), "auth", "ack", 7, undefined]) {
    assert.ok((await failing(client.request(type))) instanceof TypeError);
    assert.ok((await failing(client.send(type))) instanceof TypeError);
    assert.throws(() => client.stream(type), TypeError);
  }
  for (const data of [circular, () => {}, 1n, Symbol("x"), "\ud800", { "\udc00": 1 }]) {
    assert.ok((await failing(client.request("note", data))) instanceof TypeError);
  }
  assert.throws(() => client.subscribe([]), RangeError);
  assert.throws(() => client.subscribe([...Array(101).keys()]), RangeError);
  assert.deepEqual(server.last.received, []);
  client.send("note", "\\ud800 is text, and so is 🌍");
  assert.equal(server.last.take().data, "\\ud800 is text, and so is 🌍");
});

test("a session does not speak out of turn", () => {
  const session = new module.ClientProtocol(0);
  assert.throws(() => session.request("note"), /auth_required/);
  session.authenticate("t");
  assert.throws(() => session.authenticate("t"), /auth_required/);
  session.lost();
  assert.throws(() => session.send("note"), /disconnected/);
});
