/**
 * A client of the protocol `trioserver.v1` for web pages and Node, in one file that needs no other.
 *
 *     import { connect } from "./trioserver.js";
 *     const client = connect("/ws/rooms/1", { token: () => fetchToken() });
 *     client.addEventListener("state", ({ detail }) => show(detail.state, detail.reason));
 *     console.log(await client.request("note", { text: "hello" }));
 *
 * `docs/javascript.md` is the guide, `docs/protocol.md` the protocol. From top to bottom: the
 * errors; `Session`, which has no I/O and reads no clock; `Retrying`, which decides when to come
 * back; what callers hold in their hands; `Link`, one connection; `Client`, one after another.
 *
 * Nothing here writes to the console, and no token is in an error, an event or a public field.
 * Durations are in milliseconds and their names end in `Ms`.
 */

export const SUBPROTOCOL = "trioserver.v1";

/* ------------------------------------------------------------------------------ errors in words */

/** @typedef {"never" | "refresh_token" | "backoff"} Retry */

/**
 * The table of `docs/protocol.md`: close code (null where it never closes), advice, words.
 * @type {Readonly<Record<string, readonly [number | null, Retry, string]>>}
 */
export const ERRORS = Object.freeze({
  shutdown: [1001, "backoff", "The server is shutting down."],
  restart: [1012, "backoff", "The server is restarting."],
  protocol_error: [1002, "never", "A frame violates RFC 6455."],
  binary_unsupported: [1003, "never", "Binary messages are not supported."],
  not_utf8: [1007, "never", "A text message is not valid UTF-8."],
  auth_timeout: [1008, "backoff", "Authentication did not finish in time."],
  auth_required: [1008, "never", "The first message must be 'auth'."],
  token_missing: [1008, "never", "No token was sent."],
  token_invalid: [1008, "never", "The token is not valid."],
  token_too_big: [1008, "never", "The token is larger than the limit."],
  token_expired: [1008, "refresh_token", "The token has expired."],
  token_not_yet_valid: [1008, "backoff", "The token is not valid yet."],
  token_revoked: [1008, "never", "The token has been revoked."],
  access_denied: [1008, "never", "Not found or access denied."],
  session_blocked: [1008, "never", "The session is blocked."],
  bad_message: [1008, "never", "The message is not a valid JSON object of this protocol."],
  too_many_errors: [1008, "never", "Too many messages caused errors."],
  rate_limited: [1008, "backoff", "Too many messages in a short time."],
  message_too_big: [1009, "never", "The message is larger than the limit."],
  internal_error: [1011, "backoff", "The server failed. The client did nothing wrong."],
  server_busy: [1013, "backoff", "The server has too many connections."],
  unavailable: [1013, "backoff", "A service that the server depends on does not answer."],
  heartbeat_timeout: [4000, "backoff", "Nothing was received from the client for too long."],
  disconnected: [4001, "never", "Disconnected by an administrator."],
  superseded: [4001, "never", "Replaced by a newer connection of the same user."],
  slow_consumer: [4002, "backoff", "The client did not read messages fast enough."],
  unknown_type: [null, "never", "The message type is unknown."],
  invalid_payload: [null, "never", "The content of the message does not match its type."],
  duplicate_id: [null, "never", "A request with this id is still in flight."],
  too_many_in_flight: [null, "backoff", "Too many requests are in flight."],
  too_big_to_send: [1008, "never", "The answer is larger than the limit."],
  not_found: [null, "never", "Not found."],
  forbidden: [null, "never", "Not allowed."],
});

/**
 * Why a connection ended, or could not be had.
 *
 * `code`: a row of `ERRORS`, an application's own, or one of this client's: `normal`, `closed` (by
 * this program), `connection_lost`, `server_silent`, `connect_timeout`, `token_unavailable`,
 * `bad_url`. `message` is for people. `refused`: the server said so, not the network.
 */
export class Reason {
  /**
   * @param {string} code
   * @param {string} message
   * @param {Retry} retry
   * @param {{closeCode?: number | null, retryAfterMs?: number | null, refused?: boolean}} [more]
   */
  constructor(code, message, retry, more = {}) {
    const { closeCode = null, retryAfterMs = null, refused = true } = more;
    this.code = code;
    this.message = message;
    this.retry = retry;
    this.closeCode = closeCode;
    this.retryAfterMs = retryAfterMs;
    this.refused = refused;
    Object.freeze(this);
  }

  /** Whether nothing went wrong: one of the two sides had finished. */
  get isNormal() {
    return this.closeCode === NORMAL_CLOSURE;
  }

  /** For people: "access_denied: Not found or access denied. (close code 1008)". */
  toString() {
    const code = this.closeCode === null ? "" : ` (close code ${this.closeCode})`;
    return `${this.code}: ${this.message}${code}`;
  }
}

const NORMAL_CLOSURE = 1000;
const PROTOCOL_ERROR_CLOSE = 4900; // a browser lets no page close with 1002
const NO_CODE = [1005, 1006]; // a Close frame without a code, and none at all
const CLOSED = new Reason("closed", "Closed by this program.", "never", { closeCode: 1000 });

const lost = (message, code = "connection_lost", retry = "backoff") =>
  new Reason(code, message, retry, { refused: false });

const RETRIES = ["never", "refresh_token", "backoff"];

/** Wait and try again, where a newer server says what is not known here. @returns {Retry} */
const adviceOf = (retry) => (RETRIES.includes(retry) ? retry : "backoff");

/** The server said it in so many words. */
function reasonOfError(error, closeCode) {
  const { code, message, retry, retry_after_ms: retryAfterMs = null } = error;
  return new Reason(code, message, adviceOf(retry), { closeCode, retryAfterMs });
}

/**
 * A close without an error message before it: its reason is the code of an error.
 * @param {number} closeCode
 * @param {string} text
 */
export function reasonOfClose(closeCode, text) {
  if (closeCode === NORMAL_CLOSURE) {
    return new Reason("normal", "The server has finished.", "never", { closeCode });
  }
  const name = Object.hasOwn(ERRORS, text) ? text : nameOfCloseCode(closeCode);
  if (name !== null) {
    const [, retry, message] = ERRORS[name];
    return new Reason(name, message, retry, { closeCode });
  }
  if (NO_CODE.includes(closeCode)) return lost("The connection ended without a word.");
  const retry = closeCode === 1008 || closeCode >= 4000 ? "never" : "backoff";
  const code = text || `close_${closeCode}`;
  return new Reason(code, `Closed with ${closeCode}.`, retry, { closeCode });
}

/** The first row with this code, where all that have it give the same advice. */
function nameOfCloseCode(closeCode) {
  const rows = Object.entries(ERRORS).filter(([, [code]]) => code === closeCode);
  return new Set(rows.map(([, [, retry]]) => retry)).size === 1 ? rows[0][0] : null;
}

/** The base of all that this module rejects with, or throws into an iteration. */
export class ClientError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/**
 * The connection ended before the answer, or the client has given up; `reason` says how.
 *
 * `sent` false: it never left this program. `sent` true: it may or may not have been done, and is
 * not sent again; whether to ask again is for the caller to decide.
 */
