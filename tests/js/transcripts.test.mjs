/**
 * Every transcript of the protocol, replayed against the client in virtual time.
 *
 * What this client never does is not done: text that is no message, binary, frames, words before
 * `ready`, silence at a ping, more requests than the server takes. The server's answers to it are
 * played all the same; those to a request that was not made carry an id the client does not know.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import {
  connect, ConnectionLostError, ReconnectPolicy,
} from "../../trioserver/http/static/trioserver.js"; // prettier-ignore
import { FakeClock, settled } from "./clock.mjs";
import { FakeServer, WILDCARDS, whole } from "./server.mjs";

const FOLDER = new URL("../../protocol/transcripts/", import.meta.url);
const NAMES = readdirSync(FOLDER).filter((name) => name.endsWith(".json")).sort();
const SPEAKABLE = ["type", "token", "topic", "data"]; // fields that the public API sets
const random = () => 0.5;

function load(file) {
  return JSON.parse(readFileSync(new URL(file, FOLDER), "utf8"));
}

function urlOf(setup) {
  return `ws://server${setup.route.replace(/\{(\w+)\}/g, (_, name) => setup.resource[name])}`;
}

/** The message that a step of the client's sends; empty where it is garbage, or none. */
function wordsOf(step) {
  let message = step.message;
  if (step.repeat !== undefined) {
    const { before = "", text, times, after = "" } = step.repeat;
    try {
      message = JSON.parse(before + text.repeat(times) + after);
    } catch {
      return {};
    }
  }
  const { events, ...words } = structuredClone(message ?? {});
  if (events !== undefined) words.topics = events; // its older name
  for (const [name, value] of Object.entries(words)) {
    if (value?.$token !== undefined) words[name] = `token-${value.$token}`;
    if (value === null && name !== "data") delete words[name];
  }
  return words;
}

/** The fields of `expected` are there and equal; others do not matter. */
function fits(expected, actual) {
  for (const [name, value] of Object.entries(expected)) assert.deepEqual(actual[name], value, name);
}

/** Something that the client is asked for. `heard`: what no step has explained so far. */
class Asked {
  constructor(message) {
    this.message = message;
    this.id = undefined;
    this.heard = [];
    this.over = false;
    this.cancelled = false;
    this.abort = new AbortController();
  }

  run(client, others) {
    const { type, data, topic, topics, token, id } = this.message;
    const hear = (what) => this.heard.push(what);
    const { signal } = this.abort;
    const wanted = { signal };
    if (type === "auth") return this.#wait(client.refresh(token), () => "auth_refreshed");
    if (type === "ping") return this.#wait(client.ping(), () => "pong");
    if (type === "publish") return this.#wait(client.publish(topic, data, wanted), () => "ack");
    if (type === "subscribe") {
      this.subscription = client.subscribe(topics, hear, {
        onEnd: (error) => this.#end(error, "closed"),
      });
      this.subscription.active.then(() => hear("ack"), () => {});
      return undefined;
    }
    if (type === "unsubscribe") {
      others.find((other) => other.subscription !== undefined).subscription.close();
      hear("ack"); // the page need not wait for it
      this.over = true;
      return undefined;
    }
    if (type === "count" || type === "forever") {
      this.stream = client.stream(type, data, wanted);
      return this.#iterate();
    }
    if (id === undefined) return this.#wait(client.send(type, data), () => undefined, false);
    return this.#wait(client.request(type, data, wanted), (answer) => answer);
  }

