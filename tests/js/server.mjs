/** A WebSocket without a network: the test is the server, and says what it likes. */
import assert from "node:assert/strict";

export const READY = {
  type: "ready",
  connection_id: "c-1",
  user: { id: "alice" },
  resource: { thing_id: "1" },
  expires_at: "2030-01-01T12:00:00.000Z",
  server_time: "2030-01-01T11:00:00.000Z",
  heartbeat: { mode: "message", interval_ms: 30_000, timeout_ms: 10_000 },
  limits: {
    max_message_bytes: 1_048_576,
    max_in_flight: 256,
    max_streams: 32,
    max_subscriptions: 1000,
    messages_per_second: 1000,
  },
};

const INSTANT = "2030-01-01T00:00:00.000Z";
const SAMPLES = {
  hello: { protocol: "trioserver.v1", auth_timeout_ms: 10_000 },
  ready: READY,
  auth_expiring: { expires_at: INSTANT, expires_in_ms: 60_000 },
  auth_refreshed: { expires_at: INSTANT, expires_in_ms: 60_000 },
  error: { message: "For people." },
};
export const WILDCARDS = { string: "text", integer: 1000, instant: INSTANT };

/** A message to send, from one that says only what matters. */
export function whole(message) {
  return filled(message, SAMPLES[message.type] ?? {});
}

function filled(value, sample) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  if ("$any" in value) return value.at_most ?? WILDCARDS[value.$any];
  const base = typeof sample === "object" && sample !== null ? sample : {};
  const entries = Object.entries(value).map(([name, inner]) => [name, filled(inner, base[name])]);
  return { ...base, ...Object.fromEntries(entries) };
}

/** Makes a class like `WebSocket`, and keeps what is made of it in `sockets`. */
export class FakeServer {
  constructor(clock) {
    this.sockets = [];
    this.attempts = [];
    const server = this;
    this.WebSocket = class {
      constructor(url, protocols) {
        assert.deepEqual(protocols, ["trioserver.v1"]);
        this.url = url;
        this.readyState = 0;
        this.bufferedAmount = 0;
        this.received = [];
        this.answersPings = false;
        this.closedWith = null;
        this.onopen = this.onmessage = this.onclose = this.onerror = null;
        server.sockets.push(this);
        server.attempts.push(clock.now());
      }

      /* The client's side. */

      send(text) {
        assert.equal(this.readyState, 1, "nothing is sent to a socket that is not open");
        const message = JSON.parse(text);
        if (this.answersPings && message.type === "ping") {
          queueMicrotask(() => this.say({ type: "pong", id: message.id }));
        } else {
          this.received.push(message);
        }
      }

      close(code, reason) {
        assert.ok(code === 1000 || (code >= 3000 && code <= 4999), "browsers allow no other");
        if (this.readyState >= 2) return;
        this.readyState = 2;
        this.closedWith = { code, reason };
      }

      /* The test's side. */

      open() {
        this.readyState = 1;
        this.onopen?.({});
      }

      say(message) {
        this.text(JSON.stringify(whole(message)));
      }

      text(data) {
        this.onmessage?.({ data });
      }

      end(code = 1006, reason = "") {
        if (this.readyState === 3) return;
        this.readyState = 3;
        this.onclose?.({ code, reason });
      }

      /** Everything up to `ready`; the `auth` is returned. */
      admit(ready = {}) {
        this.open();
        this.say({ type: "hello" });
        const auth = this.take();
        this.say({ type: "ready", ...ready });
        return auth;
      }

      /** What the client has sent next. */
      take() {
        assert.ok(this.received.length > 0, "the client has sent nothing");
        return this.received.shift();
      }
    };
  }

  get last() {
    return this.sockets.at(-1);
  }
}