export class ConnectionLost extends ClientError {
  /** @param {Reason} reason @param {boolean} sent */
  constructor(reason, sent) {
    super(String(reason));
    this.reason = reason;
    this.sent = sent;
  }
}

/** The server answered a request with an error; the connection lives on. */
export class RequestRefused extends ClientError {
  /** @param {{code: string, message: string, retry: Retry, retry_after_ms?: number}} error */
  constructor({ code, message, retry, retry_after_ms: retryAfterMs = null }) {
    super(`${code}: ${message}`);
    this.code = code;
    this.retry = adviceOf(retry);
    this.retryAfterMs = retryAfterMs;
  }
}

/** No answer in time; `sent` as in `ConnectionLost`. */
export class RequestTimeout extends ClientError {
  /** @param {string} type @param {number} ms @param {boolean} sent */
  constructor(type, ms, sent) {
    super(`${type}: ${sent ? "no answer" : "could not be sent"} within ${ms} ms`);
    this.sent = sent;
  }
}

/** Too much waits to be sent already; this was not taken. */
export class QueueFull extends ClientError {}

/** Whoever iterates was too slow: `missed` items are gone, here in the order. */
export class Overflow extends ClientError {
  /** @param {number} missed */
  constructor(missed) {
    super(`${missed} were not taken in time and are gone`);
    this.missed = missed;
  }
}

/** The server does not speak this protocol. */
export class ProtocolError extends ClientError {}

/* --------------------------------------------------------------------- the session, without I/O */

const isString = (value) => typeof value === "string";
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isId = (value) => (isString(value) && value.length > 0) || Number.isSafeInteger(value);
const optional = (fits) => (value) => value === undefined || value === null || fits(value);
const isThere = (value) => value !== undefined;
const has = (shape) => (value) =>
  isObject(value) && Object.entries(shape).every(([name, fits]) => fits(value[name]));

/** What each message of the server's must have; further fields and further types are ignored. */
const SHAPES = {
  hello: { protocol: isString, auth_timeout_ms: isCount },
  ready: {
    connection_id: isString,
    user: isObject,
    resource: isObject,
    expires_at: optional(isString),
    server_time: isString,
    heartbeat: has({ mode: isString, interval_ms: isCount, timeout_ms: isCount }),
    limits: has({ max_message_bytes: isCount, max_in_flight: isCount }),
  },
  auth_expiring: { expires_at: isString, expires_in_ms: isCount },
  auth_refreshed: { id: optional(isId) },
  ping: { id: optional(isId) },
  pong: { id: optional(isId) },
  ack: { id: isId },
  error: {
    code: isString,
    message: isString,
    retry: isString,
    fatal: (value) => typeof value === "boolean",
    id: optional(isId),
    retry_after_ms: optional(isCount),
  },
  chunk: { id: isId, seq: isCount, data: isThere },
  end: { id: isId },
  event: { topic: isString, offset: Number.isSafeInteger, data: isThere },
  goaway: { reason: isString, deadline_ms: isCount, reconnect_after_ms: isCount },
};

const TYPE_NAME = /^[a-z0-9_.:-]{1,64}$/;
const RESERVED = new Set([
  ...Object.keys(SHAPES), "auth", "cancel", "subscribe", "unsubscribe", "publish",
]); // prettier-ignore

/**
 * The client's table of `docs/protocol.md`: state, move, then the next state or the error's code.
 * An error is thrown: by `AUTHENTICATE` and `SEND` at the caller, by the others at the server.
 */
const TABLE = {
  connected: {
    AUTHENTICATE: "authenticating", SEND: "auth_required", HELLO: "connected",
    READY: "protocol_error", FATAL: "closed", HEARTBEAT: "connected", ERROR: "connected",
    MESSAGE: "protocol_error", UNKNOWN: "connected",
  },
  authenticating: {
    AUTHENTICATE: "auth_required", SEND: "auth_required", HELLO: "authenticating",
    READY: "ready", FATAL: "closed", HEARTBEAT: "authenticating", ERROR: "authenticating",
    MESSAGE: "protocol_error", UNKNOWN: "authenticating",
  },
  ready: {
    AUTHENTICATE: "ready", SEND: "ready", HELLO: "protocol_error", READY: "protocol_error",
    FATAL: "closed", HEARTBEAT: "ready", ERROR: "ready", MESSAGE: "ready", UNKNOWN: "ready",
  },
  closed: {
    AUTHENTICATE: "disconnected", SEND: "disconnected", HELLO: "closed", READY: "closed",
    FATAL: "closed", HEARTBEAT: "closed", ERROR: "closed", MESSAGE: "closed", UNKNOWN: "closed",
  },
}; // prettier-ignore

const MOVES = new Map([
  ["hello", "HELLO"], ["ready", "READY"], ["ping", "HEARTBEAT"], ["pong", "HEARTBEAT"],
]); // prettier-ignore

/**
 * The client's side of one connection: text in, messages out, text to send, time as an argument.
 *
 * Feed it with `receive`, send what `outgoing` collects. A caller that does what the table does not
 * allow gets an `Error`, a server that does a `ProtocolError`.
 */
export class Session {
  /** @param {number} now */
  constructor(now) {
    this.state = "connected";
    /** @type {string[]} */
    this.outgoing = [];
    this.ready = null;
    this.failure = null;
    this.lastReceived = now;
    this._lastId = 0;
    /** From an id that awaits an answer to the number of its next chunk. */
    this._pending = new Map();
  }

  /** Requests without an answer. */
  get inFlight() {
    return this._pending.size;
  }

  /**
   * Send `auth`; when ready that refreshes, and its id is returned. With `inQuery` the token stands
   * in the URL, and nothing is sent. The fields of `initial` go over those of `auth`.
   */
  authenticate(token, { heartbeat = "message", inQuery = false, initial = null } = {}) {
    const refreshing = this.state === "ready";
    this._move("AUTHENTICATE");
    if (inQuery) return null;
    const id = refreshing ? this._newId() : null;
    const fields = { type: "auth" };
    if (token !== null) fields.token = token;
    if (id !== null) fields.id = id;
    this._send({ ...fields, heartbeat, ...(initial ?? {}) });
    return id;
  }

  /** A message of the application's that wants an answer; `body` is JSON, undefined for none. */
  request(type, body) {
    this._move("SEND");
    const id = this._newId();
    this.outgoing.push(textOf(type, body, id));
    return id;
  }

  /** A message of the application's that wants none. */
  send(type, body) {
    this._move("SEND");
    this.outgoing.push(textOf(type, body));
  }

  subscribe(topics) {
    return this._request({ type: "subscribe", topics });
  }

  unsubscribe(topics) {
    return this._request({ type: "unsubscribe", topics });
  }

  publish(topic, body) {
    this._move("SEND");
    const id = this._newId();
    const fields = `"id":${id},"topic":${JSON.stringify(topic)},"data":${body}`;
    this.outgoing.push(`{"type":"publish",${fields}}`);
    return id;
  }

  ping() {
    return this._request({ type: "ping" });
  }

  /** End a stream early; its `end` still comes. An id that awaits no answer is left be. */
  cancel(id) {
    if (this._pending.has(id)) {
      this._move("SEND");
      this._send({ type: "cancel", id });
    }
  }