  async #wait(promise, told, answered = true) {
    try {
      const answer = await promise;
      if (answered) this.#end(null, told(answer));
      else this.over = true;
    } catch (error) {
      this.#end(error);
    }
  }

  async #iterate() {
    try {
      for await (const chunk of this.stream) this.heard.push(chunk);
      this.#end(null, "end");
    } catch (error) {
      this.#end(error);
    }
  }

  #end(error, told) {
    this.over = true;
    if (error?.name === "AbortError") return;
    if (error instanceof ConnectionLostError) this.heard.push(error.reason);
    else if (error) this.heard.push([error.code, error.retry, error.retryAfterMs]);
    else if (told !== "closed") this.heard.push(told);
  }

  /** What must be heard when the server says this. */
  expected(said) {
    if (said.type === "error") {
      return [said.code, adviceOf(said.retry), said.retry_after_ms ?? null];
    }
    if (said.type === "chunk") return said.data;
    if (said.type === "event") {
      return { topic: said.topic, offset: said.offset, data: said.data, gap: false };
    }
    if (said.type !== "ack") return said.type;
    const reserved = ["subscribe", "unsubscribe", "publish"].includes(this.message.type);
    return reserved ? "ack" : (said.data ?? null);
  }
}

class Replay {
  constructor(script) {
    this.script = script;
    this.clock = new FakeClock();
    this.server = new FakeServer(this.clock);
    this.calls = [];
    this.unsaid = [];
    this.pushed = [];
    this.fatal = null;
    this.left = false;
  }

  async run() {
    await this.#begin();
    for (const step of this.script.steps) {
      for (let n = 0; n < (step.times ?? 1); n += 1) {
        await this.clock.advanceTo(step.at_ms);
        await this.#play(step);
      }
    }
    await this.#over();
  }

