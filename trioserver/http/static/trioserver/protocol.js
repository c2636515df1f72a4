import { ProtocolError } from "./errors.js";

export const SUBPROTOCOL = "trioserver.v1";

export const isString = (value) => typeof value === "string";
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isId = (value) => (isString(value) && value.length > 0) || Number.isSafeInteger(value);
const optional = (isValid) => (value) => value === undefined || value === null || isValid(value);
const isPresent = (value) => value !== undefined;
const has = (shape) => (value) =>
  isObject(value) && Object.entries(shape).every(([name, isValid]) => isValid(value[name]));

/** The required fields of the server's messages. Other fields and other types are ignored. */
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
  chunk: { id: isId, seq: isCount, data: isPresent },
  end: { id: isId },
  event: { topic: isString, offset: Number.isSafeInteger, data: isPresent },
  goaway: { reason: isString, deadline_ms: isCount, reconnect_after_ms: isCount },
};

const TYPE_NAME = /^[a-z0-9_.:-]{1,64}$/;
const RESERVED = new Set([
  ...Object.keys(SHAPES), "auth", "cancel", "subscribe", "unsubscribe", "publish",
]); // prettier-ignore

/** Whether the protocol defines a message of the server with this type. */
const isKnown = (type) => Object.hasOwn(SHAPES, type);

/** Throws `TypeError` if an application must not use this type for its own messages. */
export function checkType(type) {
  if (!isString(type) || !TYPE_NAME.test(type)) {
    throw new TypeError("invalid message type: use 1 to 64 of the characters a-z 0-9 _ . : -");
  }
  if (RESERVED.has(type)) throw new TypeError(`the protocol reserves the message type '${type}'`);
}

/** Decode a message of the server. Throws `ProtocolError`. */
function decode(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    throw new ProtocolError("A message is not JSON.");
  }
  if (!isObject(message) || !isString(message.type) || !TYPE_NAME.test(message.type)) {
    throw new ProtocolError("A message is not an object with a type.");
  }
  const shape = isKnown(message.type) ? SHAPES[message.type] : {};
  const wrong = Object.keys(shape).find((name) => !shape[name](message[name]));
  if (wrong !== undefined) throw new ProtocolError(`${message.type}: ${wrong} is not valid.`);
  return message;
}

/**
 * Encode application data as JSON, at once, so that later changes to it have no effect. Undefined
 * stays undefined.
 */
export function encode(data) {
  const body = JSON.stringify(data);
  if (data !== undefined && body === undefined) throw new TypeError("JSON cannot express this data");
  if (body !== undefined && /\\ud[89a-f]/.test(body.replaceAll("\\\\", ""))) {
    throw new TypeError("a string contains half of a surrogate pair, which cannot be sent");
  }
  return body;
}

/** A message of the application; `body` is JSON, undefined for none. */
function encodeMessage(type, body, id) {
  const fields = [`"type":${JSON.stringify(type)}`];
  if (id !== undefined) fields.push(`"id":${id}`);
  if (body !== undefined) fields.push(`"data":${body}`);
  return `{${fields.join(",")}}`;
}

/** The bytes of a text as UTF-8. */
export function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}

/**
 * The client's table of `docs/protocol.md`: state, trigger, then the next state or an error code.
 * An error is thrown: for `AUTHENTICATE` and `SEND` it is the caller's, for the others the server's.
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

const TRIGGERS = new Map([
  ["hello", "HELLO"], ["ready", "READY"], ["ping", "HEARTBEAT"], ["pong", "HEARTBEAT"],
]); // prettier-ignore

/**
 * The protocol state of one connection: text in, messages out, text to send, time as an argument.
 *
 * Call `receive` with each text message, and send what is appended to `outgoing`. A violation by the
 * caller throws an `Error`, one by the server a `ProtocolError`.
 */
export class ClientProtocol {
  #lastId = 0;
  /** From the id of a pending request to the number of its next chunk. */
  #pending = new Map();

  /** @param {number} now */
  constructor(now) {
    this.state = "connected";
    /** @type {string[]} */
    this.outgoing = [];
    this.ready = null;
    this.failure = null;
    this.lastReceived = now;
  }

  /** Number of requests without an answer. */
  get inFlight() {
    return this.#pending.size;
  }