  /** Await the answer to a request no longer. */
  forget(id) {
    this._pending.delete(id);
  }

  /**
   * A text message has arrived: what it says, or null where nothing needs to be known. When ready,
   * a `ping` is answered here. Before that, a message of an unknown type is nobody's: a newer server
   * may have more to say. Throws `ProtocolError`.
   * @param {string} text
   * @param {number} now
   */
  receive(text, now) {
    this.lastReceived = now;
    const message = decode(text);
    const move = moveOf(message);
    this._move(move);
    if (move === "UNKNOWN" && this.state !== "ready") return null;
    switch (message.type) {
      case "ping":
        if (this.state === "ready") this._send(pongOf(message));
        break;
      case "ready":
        this.ready = message;
        break;
      case "error":
        if (message.fatal) {
          this.failure = message;
          this._pending.clear();
        } else {
          this._pending.delete(message.id);
        }
        break;
      case "chunk":
        return this._receiveChunk(message);
      case "ack":
      case "end":
      case "pong":
      case "auth_refreshed":
        this._pending.delete(message.id);
    }
    return message;
  }

  /** The connection has ended. */
  lost() {
    this.state = "closed";
    this._pending.clear();
  }

  _receiveChunk(message) {
    const expected = this._pending.get(message.id);
    if (expected === undefined) return null;
    if (message.seq !== expected) {
      throw new ProtocolError(`Chunk ${message.seq} came in place of ${expected}.`);
    }
    this._pending.set(message.id, expected + 1);
    return message;
  }

  _request(message) {
    this._move("SEND");
    const id = this._newId();
    this._send({ ...message, id });
    return id;
  }

  _newId() {
    this._lastId += 1;
    this._pending.set(this._lastId, 0);
    return this._lastId;
  }

  _send(message) {
    this.outgoing.push(JSON.stringify(message));
  }

  _move(move) {
    const outcome = TABLE[this.state][move];
    if (outcome in TABLE) {
      this.state = outcome;
    } else if (move === "AUTHENTICATE" || move === "SEND") {
      throw new Error(`${outcome}: cannot send when ${this.state}`);
    } else {
      throw new ProtocolError(`Out of place when ${this.state}: ${move.toLowerCase()}.`);
    }
  }
}

function moveOf(message) {
  if (message.type === "error") return message.fatal ? "FATAL" : "ERROR";
  if (!Object.hasOwn(SHAPES, message.type)) return "UNKNOWN";
  return MOVES.get(message.type) ?? "MESSAGE";
}

function pongOf({ id, data }) {
  return { type: "pong", id, data }; // what is undefined is not sent
}

function textOf(type, body, id) {
  const fields = [`"type":${JSON.stringify(type)}`];
  if (id !== undefined) fields.push(`"id":${id}`);
  if (body !== undefined) fields.push(`"data":${body}`);
  return `{${fields.join(",")}}`;
}

function decode(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    throw new ProtocolError("What came is no JSON.");
  }
  if (!isObject(message) || !isString(message.type) || !TYPE_NAME.test(message.type)) {
    throw new ProtocolError("What came is no message.");
  }
  const shape = Object.hasOwn(SHAPES, message.type) ? SHAPES[message.type] : {};
  const wrong = Object.keys(shape).find((name) => !shape[name](message[name]));
  if (wrong !== undefined) throw new ProtocolError(`${message.type}: ${wrong} does not fit.`);
  return message;
}

/** Data as JSON, at once: what the caller does to it afterwards does not matter. */
function encode(data) {
  const body = JSON.stringify(data);
  if (data !== undefined && body === undefined) throw new TypeError("this is nothing JSON can say");
  if (body !== undefined && /\\ud[89a-f]/.test(body.replaceAll("\\\\", ""))) {
    throw new TypeError("half of a surrogate pair cannot be sent");
  }
  return body;
}

/* ---------------------------------------------------------------------------------- coming back */

/**
 * Decides after each end of a connection when to come back: exponential backoff with full jitter.
 *
 * A connection has to hold for as long as the longest pause before the pauses begin anew, so that
 * one which is lost again and again makes no storm.
 */
export class Retrying {
  /**
   * @param {object} options
   * @param {boolean} options.reconnect
   * @param {boolean} options.canRefresh  whether there is somebody to ask for another token
   * @param {number} [options.firstMs]
   * @param {number} [options.maximumMs]
   * @param {number | null} [options.maxAttempts]  in a row that did not get ready; null for any
   * @param {() => number} [options.random]  from 0 to 1
   */
  constructor({
    reconnect,
    canRefresh,
    firstMs = 500,
    maximumMs = 30_000,
    maxAttempts = null,
    random = Math.random,
  }) {
    Object.assign(this, { reconnect, canRefresh, firstMs, maximumMs, maxAttempts, random });
    this.failed = 0;
    this.pauses = 0;
    this.refreshing = false;
  }

  /** Milliseconds before attempt `number`, counted from 0. */
  delayMs(number) {
    return this.random() * Math.min(this.maximumMs, this.firstMs * 2 ** Math.min(number, 64));
  }

  /**
   * Milliseconds until the next attempt, null for no more.
   * @param {Reason} reason
   * @param {{readyForMs: number | null, comeBackInMs: number | null}} facts
   *   how long it was ready, null if it never was; what `goaway` said, null if it did not come
   */
  pauseMs(reason, { readyForMs, comeBackInMs }) {
    if (!this.reconnect || reason.retry === "never") return null;
    if (readyForMs !== null && readyForMs >= this.maximumMs) {
      this.pauses = 0;
      this.refreshing = false;
    }
    const wasRefreshing = this.refreshing;
    this.refreshing = reason.retry === "refresh_token";
    if (this.refreshing && !this.canRefresh) return null;
    this.failed = readyForMs === null ? this.failed + 1 : 0;
    if (this.maxAttempts !== null && this.failed >= this.maxAttempts) return null;
    if (comeBackInMs !== null) return comeBackInMs;
    if (this.refreshing && !wasRefreshing) return 0;
    this.pauses += 1;
    return (reason.retryAfterMs ?? 0) + this.delayMs(this.pauses - 1);
  }
}

/* ------------------------------------------------------------- what callers hold in their hands */

/** What has arrived and waits for whoever iterates: bounded, and what did not fit is said. */
class Inbox {
  constructor(maxSize, onReturn) {
    this.size = 0;
    this._maxSize = maxSize;
    this._onReturn = onReturn;
    this._items = [];
    this._waiting = [];
    this._closed = false;
    this._error = null;
  }

  /** False where it did not fit. An empty inbox takes any item. */
  put(item, size) {
    if (this._closed) return true;
    if (this._waiting.length > 0) {
      this._waiting.shift().resolve({ value: item, done: false });
      return true;
    }
    const cost = size + ITEM_SIZE;
    if (this.size > 0 && this.size + cost > this._maxSize) {
      const last = this._items.at(-1);
      if (last.missed === undefined) this._items.push({ missed: 1, cost: 0 });
      else last.missed += 1;
      return false;
    }
    this.size += cost;
    this._items.push({ item, cost });
    return true;
  }