  async #begin() {
    const first = this.script.steps.find((step) => step.from === "client");
    const words = first === undefined ? {} : wordsOf(first);
    this.opening = ["auth", "initial"].includes(words.type) ? words : { type: "auth" };
    const { token, heartbeat, ...initial } = this.opening;
    const options = { reconnect: false, clock: this.clock, WebSocket: this.server.WebSocket };
    if (isText(token)) options.token = token;
    else if (token !== undefined) initial.token = token;
    if (["frame", "message"].includes(heartbeat)) options.heartbeat = heartbeat;
    else if (heartbeat !== undefined) initial.heartbeat = heartbeat; // a word of a newer client
    this.client = connect(urlOf(this.script.setup), { ...options, initial });
    this.client.addEventListener("message", ({ detail }) => this.pushed.push(detail));
    await settled();
    this.socket = this.server.last;
    this.socket.answersPings = isFrames(this.script);
    assert.equal(this.socket.url, urlOf(this.script.setup));
    this.socket.open();
    await settled();
    fits({ heartbeat: "message", ...this.opening }, this.socket.take());
    assert.equal(this.client.state, "authenticating");
  }

  async #play(step) {
    if (step.from === "server") await this.#hear(step);
    else if (step.from === "client" && step.close !== undefined) await this.#leave();
    else if (step.vanish) this.left = true; // the page is gone: there is nothing to judge
    else if (step.from === "client") await this.#sayOrNot(wordsOf(step));
    assert.equal(this.socket.received.length, 0, "the client says nothing by itself");
    assert.deepEqual(this.pushed, []);
  }

  async #over() {
    if (this.left && this.client.state !== "closed") {
      this.socket.end();
      await settled();
    }
    assert.equal(this.client.state, "closed");
    assert.equal(this.clock.waiting, 0, "no timer is left behind");
    assert.equal(this.server.sockets.length, 1);
  }

  /* The client's steps. */

  async #sayOrNot(message) {
    if (this.client.state === "ready" && this.#canSay(message)) await this.#say(message);
    else this.unsaid.push(message.id);
  }

  #canSay(message) {
    const { type, topics, data, token, id } = message;
    if (!/^[a-z0-9_.:-]{1,64}$/.test(type ?? "")) return false;
    if (["pong", "hello", "ready"].includes(type)) return false;
    if (type === "cancel") return this.#find(id) !== undefined;
    if (type === "subscribe" || type === "unsubscribe") return (topics?.length ?? 0) > 0;
    if (type === "publish") return data !== undefined;
    return type !== "auth" || isText(token);
  }

  async #say(message) {
    const { limits } = this.client.ready;
    if (message.type === "cancel") {
      const call = this.#find(message.id);
      call.stream.cancel();
      await settled();
      assert.deepEqual(this.socket.take(), { type: "cancel", id: call.id });
      call.heard.length = 0; // it has ended, and the page knows why
      call.cancelled = true; // its `end` is still to come
      return;
    }
    const call = new Asked(message);
    const unanswered = this.calls.filter(({ id, over }) => id !== undefined && !over).length;
    call.run(this.client, this.calls);
    await settled();
    this.calls.push(call);
    if (JSON.stringify(message).length > limits.max_message_bytes) {
      // It knows better than to send that.
      assert.deepEqual(call.heard.splice(0), [["message_too_big", "never", null]]);
      this.unsaid.push(message.id);
    } else if (unanswered >= limits.max_in_flight) {
      assert.equal(this.client.queued, 1); // nor that, now
      call.abort.abort();
      await settled();
      assert.equal(this.client.queued, 0);
      call.heard.length = 0;
      this.unsaid.push(message.id);
    } else {
      await this.#sent(call, message);
    }
  }

  async #sent(call, message) {
    const sent = this.socket.take();
    const speakable = message.type === "ping" ? ["type"] : SPEAKABLE;
    const wanted = speakable.filter((name) => name in message);
    fits(Object.fromEntries(wanted.map((name) => [name, message[name]])), sent);
    if (message.topics !== undefined) assert.deepEqual(sent.topics, message.topics);
    call.id = sent.id;
    if (message.type === "unsubscribe") call.heard.length = 0;
    if (message.type === "publish" && message.id === undefined) {
      this.socket.say({ type: "ack", id: call.id }); // this client always asks for an answer
      await settled();
      assert.deepEqual(call.heard.splice(0), ["ack"]);
    }
  }

  async #leave() {
    this.left = true;
    this.client.close();
    await settled();
    const { code } = this.socket.closedWith;
    assert.equal(code, 1000);
  }

  /* The server's steps. */

  async #hear(step) {
    if (step.close !== undefined) {
      await this.#hearClose(step.close);
      return;
    }
    if (step.frame !== undefined) return; // a page cannot see frames
    const asked = (step.message.id ?? null) !== null || step.message.type === "pong";
    const call = asked ? this.#find(step.message.id) : undefined;
    const own = step.message.type === "ready" && this.opening.id !== undefined;
    assert.ok(call !== undefined || !asked || own || this.unsaid.includes(step.message.id));
    const said = whole(step.message);
    if (asked) said.id = call?.id ?? (own ? said.id : `not-asked-${said.id}`);
    const left = this.socket.onmessage === null;
    this.socket.say(said);
    await settled();
    if (said.fatal) this.fatal = said;
    if (said.type === "ready") fits(said, this.client.ready);
    if (said.type === "ping") assert.deepEqual(this.socket.take(), { type: "pong" });
    if (said.type === "event") {
      const hearers = this.calls.filter((one) => this.#hears(one, said));
      assert.ok(hearers.length > 0);
      this.#judge(said, hearers);
    } else if (!left) {
      this.#judge(said, said.fatal || call === undefined ? [] : [call]);
    }
  }

  #hears({ subscription, message }, said) {
    return subscription !== undefined && message.topics.includes(said.topic);
  }

  async #hearClose({ code, reason = "" }) {
    this.socket.end(code, reason);
    await settled();
    assert.equal(this.client.state, "closed");
    const why = this.client.reason;
    if (this.fatal !== null) {
      const { code: name, message, retry, retry_after_ms: after = null } = this.fatal;
      assert.deepEqual([why.code, why.message, why.retry], [name, message, adviceOf(retry)]);
      assert.deepEqual([why.closeCode, why.retryAfterMs, why.byServer], [code, after, true]);
    } else {
      assert.equal(why.code, "closed");
    }
    for (const call of this.calls) {
      const gone = call.subscription === undefined && call.over === false;
      assert.ok(!gone, "whoever waits is told");
      if (call.heard.length > 0) assert.deepEqual(call.heard, [why]);
    }
  }

  /** The newest that is asked under this id: 1 is not "1". */
  #find(id) {
    return this.calls.findLast((call) => call.message.id === id && call.id !== undefined);
  }

  #judge(said, hearers) {
    for (const call of this.calls) {
      const silent = call.cancelled || call.message.type === "unsubscribe";
      const expected = hearers.includes(call) && !silent ? [call.expected(said)] : [];
      assert.deepEqual(call.heard.splice(0), expected, JSON.stringify(call.message));
    }
    const ended = ({ over, cancelled }) => over && (!cancelled || said.type === "end");
    this.calls = this.calls.filter((call) => !ended(call));
  }
}