  /**
   * Send `auth`. When ready this refreshes the token, and the id of the `auth` is returned. With
   * `inQuery` the token is in the URL, and nothing is sent. The fields of `initial` replace or
   * extend those of `auth`.
   */
  authenticate(token, { heartbeat = "message", inQuery = false, initial = null } = {}) {
    const refreshing = this.state === "ready";
    this.#transition("AUTHENTICATE");
    if (inQuery) return null;
    const id = refreshing ? this.#newId() : null;
    const fields = { type: "auth" };
    if (token !== null) fields.token = token;
    if (id !== null) fields.id = id;
    this.#send({ ...fields, heartbeat, ...(initial ?? {}) });
    return id;
  }

  /** An application's message that needs an answer; `body` is JSON, undefined for none. */
  request(type, body) {
    this.#transition("SEND");
    const id = this.#newId();
    this.outgoing.push(encodeMessage(type, body, id));
    return id;
  }

  /** An application's message that needs no answer. */
  send(type, body) {
    this.#transition("SEND");
    this.outgoing.push(encodeMessage(type, body));
  }

  subscribe(topics) {
    return this.#request({ type: "subscribe", topics });
  }

  unsubscribe(topics) {
    return this.#request({ type: "unsubscribe", topics });
  }

  publish(topic, body) {
    this.#transition("SEND");
    const id = this.#newId();
    const fields = `"id":${id},"topic":${JSON.stringify(topic)},"data":${body}`;
    this.outgoing.push(`{"type":"publish",${fields}}`);
    return id;
  }

  ping() {
    return this.#request({ type: "ping" });
  }

  /** End a stream early. Its `end` still arrives. An id that is not pending is ignored. */
  cancel(id) {
    if (this.#pending.has(id)) {
      this.#transition("SEND");
      this.#send({ type: "cancel", id });
    }
  }

  /** Stop tracking a request. */
  forget(id) {
    this.#pending.delete(id);
  }

  /**
   * Process a text message. Returns the message, or null if the caller need not handle it. When
   * ready, a `ping` is answered here. Before that, a message of an unknown type is ignored, because
   * the server may be newer. Throws `ProtocolError`.
   * @param {string} text
   * @param {number} now
   */
  receive(text, now) {
    this.lastReceived = now;
    const message = decode(text);
    const trigger = triggerOf(message);
    this.#transition(trigger);
    if (trigger === "UNKNOWN" && this.state !== "ready") return null;
    switch (message.type) {
      case "ping":
        if (this.state === "ready") this.#send(pongOf(message));
        break;
      case "ready":
        this.ready = message;
        break;
      case "error":
        if (message.fatal) {
          this.failure = message;
          this.#pending.clear();
        } else {
          this.#pending.delete(message.id);
        }
        break;
      case "chunk":
        return this.#receiveChunk(message);
      case "ack":
      case "end":
      case "pong":
      case "auth_refreshed":
        this.#pending.delete(message.id);
    }
    return message;
  }

  /** Record that the connection has ended. */
  lost() {
    this.state = "closed";
    this.#pending.clear();
  }

  #receiveChunk(message) {
    const expected = this.#pending.get(message.id);
    if (expected === undefined) return null;
    if (message.seq !== expected) {
      throw new ProtocolError(`Chunk ${message.seq} came in place of ${expected}.`);
    }
    this.#pending.set(message.id, expected + 1);
    return message;
  }

  #request(message) {
    this.#transition("SEND");
    const id = this.#newId();
    this.#send({ ...message, id });
    return id;
  }

  #newId() {
    this.#lastId += 1;
    this.#pending.set(this.#lastId, 0);
    return this.#lastId;
  }

  #send(message) {
    this.outgoing.push(JSON.stringify(message));
  }

  #transition(trigger) {
    const outcome = TABLE[this.state][trigger];
    if (outcome in TABLE) {
      this.state = outcome;
    } else if (trigger === "AUTHENTICATE" || trigger === "SEND") {
      throw new Error(`${outcome}: cannot send when ${this.state}`);
    } else {
      throw new ProtocolError(`Not allowed when ${this.state}: ${trigger.toLowerCase()}.`);
    }
  }
}

function triggerOf(message) {
  if (message.type === "error") return message.fatal ? "FATAL" : "ERROR";
  if (!isKnown(message.type)) return "UNKNOWN";
  return TRIGGERS.get(message.type) ?? "MESSAGE";
}

function pongOf({ id, data }) {
  return { type: "pong", id, data }; // JSON leaves out what is undefined
}