  /** After what waits, iterating throws `error`, or ends where there is none. */
  close(error = null) {
    if (this._closed) return;
    this._closed = true;
    this._error = error;
    for (const { resolve, reject } of this._waiting.splice(0)) {
      if (error === null) resolve({ value: undefined, done: true });
      else reject(error);
    }
  }

  next() {
    if (this._items.length > 0) {
      const { item, missed, cost } = this._items.shift();
      this.size -= cost;
      if (missed !== undefined) return Promise.reject(new Overflow(missed));
      return Promise.resolve({ value: item, done: false });
    }
    if (this._closed) {
      if (this._error === null) return Promise.resolve({ value: undefined, done: true });
      return Promise.reject(this._error);
    }
    return new Promise((resolve, reject) => this._waiting.push({ resolve, reject }));
  }

  /** Whoever iterates leaves early. */
  return(value) {
    this._items.length = 0;
    this.size = 0;
    this.close();
    this._onReturn();
    return Promise.resolve({ value, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

const ITEM_SIZE = 256; // what an item costs beside its text, roughly

/**
 * `for await (const chunk of client.stream(...))`: leaving the loop cancels it on the server.
 *
 * `result` is what came with the end, undefined before. Iterating throws `RequestRefused`,
 * `ConnectionLost`, `RequestTimeout` where it could not even be sent, and `Overflow` when what
 * nobody took has grown too large: no page can slow a server down, so the stream is cancelled then.
 */
export class Stream {
  /** @hideconstructor */
  constructor(maxSize, cancel) {
    this.result = undefined;
    this._inbox = new Inbox(maxSize, cancel);
  }

  /** Want no more of it. What has arrived can still be taken; then the iteration ends. */
  cancel() {
    this._inbox.close();
    this._inbox._onReturn();
  }

  next() {
    return this._inbox.next();
  }

  return(value) {
    return this._inbox.return(value);
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/**
 * Topics; it outlives a connection. `for await (const event of subscription)`, or a handler.
 *
 * An event is `{topic, offset, data, gap}`; `gap`: the connection was lost before this one, and
 * events may have been, too. `active` resolves with the server's consent, rejects with its refusal.
 * Iterating throws `Overflow` where events were not taken in time (iterate on for what came after),
 * `RequestRefused`, and `ConnectionLost` when the client has given up.
 */
export class Subscription {
  /** @hideconstructor */
  constructor(topics, handler, onEnd, maxSize, leave) {
    /** @type {readonly string[]} */
    this.topics = Object.freeze([...topics]);
    this.active = new Promise((resolve, reject) => {
      this._resolve = resolve;
      this._reject = reject;
    });
    this.active.catch(() => {}); // it is heard of where one iterates, too
    this._topics = new Set(topics);
    this._handler = handler;
    this._onEnd = onEnd;
    this._gap = false;
    this._leave = () => leave(this);
    this._inbox = new Inbox(maxSize, this._leave);
  }

  /** Hear no more. */
  close() {
    this._inbox.return();
    this._end(null);
  }

  next() {
    return this._inbox.next();
  }

  return(value) {
    return this._inbox.return(value);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  _hear(event, size) {
    const told = { topic: event.topic, offset: event.offset, data: event.data, gap: this._gap };
    if (this._handler !== null) {
      this._gap = false;
      shielded(this._handler, told);
    } else if (this._inbox.put(told, size)) {
      this._gap = false;
    }
  }

  _end(error) {
    this._inbox.close(error);
    this._reject(error ?? new ConnectionLost(CLOSED, false));
    const tell = this._onEnd;
    this._onEnd = null;
    if (tell !== null) shielded(tell, error);
  }
}

/** Call what belongs to the page; what it throws is the page's, and nothing here stops for it. */
function shielded(listener, value) {
  try {
    listener(value);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Something that was asked for, from the moment it waits to its answer. It is settled once. */
class Call {
  constructor(type, send, { resolve, reject, take = () => {}, ...more }) {
    Object.assign(this, { type, send, resolve, reject, take });
    Object.assign(this, { wantsAnswer: true, isStream: false, size: 0 }, more);
    this.id = null;
    this.sent = false;
    this.settled = false;
    this.timer = null;
    this.cleanUp = () => {};
  }
}

/* ------------------------------------------------------------------------------- one connection */

const OPEN = 1; // a WebSocket's readyState
const CLOSE_TIMEOUT_MS = 5000; // for the closing handshake, and for the Close after a fatal error
const LATE_MS = 1000; // a timer that comes later than that was asleep, as laptops are
const REFRESH_PAUSE_MS = 1000; // at least, between two attempts to renew a token

/** From asking for the token to the end; `client` is told how it goes. */
class Link {
  constructor(client, options, why, isSpent) {
    this.session = new Session(options.clock.now());
    this.calls = new Map();
    this.readyAt = null;
    this.comeBackAt = null;
    this.reason = null;
    this._client = client;
    this._options = options;
    this._why = why;
    this._socket = null;
    this._timers = {};
    this._isSpent = isSpent;
    this._heldToken = null;
  }

  get isReady() {
    return this.session.state === "ready" && this._socket?.readyState === OPEN;
  }

  /** Bytes that the socket has taken and not sent yet. */
  get buffered() {
    return this._socket?.bufferedAmount ?? 0;
  }

  async start() {
    const { readyTimeoutMs } = this._options;
    const late = () => this.end(lost("Not ready in time.", "connect_timeout"));
    this._after("ready", readyTimeoutMs, late);
    let token;
    try {
      token = await this._askForToken(this._why);
    } catch (error) {
      const retry = error?.retry === "never" ? "never" : "backoff";
      this.end(lost("No token could be had.", "token_unavailable", retry));
      return;
    }
    if (this.reason === null) this._open(token);
  }

  _open(token) {
    const { url, WebSocket, tokenInQuery, heartbeat } = this._options;
    const inQuery = tokenInQuery && token !== null;
    try {
      const target = inQuery ? withQuery(url, { token, heartbeat }) : url;
      this._socket = new WebSocket(target, [SUBPROTOCOL]);
    } catch {
      // Its text may quote the URL, and that a token.
      this.end(lost("No WebSocket can be made for this URL.", "bad_url", "never"));
      return;
    }
    const socket = this._socket;
    socket.onopen = () => this._opened(token, inQuery);
    socket.onmessage = ({ data }) => this._heard(data);
    socket.onerror = () => {}; // `close` follows, and says as much
    socket.onclose = ({ code, reason }) => {
      this._socket = null;
      const { failure } = this.session;
      this.end(failure === null ? this._reasonOfClose(code, reason) : reasonOfError(failure, code));
    };
  }

  _reasonOfClose(code, text) {
    const never = NO_CODE.includes(code) && this.session.state === "connected";
    return never ? lost("Cannot connect.") : reasonOfClose(code, text);
  }

  _opened(token, inQuery) {
    const { heartbeat, initial, onKept } = this._options;
    const fields = onKept === null ? initial : { mailbox: "ack", ...(initial ?? {}) };
    this.session.authenticate(token, { heartbeat, inQuery, initial: fields });
    this.flush();
    this._client._opened(this);
  }

  /** Send what the session wants sent. */
  flush() {
    const messages = this.session.outgoing.splice(0);
    if (this._socket?.readyState === OPEN) messages.forEach((text) => this._socket.send(text));
  }

  /** It is over; the first reason counts. */
  end(reason) {
    if (this.reason !== null) return;
    this.reason = reason;
    this.session.lost();
    Object.keys(this._timers).forEach((name) => this._stop(name));
    const socket = this._socket;
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      const code = reason.code === "protocol_error" ? PROTOCOL_ERROR_CLOSE : NORMAL_CLOSURE;
      socket.close(code, reason.isNormal ? "" : reason.code);
    }
    this._client._ended(this, reason);
  }

  /** Say goodbye, and wait a while for the server to say it too. */
  leave() {
    if (this._socket?.readyState !== OPEN) {
      this.end(CLOSED);
      return;
    }
    this.session.lost();
    this._socket.onmessage = null;
    this._socket.onclose = () => {
      this._socket = null;
      this.end(CLOSED);
    };
    this._after("close", CLOSE_TIMEOUT_MS, () => this.end(CLOSED));
    this._socket.close(NORMAL_CLOSURE);
  }

  /* What arrives. */

  _heard(text) {
    if (this.session.failure !== null) return;
    let message;
    try {
      if (!isString(text)) throw new ProtocolError("A binary message came.");
      message = this.session.receive(text, this._options.clock.now());
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.end(new Reason("protocol_error", error.message, "never", { closeCode: 1002 }));
      return;
    }
    this.flush();
    if (message !== null) this._take(message, text.length);
  }

  _take(message, size) {
    const { clock } = this._options;
    switch (message.type) {
      case "ready":
        this._stop("ready");
        this.readyAt = clock.now();
        this._watch(this._patienceMs);
        this._client._ready(this, message);
        break;
      case "error":
        if (message.fatal) {
          this._stop("watch");
          this._after("close", CLOSE_TIMEOUT_MS, () => this.end(reasonOfError(message, null)));
        } else {
          this._settle(message.id, (call) => call.reject(new RequestRefused(message)));
        }
        break;
      case "chunk":
        this.calls.get(message.id)?.take(message, size);
        break;
      case "ack":
      case "end":
      case "pong":
      case "auth_refreshed":
        this._settle(message.id, (call) => call.resolve(message));
        break;
      case "auth_expiring":
        this._refresh(clock.now() + message.expires_in_ms);
        break;
      case "goaway":
        this.comeBackAt = clock.now() + message.reconnect_after_ms;
        break;
      case "hello":
      case "ping":
        break;
      default:
        this._client._taken(this, message, size);
    }
  }

  _settle(id, how) {
    const call = this.calls.get(id);
    if (call !== undefined) {
      this.calls.delete(id);
      how(call);
    }
    this._client._pump();
  }

  /* Time. */

  get _patienceMs() {
    const { interval_ms: interval, timeout_ms: timeout } = this.session.ready.heartbeat;
    return interval + timeout;
  }

  /**
   * Notice a server that is gone: `ready` promised a sign of life at each interval. It is asked
   * before it is given up where its signs are frames, which no page sees, and where this timer is
   * too late: the machine slept, and what has arrived meanwhile may not have been handed over yet.
   */
  _watch(ms, asked = false) {
    const { clock } = this._options;
    const due = clock.now() + ms;
    this._after("watch", ms, () => {
      const { mode, timeout_ms: timeout } = this.session.ready.heartbeat;
      const now = clock.now();
      const left = this.session.lastReceived + this._patienceMs - now;
      if (left > 0) {
        this._watch(left);
      } else if (!asked && (mode !== "message" || now - due > LATE_MS)) {
        this.session.forget(this.session.ping());
        this.flush();
        this._watch(timeout, true);
      } else {
        this.end(lost("Nothing was heard from the server for too long.", "server_silent"));
      }
    });
  }

  /** Renew the token in-band. Where that fails the old one counts, and it is tried again. */
  async _refresh(until) {
    if (typeof this._options.token !== "function") return;
    try {
      await this.refresh(await this._askForToken("expiring"));
    } catch {
      const left = until - this._options.clock.now();
      const pause = Math.max(REFRESH_PAUSE_MS, left / 4);
      if (this.isReady && pause < left) this._after("refresh", pause, () => this._refresh(until));
    }
  }

  /** Resolves when the server has taken the token. */
  refresh(token) {
    return new Promise((resolve, reject) => {
      if (!this.isReady) throw new ConnectionLost(this.reason ?? lost("Not ready."), false);
      const id = this.session.authenticate(token, { heartbeat: this._options.heartbeat });
      this._heldToken = token;
      this.calls.set(id, new Call("auth", null, { resolve: () => resolve(), reject }));
      this.flush();
    });
  }

  /** The token there is now. What the page's function throws comes out here. */
  async _askForToken(why) {
    const { token: given } = this._options;
    if (typeof given !== "function") return given;
    const token = (await given({ why })) ?? null;
    if (token !== null && !isString(token)) throw new TypeError("a token is text");
    if (token !== null && this._isSpent(token)) throw new Error("the same token again");
    this._heldToken = token;
    return token;
  }

  _after(name, ms, callback) {
    this._stop(name);
    if (this.reason === null) this._timers[name] = this._options.clock.setTimeout(callback, ms);
  }

  _stop(name) {
    this._options.clock.clearTimeout(this._timers[name]);
    delete this._timers[name];
  }
}

/* ----------------------------------------------------------------------------------- the client */

const BUFFERED_BYTES = 256 * 1024; // what the socket may hold before this client does
const POLL_MS = 50; // nobody tells when a socket has sent something
const ROUND_MS = 1000; // what waited goes out at no more than the server's messages per second
const MAX_TOPICS = 100; // in one message
const KEPT_IDS = 1000; // kept messages that are known again when they come twice

/**
 * @typedef {object} Options
 * @property {string | null | ((asked: {why: "connect" | "expired" | "expiring"}) =>
 *   string | null | Promise<string | null>)} [token]
 *   Text, or a function that is asked at each connection, when the server says that the token has
 *   expired, and when it is about to. A rejection is a failed attempt; with `retry: "never"` on the
 *   error it is the end. Without a function an expired token is the end.
 * @property {"message" | "frame"} [heartbeat]  `message`: a page cannot see WebSocket's own pings
 * @property {number} [readyTimeoutMs]  until ready, for each attempt; 30 s
 * @property {number} [requestTimeoutMs]  for an answer, from the sending on; 30 s
 * @property {number} [queueTimeoutMs]  for waiting to be sent; 10 min
 * @property {number} [maxQueue]  messages that may wait to be sent; 1000
 * @property {number} [maxQueueBytes]  the same in characters of JSON; 1 MiB
 * @property {number} [maxInboxBytes]  what a stream or a subscription may be behind; 4 MiB
 * @property {boolean} [reconnect]  false ends with the first connection
 * @property {{firstMs?: number, maximumMs?: number}} [backoff]  pauses: 0.5 s, doubling to 30 s
 * @property {number | null} [maxAttempts]  in a row that did not get ready; null never gives up
 * @property {boolean} [tokenInQuery]  for routes that allow it; URLs are logged: prefer not to
 * @property {object | null} [initial]  fields of the first message that go over those of `auth`
 * @property {((kept: {type: string, id: string, data: any}) => any) | null} [onKept]
 *   Takes messages that the server kept for this user; see docs/javascript.md
 * @property {typeof globalThis.WebSocket} [WebSocket]  where the platform has none
 * @property {{now: Function, setTimeout: Function, clearTimeout: Function}} [clock]  for tests
 * @property {() => number} [random]  for tests
 */

const DEFAULTS = {
  token: null,
  heartbeat: "message",
  readyTimeoutMs: 30_000,
  requestTimeoutMs: 30_000,
  queueTimeoutMs: 600_000,
  maxQueue: 1000,
  maxQueueBytes: 1024 * 1024,
  maxInboxBytes: 4 * 1024 * 1024,
  reconnect: true,
  backoff: {},
  maxAttempts: null,
  tokenInQuery: false,
  initial: null,
  onKept: null,
  random: Math.random,
};

const CLOCK = {
  now: () => performance.now(),
  setTimeout: (callback, ms) => globalThis.setTimeout(callback, Math.min(ms, 2 ** 31 - 1)),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
};

/**
 * What `connect` gives. Events: `state`, with `{state, reason, retryInMs}` as `detail`; `message`,
 * with `{type, data, id}`, for what the application sends by itself.
 *
 * States: `connecting` (for the first time), `authenticating`, `ready`, `offline` (until the next
 * attempt, in `retryInMs`), `reconnecting` (an attempt is under way), `closed` (for good).
 */
export class Client extends EventTarget {
  #options;
  #retrying;
  #state = "connecting";
  #link = null;
  #queue = [];
  #queueSize = 0;
  #credit = 0;
  #pumpTimer = null;
  #pauseTimer = null;
  #subscriptions = new Set();
  #inboxes = new Set();
  #waiting = [];
  #expiredToken = null;
  #kept = new Map();
  #keptLast = Promise.resolve();
  #leaving = false;
  #over = [];
  #online = () => this.#networkIsBack();

  /** @hideconstructor */
  constructor(url, options) {
    super();
    this.#options = { ...DEFAULTS, clock: CLOCK, WebSocket: globalThis.WebSocket, ...options };
    checkOptions(this.#options);
    this.#options.url = absolute(url);
    /** The last `ready`: connection id, user, limits. */
    this.ready = null;
    /** How the last connection ended, or the last attempt. @type {Reason | null} */
    this.reason = null;
    const { reconnect, backoff, maxAttempts, random, token } = this.#options;
    const canRefresh = typeof token === "function";
    this.#retrying = new Retrying({ ...backoff, reconnect, maxAttempts, random, canRefresh });
    globalThis.addEventListener?.("online", this.#online);
    queueMicrotask(() => {
      if (this.#state !== "connecting") return;
      this.#move("connecting"); // for those who have begun to listen since
      if (this.#state === "connecting") this.#attempt("connect");
    });
  }

  get state() {
    return this.#state;
  }

  /** Messages that wait to be sent. */
  get queued() {
    return this.#queue.length;
  }

  /* Asking. */

  /**
   * Ask, and get the answer. Without a connection it waits for the next one, in order; what was
   * sent is never sent again. Rejects with `RequestRefused`, `ConnectionLost`, `RequestTimeout`,
   * `QueueFull`, a `TypeError` for what JSON cannot say, and the signal's reason when it aborts.
   * @param {string} type
   * @param {any} [data]
   * @param {{timeoutMs?: number, queueMs?: number, signal?: AbortSignal}} [options]
   *   `queueMs` 0: only when it can be sent now
   * @returns {Promise<any>}
   */
  async request(type, data, options = {}) {
    checkType(type);
    const body = encode(data);
    const answer = await this.#call(type, (session) => session.request(type, body), body, options);
    return answer.data ?? null;
  }

  /**
   * Send what wants no answer. Resolves when the socket has it: whether it arrived nobody knows.
   * @param {string} type
   * @param {any} [data]
   * @param {{queueMs?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<void>}
   */
  async send(type, data, options = {}) {
    checkType(type);
    const body = encode(data);
    const call = (session) => session.send(type, body);
    await this.#call(type, call, body, options, { wantsAnswer: false });
  }

  /**
   * Publish, and wait until that is done; the event's offset.
   * @param {string} topic
   * @param {any} data
   * @param {{timeoutMs?: number, queueMs?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<number | undefined>}
   */
  async publish(topic, data, options = {}) {
    const body = encode(data ?? null);
    const ask = (session) => session.publish(String(topic), body);
    return (await this.#call("publish", ask, body, options)).data?.offset;
  }

  /** Milliseconds until the server's `pong`. @returns {Promise<number>} */
  async ping() {
    const begun = this.#options.clock.now();
    await this.#call("ping", (session) => session.ping(), "", { queueMs: 0 });
    return this.#options.clock.now() - begun;
  }

  /**
   * Ask for an answer in chunks.
   * @param {string} type
   * @param {any} [data]
   * @param {{queueMs?: number, signal?: AbortSignal}} [options]
   */
  stream(type, data, options = {}) {
    checkType(type);
    const body = encode(data);
    let call = null;
    const stream = new Stream(this.#options.maxInboxBytes, () => this.#cancelStream(call));
    call = new Call(type, (session) => session.request(type, body), {
      size: body?.length ?? 0,
      isStream: true,
      resolve: (end) => {
        stream.result = end.data;
        stream._inbox.close();
      },
      reject: (error) => stream._inbox.close(error),
      take: (chunk, size) => {
        if (!stream._inbox.put(chunk.data, size)) stream.cancel();
      },
    });
    this.#submit(call, options);
    return stream;
  }

  /**
   * Hear topics, 100 at most, over reconnects. With a `handler` it is called with each event, and
   * `onEnd` when there will be none, with the error or null; without one, iterate.
   * @param {string | string[]} topics
   * @param {((event: {topic: string, offset: number, data: any, gap: boolean}) => any) | null}
   *   [handler]
   * @param {{onEnd?: ((error: Error | null) => void) | null}} [options]
   */
  subscribe(topics, handler = null, { onEnd = null } = {}) {
    const names = [...new Set([topics].flat().map(String))];
    if (names.length === 0 || names.length > MAX_TOPICS) {
      throw new RangeError(`a subscription is to 1 to ${MAX_TOPICS} topics`);
    }
    const { maxInboxBytes } = this.#options;
    const leave = (left) => this.#unsubscribe(left);
    const subscription = new Subscription(names, handler, onEnd, maxInboxBytes, leave);
    if (this.#state === "closed") {
      subscription._end(this.#giveUp());
      return subscription;
    }
    this.#subscriptions.add(subscription);
    if (this.#link?.isReady) this.#subscribe(subscription, this.#link);
    return subscription;
  }

  /** What the application sends by itself, as an iteration; leaving it hears no more. */
  messages() {
    const inbox = new Inbox(this.#options.maxInboxBytes, () => this.#inboxes.delete(inbox));
    if (this.#state === "closed") inbox.close(this.#giveUp());
    else this.#inboxes.add(inbox);
    return inbox;
  }

  /**
   * Give the server a new token of the same user. One that is refused ends the connection.
   * @param {string} token
   * @returns {Promise<void>}
   */
  refresh(token) {
    if (!this.#link?.isReady) return Promise.reject(new ConnectionLost(this.#why(), false));
    return this.#link.refresh(token);
  }

  /** Resolves with `ready` when it is, rejects with `ConnectionLost` when it never will be. */
  whenReady() {
    if (this.#state === "ready") return Promise.resolve(this.ready);
    if (this.#state === "closed") return Promise.reject(new ConnectionLost(this.reason, false));
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Try again now, where the next attempt is still to come. */
  reconnect() {
    if (this.#state === "offline") this.#attempt("connect");
  }

  /** Leave for good. What was not sent is rejected; resolves when the connection has ended. */
  close() {
    if (this.#state === "closed") return Promise.resolve();
    const over = new Promise((resolve) => this.#over.push(resolve));
    if (this.#leaving) return over;
    this.#leaving = true;
    if (this.#link === null) this.#finish(CLOSED);
    else this.#link.leave();
    return over;
  }

  /* How it asks. */

  #call(type, send, body, options, more = {}) {
    return new Promise((resolve, reject) => {
      const size = body?.length ?? 0;
      this.#submit(new Call(type, send, { resolve, reject, size, ...more }), options);
    });
  }

  #submit(call, { timeoutMs = this.#options.requestTimeoutMs, queueMs, signal }) {
    const { queueTimeoutMs } = this.#options;
    const waitMs = queueMs ?? queueTimeoutMs;
    call.timeoutMs = timeoutMs;
    if (this.#state === "closed") return call.reject(new ConnectionLost(this.reason, false));
    if (signal?.aborted) return call.reject(signal.reason);
    if (signal !== undefined) {
      const abort = () => this.#abandon(call, signal.reason);
      signal.addEventListener("abort", abort, { once: true });
      call.cleanUp = () => signal.removeEventListener("abort", abort);
    }
    this.#settleOnce(call);
    if (this.#queue.length === 0 && this.#hasRoom()) return this.#transmit(call);
    if (waitMs <= 0) return call.reject(new ConnectionLost(this.#why(), false));
    return this.#enqueue(call, waitMs);
  }

  /** Whatever settles the call first also tidies up after it. */
  #settleOnce(call) {
    for (const how of ["resolve", "reject"]) {
      const tell = call[how];
      call[how] = (value) => {
        if (call.settled) return;
        call.settled = true;
        this.#options.clock.clearTimeout(call.timer);
        call.cleanUp();
        tell(value);
      };
    }
  }

  #enqueue(call, waitMs) {
    const { maxQueue, maxQueueBytes, clock } = this.#options;
    if (this.#queue.length >= maxQueue || this.#queueSize + call.size > maxQueueBytes) {
      call.reject(new QueueFull("too much waits to be sent already"));
      return;
    }
    this.#queue.push(call);
    this.#queueSize += call.size;
    const late = () => this.#abandon(call, new RequestTimeout(call.type, waitMs, false));
    call.timer = clock.setTimeout(late, waitMs);
    this.#pump();
  }

  #hasRoom() {
    const link = this.#link;
    if (!link?.isReady || link.buffered > BUFFERED_BYTES) return false;
    return link.session.inFlight < link.session.ready.limits.max_in_flight;
  }

  /** Send what waits, in order, as fast as the server takes it. */
  _pump() {
    this.#pump();
  }

  #pump() {
    const { clock } = this.#options;
    while (this.#queue.length > 0 && this.#credit > 0 && this.#hasRoom()) {
      const call = this.#queue.shift();
      this.#queueSize -= call.size;
      this.#credit -= 1;
      clock.clearTimeout(call.timer);
      this.#transmit(call);
    }
    if (this.#queue.length === 0 || !this.#link?.isReady || this.#pumpTimer !== null) return;
    const pause = this.#credit > 0 ? POLL_MS : ROUND_MS;
    this.#pumpTimer = clock.setTimeout(() => {
      this.#pumpTimer = null;
      if (pause === ROUND_MS) this.#refillCredit();
      this.#pump();
    }, pause);
  }

  #refillCredit() {
    this.#credit = this.#link?.session.ready?.limits.messages_per_second || 1;
  }

  #transmit(call) {
    const link = this.#link;
    const { session } = link;
    const id = call.send(session);
    const limit = session.ready.limits.max_message_bytes;
    if (bytesOf(session.outgoing.at(-1)) > limit) {
      session.outgoing.pop(); // it would cost the connection
      if (call.wantsAnswer) session.forget(id);
      const [, retry, message] = ERRORS.message_too_big;
      call.reject(new RequestRefused({ code: "message_too_big", message, retry }));
      return;
    }
    link.flush();
    call.sent = true;
    if (!call.wantsAnswer) {
      call.resolve();
      return;
    }
    call.id = id;
    link.calls.set(id, call);
    if (!call.isStream) {
      const late = () => this.#abandon(call, new RequestTimeout(call.type, call.timeoutMs, true));
      call.timer = this.#options.clock.setTimeout(late, call.timeoutMs);
    }
  }

  /** Nobody waits for this any more. A stream's end, where it is one, is awaited in silence. */
  #abandon(call, error) {
    if (call.settled) return;
    if (!call.sent) {
      this.#queue = this.#queue.filter((other) => other !== call);
      this.#queueSize -= call.size;
    } else if (call.isStream) {
      this.#link?.session.cancel(call.id);
      this.#link?.flush();
      call.take = () => {};
    } else {
      this.#link?.calls.delete(call.id);
      this.#link?.session.forget(call.id);
    }
    call.reject(error);
    this.#pump();
  }

  #cancelStream(call) {
    if (call !== null && !call.settled) this.#abandon(call, null);
  }

  /* Subscriptions. */

  #subscribe(subscription, link) {
    const id = link.session.subscribe(subscription.topics);
    const resolve = () => subscription._resolve();
    const reject = (error) => {
      if (error instanceof ConnectionLost) return; // the next connection asks again
      this.#subscriptions.delete(subscription);
      subscription._end(error);
    };
    link.calls.set(id, new Call("subscribe", null, { resolve, reject }));
    link.flush();
  }

  #unsubscribe(subscription) {
    if (!this.#subscriptions.delete(subscription)) return;
    const heard = new Set([...this.#subscriptions].flatMap(({ topics }) => topics));
    const unused = subscription.topics.filter((topic) => !heard.has(topic));
    if (unused.length > 0 && this.#link?.isReady) {
      this.#link.session.unsubscribe(unused);
      this.#link.flush();
    }
  }

  /* Connecting. */

  #attempt(why) {
    const { clock } = this.#options;
    clock.clearTimeout(this.#pauseTimer);
    this.#pauseTimer = null;
    this.#link = new Link(this, this.#options, why, (token) => token === this.#expiredToken);
    if (this.#state === "offline") this.#move("reconnecting");
    this.#link.start();
  }

  /** The network is back: no need to sit a pause out that was this client's own idea. */
  #networkIsBack() {
    if (this.#state !== "offline" || this.reason.refused) return;
    const { clock } = this.#options;
    clock.clearTimeout(this.#pauseTimer);
    const pause = this.#retrying.delayMs(0);
    this.#pauseTimer = clock.setTimeout(() => this.#attempt("connect"), pause);
  }

  #why() {
    return this.reason ?? lost("Not connected yet.");
  }

  #giveUp() {
    return this.reason.code === "normal" ? null : new ConnectionLost(this.reason, false);
  }

  #move(state, retryInMs = null) {
    this.#state = state;
    const detail = Object.freeze({ state, reason: this.reason, retryInMs });
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }

  #finish(reason) {
    const { clock } = this.#options;
    clock.clearTimeout(this.#pauseTimer);
    clock.clearTimeout(this.#pumpTimer);
    globalThis.removeEventListener?.("online", this.#online);
    this.#link = null;
    this.reason = reason;
    this.#state = "closed";
    for (const call of this.#queue.splice(0)) call.reject(new ConnectionLost(reason, false));
    for (const { reject } of this.#waiting.splice(0)) reject(new ConnectionLost(reason, false));
    const error = this.#giveUp();
    for (const inbox of [...this.#inboxes]) inbox.close(error);
    for (const subscription of [...this.#subscriptions]) subscription._end(error);
    this.#subscriptions.clear();
    this.#inboxes.clear();
    this.#queueSize = 0;
    this.#move("closed");
    for (const tell of this.#over.splice(0)) tell();
  }

  /* What a link says. */

  _opened(link) {
    if (link === this.#link) this.#move("authenticating");
  }

  _ready(link, ready) {
    if (link !== this.#link) return;
    this.ready = ready;
    this.#refillCredit();
    for (const subscription of this.#subscriptions) this.#subscribe(subscription, link);
    this.#move("ready");
    for (const { resolve } of this.#waiting.splice(0)) resolve(ready);
    this.#pump();
  }

  _taken(link, message, size) {
    if (message.type === "event") {
      for (const subscription of [...this.#subscriptions]) {
        if (subscription._topics.has(message.topic)) subscription._hear(message, size);
      }
      return;
    }
    const { type, data, id } = message;
    if (this.#options.onKept !== null && isString(id)) {
      this.#takeKept({ type, data, id });
      return;
    }
    const detail = Object.freeze({ type, data, id });
    for (const inbox of this.#inboxes) inbox.put(detail, size);
    this.dispatchEvent(new CustomEvent("message", { detail }));
  }

  _ended(link, reason) {
    if (link !== this.#link) return;
    const now = this.#options.clock.now();
    this.#link = null;
    this.reason = reason;
    if (reason.retry === "refresh_token") this.#expiredToken = link._heldToken;
    for (const call of link.calls.values()) call.reject(new ConnectionLost(reason, true));
    for (const subscription of this.#subscriptions) subscription._gap = true;
    const readyForMs = link.readyAt === null ? null : now - link.readyAt;
    const comeBackInMs = link.comeBackAt === null ? null : Math.max(0, link.comeBackAt - now);
    const facts = { readyForMs, comeBackInMs };
    const pause = this.#leaving ? null : this.#retrying.pauseMs(reason, facts);
    if (pause === null) {
      this.#finish(reason);
      return;
    }
    const still = reason.code === "token_unavailable" ? link._why : "connect";
    const why = reason.retry === "refresh_token" ? "expired" : still;
    this.#pauseTimer = this.#options.clock.setTimeout(() => this.#attempt(why), pause);
    this.#move("offline", pause);
  }

  /* What the server kept for this user: handed over once, then acknowledged. */

  #takeKept(kept) {
    const known = this.#kept.get(kept.id);
    if (known === "done") this.#acknowledge(kept.id);
    if (known !== undefined) return;
    if (this.#kept.size >= KEPT_IDS) {
      const done = [...this.#kept].find(([, how]) => how === "done");
      if (done === undefined) return; // it is not acknowledged, and comes again
      this.#kept.delete(done[0]);
    }
    this.#kept.set(kept.id, "handed over");
    this.#keptLast = this.#keptLast.then(async () => {
      try {
        await this.#options.onKept(kept);
      } catch {
        this.#kept.delete(kept.id); // the server keeps it, and sends it at the next `ready`
        return;
      }
      this.#kept.set(kept.id, "done");
      this.#acknowledge(kept.id);
    });
  }

  #acknowledge(id) {
    if (this.#link?.isReady) {
      this.#link.session.send("mailbox.ack", JSON.stringify({ ids: [id] }));
      this.#link.flush();
    }
  }
}

function checkType(type) {
  if (!isString(type) || !TYPE_NAME.test(type)) {
    throw new TypeError("a message type is 1 to 64 of a-z 0-9 _ . : -");
  }
  if (RESERVED.has(type)) throw new TypeError(`'${type}' is a type of the protocol's own`);
}

function checkOptions(options) {
  const { token, heartbeat, WebSocket, onKept } = options;
  const unknown = Object.keys(options).find(
    (name) => !(name in DEFAULTS) && name !== "clock" && name !== "WebSocket",
  );
  if (unknown !== undefined) throw new TypeError(`there is no option ${unknown}`);
  if (token !== null && !isString(token) && typeof token !== "function") {
    throw new TypeError("token is text, a function or null");
  }
  if (onKept !== null && typeof onKept !== "function") throw new TypeError("onKept is a function");
  if (!["message", "frame"].includes(heartbeat)) {
    throw new TypeError("heartbeat is message or frame");
  }
  if (typeof WebSocket !== "function") {
    throw new TypeError("there is no WebSocket here: give one in the options");
  }
  const numbers = ["readyTimeoutMs", "requestTimeoutMs", "queueTimeoutMs", "maxInboxBytes"];
  const wrong = numbers.find((name) => !(options[name] > 0));
  if (wrong !== undefined) throw new RangeError(`${wrong} is a number above 0`);
}

/** `ws` or `wss` is taken from the page where the URL does not say. */
function absolute(url) {
  let parsed;
  try {
    parsed = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError("this is no URL"); // without the URL: it may hold a secret
  }
  parsed.protocol = { "http:": "ws:", "https:": "wss:" }[parsed.protocol] ?? parsed.protocol;
  if (!["ws:", "wss:"].includes(parsed.protocol) || parsed.hash || parsed.username) {
    throw new TypeError("a WebSocket's URL is ws: or wss:, without a fragment, user or password");
  }
  return parsed.href;
}

function withQuery(url, parameters) {
  const parsed = new URL(url);
  for (const [name, value] of Object.entries(parameters)) parsed.searchParams.set(name, value);
  return parsed.href;
}

function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}

/**
 * A client that connects now, and comes back as the server advises, until it is closed.
 *
 * Throws `TypeError` or `RangeError` for a URL or an option that cannot be.
 * @param {string | URL} url  absolute, or relative to the page: `/ws/rooms/1`
 * @param {Options} [options]
 * @returns {Client}
 */
export function connect(url, options = {}) {
  return new Client(url, options);
}