/** Where the server's signs of life are frames, which no page sees, the client asks for some. */
const isFrames = ({ name }) => name.startsWith("heartbeat_frames");

const isText = (value) => typeof value === "string";

const PAUSES = { never: null, refresh_token: 0 };

/** What a client makes of a `retry` that it does not know. */
const adviceOf = (retry) => (["never", "refresh_token"].includes(retry) ? retry : "backoff");

/** Milliseconds until the next attempt, null for none: the protocol's words, not the client's. */
function pauseAfter(steps) {
  const messages = steps.filter(({ from }) => from === "server").map(({ message }) => message);
  const said = messages.filter((message) => message !== undefined);
  if (said.some(({ type }) => type === "goaway")) return WILDCARDS.integer;
  const retry = said.findLast(({ fatal }) => fatal)?.retry ?? "never";
  return retry in PAUSES ? PAUSES[retry] : 0.5 * 500;
}

assert.ok(NAMES.length > 50, "the transcripts are there");

for (const name of NAMES) {
  const script = load(name);

  test(`${name}: the client keeps to the transcript`, () => new Replay(script).run());

  test(`${name}: the client comes back as it is told`, async () => {
    const clock = new FakeClock();
    const server = new FakeServer(clock);
    const tokens = [];
    const token = async () => tokens[tokens.push(`token-${tokens.length}`) - 1];
    const options = { token, random, clock, WebSocket: server.WebSocket };
    const client = connect(urlOf(script.setup), options);
    await settled();
    const socket = server.last;
    socket.answersPings = isFrames(script);
    socket.open();
    const first = socket.received[0].token;
    let vanished = false;
    for (const step of script.steps) {
      await clock.advanceTo(step.at_ms);
      if (step.from === "client" && step.close) client.close();
      if (step.vanish) vanished = true;
      if (step.from !== "server") continue;
      for (let n = 0; n < (step.times ?? 1); n += 1) {
        if (step.close) socket.end(step.close.code, step.close.reason);
        else if (step.message) socket.say(step.message);
      }
      await settled();
    }
    if (vanished) client.close();
    const ended = clock.now();
    const pause = pauseAfter(script.steps);
    await clock.advance(20_000); // nobody answers a second attempt
    if (pause === null) {
      assert.equal(server.attempts.length, 1);
      assert.equal(client.state, "closed");
    } else {
      assert.equal(server.attempts[1], ended + pause);
      assert.equal(client.state, "reconnecting");
      server.last.open();
      assert.equal(first, "token-0");
      assert.notEqual(server.last.take().token, "token-0"); // it was asked for anew
    }
    client.close();
    await clock.advance(6_000); // nobody answers its goodbye either
    assert.equal(client.state, "closed");
    assert.equal(clock.waiting, 0);
  });
}

test("the pauses grow, and are capped", () => {
  const retrying = new ReconnectPolicy({ reconnect: true, canRefresh: false, random: () => 1 });
  const pauses = [0, 1, 2, 3, 4, 5, 6, 7, 100].map((number) => retrying.delayMs(number));
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
});
