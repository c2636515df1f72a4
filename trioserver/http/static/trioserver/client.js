import { ClientConnection } from "./connection.js";
import { CLOSED, CloseReason, ConnectionLostError } from "./errors.js";
import { completeOptions } from "./options.js";
import { checkType, encode, isString } from "./protocol.js";
import { ReconnectPolicy } from "./reconnect_policy.js";
import { PendingRequest, SendQueue } from "./requests.js";
import { StoredMessages } from "./stored_messages.js";
import { ReceiveBuffer, Stream } from "./streams.js";
import { SubscriberRegistry } from "./subscriptions.js";

/** @typedef {import("./options.js").Options} Options */

const NOT_CONNECTED = CloseReason.local("Not connected yet.");

/**
 * What `connect` returns. Events: `state`, with `{state, reason, retryInMs}` as `detail`; `message`,
 * with `{type, data, id}`, for messages that the application sends without a request.
 *
 * States: `connecting` (for the first time), `authenticating`, `ready`, `offline` (until the next
 * attempt, in `retryInMs`), `reconnecting` (an attempt is under way), `closed` (for good).
 */
export class Client extends EventTarget {
  #options;
  #policy;
  #state = "connecting";
  #connection = null;
  #queue;
  #subscribers;
  #stored;
  #buffers = new Set();
  #pauseTimer = null;
  #waiting = [];
  #expiredToken = null;
  #leaving = false;
  #leavers = [];
  #online = () => this.#networkIsBack();

  /** @hideconstructor */
  constructor(url, options) {
    super();
    this.#options = completeOptions(url, options);
    /** The last `ready`: connection id, user, limits. */
    this.ready = null;
    /** How the last connection, or the last attempt, ended. @type {CloseReason | null} */
    this.reason = null;
    const { reconnect, backoff, maxAttempts, random, token, onStoredMessage } = this.#options;
    const canRefresh = typeof token === "function";
    this.#policy = new ReconnectPolicy({ ...backoff, reconnect, maxAttempts, random, canRefresh });
    this.#queue = new SendQueue(this.#options);
    this.#subscribers = new SubscriberRegistry(this.#options);
    if (onStoredMessage !== null) {
      this.#stored = new StoredMessages(onStoredMessage, (id) => this.#acknowledge(id));
    }
    globalThis.addEventListener?.("online", this.#online);
    queueMicrotask(() => {
      if (this.#state !== "connecting") return;
      this.#setState("connecting"); // for listeners that were added after the constructor
      if (this.#state === "connecting") this.#attempt("connect");
    });
  }

  get state() {
    return this.#state;
  }

  /** Number of messages that wait to be sent. */
  get queued() {
    return this.#queue.length;
  }

  /* Requests. */

  /**
   * Send a request, and return the data of its answer. Without a connection it waits, in order, for
   * the next one. What was sent is never sent again. Rejects with `RequestRejectedError`,
   * `ConnectionLostError`, `RequestTimeoutError`, `QueueFullError`, `TypeError` for data that JSON
   * cannot express, and the reason of the signal when it is aborted.
   * @param {string} type
   * @param {any} [data]
   * @param {{timeoutMs?: number, queueTimeoutMs?: number, signal?: AbortSignal}} [options]
   *   `queueTimeoutMs` 0: only if it can be sent now
   * @returns {Promise<any>}
   */
  async request(type, data, options = {}) {
    checkType(type);
    const body = encode(data);
    const send = (protocol) => protocol.request(type, body);
    return (await this.#request(type, send, body, options)).data ?? null;
  }

  /**
   * Send a message that needs no answer. Resolves when the socket has it; it may still get lost.
   * @param {string} type
   * @param {any} [data]
   * @param {{queueTimeoutMs?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<void>}
   */
  async send(type, data, options = {}) {
    checkType(type);
    const body = encode(data);
    const send = (protocol) => protocol.send(type, body);
    await this.#request(type, send, body, options, { wantsAnswer: false });
  }

  /**
   * Publish an event, and return its offset when the server has acknowledged it.
   * @param {string} topic
   * @param {any} data
   * @param {{timeoutMs?: number, queueTimeoutMs?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<number | undefined>}
   */
  async publish(topic, data, options = {}) {
    const body = encode(data ?? null);
    const send = (protocol) => protocol.publish(String(topic), body);
    return (await this.#request("publish", send, body, options)).data?.offset;
  }

  /** Milliseconds until the server's `pong`. @returns {Promise<number>} */
  async ping() {
    const begun = this.#options.clock.now();
    await this.#request("ping", (protocol) => protocol.ping(), "", { queueTimeoutMs: 0 });
    return this.#options.clock.now() - begun;
  }

  /**
   * Send a request that is answered in chunks.
   * @param {string} type
   * @param {any} [data]
   * @param {{queueTimeoutMs?: number, signal?: AbortSignal}} [options]
   */
  stream(type, data, options = {}) {
    checkType(type);
    const body = encode(data);
    const cancel = () => this.#queue.abandon(request, null);
    const buffer = new ReceiveBuffer(this.#options.maxBufferBytes, cancel);
    const stream = new Stream(buffer);
    const request = new PendingRequest(type, (protocol) => protocol.request(type, body), {
      size: body?.length ?? 0,
      isStream: true,
      resolve: (end) => {
        stream.result = end.data;
        buffer.close();
      },
      reject: (error) => buffer.close(error),
      receiveChunk: (chunk, size) => {
        if (!buffer.put(chunk.data, size)) stream.cancel();
      },
    });
    this.#submit(request, options);
    return stream;
  }

  /**
   * Subscribe to at most 100 topics, across reconnects. A `handler` is called with each event, and
   * `onEnd` at the end, with the error or null. Without a handler, iterate over the subscription.
   * @param {string | string[]} topics
   * @param {((event: {topic: string, offset: number, data: any, gap: boolean}) => any) | null}
   *   [handler]
   * @param {{onEnd?: ((error: Error | null) => void) | null}} [options]
   */
  subscribe(topics, handler = null, { onEnd = null } = {}) {
    const subscriber = this.#subscribers.make(topics, handler, onEnd);
    if (this.#state === "closed") subscriber.end(this.#endError());
    else this.#subscribers.add(subscriber);
    return subscriber.subscription;
  }

  /** Iterate over messages that the application sends without a request. */
  messages() {
    const { maxBufferBytes } = this.#options;
    const buffer = new ReceiveBuffer(maxBufferBytes, () => this.#buffers.delete(buffer));
    if (this.#state === "closed") buffer.close(this.#endError());
    else this.#buffers.add(buffer);
    return buffer;
  }

  /**
   * Send a new token of the same user. A token that is rejected ends the connection.
   * @param {string} token
   * @returns {Promise<void>}
   */
  refresh(token) {
    if (this.#connection?.isReady) return this.#connection.refresh(token);
    return Promise.reject(new ConnectionLostError(this.#notReady(), false));
  }

  /** Resolves with `ready`. Rejects with `ConnectionLostError` if the client is closed before. */
  whenReady() {
    if (this.#state === "ready") return Promise.resolve(this.ready);
    if (this.#state === "closed") return Promise.reject(new ConnectionLostError(this.reason, false));
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Do not wait for the pause before the next attempt to end. */
  reconnect() {
    if (this.#state === "offline") this.#attempt("connect");
  }

  /** Close for good. What was not sent is rejected. Resolves when the connection has ended. */
  close() {
    if (this.#state === "closed") return Promise.resolve();
    const closed = new Promise((resolve) => this.#leavers.push(resolve));
    if (this.#leaving) return closed;
    this.#leaving = true;
    if (this.#connection === null) this.#finish(CLOSED);
    else this.#connection.leave();
    return closed;
  }

  #request(type, send, body, options, more = {}) {
    return new Promise((resolve, reject) => {
      const size = body?.length ?? 0;
      this.#submit(new PendingRequest(type, send, { resolve, reject, size, ...more }), options);
    });
  }

  #submit(request, options) {
    if (this.#state === "closed") request.reject(new ConnectionLostError(this.reason, false));
    else this.#queue.submit(request, options, this.#notReady());
  }

  /* Connections. */

  #attempt(why) {
    const { clock } = this.#options;
    clock.clearTimeout(this.#pauseTimer);
    this.#pauseTimer = null;
    const events = {
      opened: (connection) => connection === this.#connection && this.#setState("authenticating"),
      ready: (connection, ready) => connection === this.#connection && this.#whenConnected(ready),
      pushed: (message, size) => this.#pushed(message, size),
      answered: () => this.#queue.flush(),
      ended: (connection, reason) => connection === this.#connection && this.#ended(reason),
    };
    const isExpired = (token) => token === this.#expiredToken;
    this.#connection = new ClientConnection(this.#options, why, events, isExpired);
    if (this.#state === "offline") this.#setState("reconnecting");
    this.#connection.start();
  }

  #whenConnected(ready) {
    this.ready = ready;
    this.#queue.connected(this.#connection);
    this.#subscribers.connected(this.#connection);
    this.#setState("ready");
    for (const { resolve } of this.#waiting.splice(0)) resolve(ready);
    this.#queue.flush();
  }

  #pushed(message, size) {
    if (message.type === "event") {
      this.#subscribers.deliver(message, size);
      return;
    }
    const { type, data, id } = message;
    if (this.#stored !== undefined && isString(id)) {
      this.#stored.receive({ type, data, id });
      return;
    }
    const detail = Object.freeze({ type, data, id });
    for (const buffer of this.#buffers) buffer.put(detail, size);
    this.dispatchEvent(new CustomEvent("message", { detail }));
  }

  #acknowledge(id) {
    if (this.#connection?.isReady) {
      this.#connection.protocol.send("mailbox.ack", JSON.stringify({ ids: [id] }));
      this.#connection.flush();
    }
  }

  #ended(reason) {
    const now = this.#options.clock.now();
    const connection = this.#connection;
    const { readyAt, reconnectAt } = connection;
    this.#connection = null;
    this.reason = reason;
    if (reason.retry === "refresh_token") this.#expiredToken = connection.token;
    this.#queue.disconnected();
    connection.rejectAll();
    this.#subscribers.disconnected();
    const readyForMs = readyAt === null ? null : now - readyAt;
    const reconnectInMs = reconnectAt === null ? null : Math.max(0, reconnectAt - now);
    const facts = { readyForMs, reconnectInMs };
    const pause = this.#leaving ? null : this.#policy.pauseMs(reason, facts);
    if (pause === null) {
      this.#finish(reason);
      return;
    }
    const unanswered = reason.code === "token_unavailable" ? connection.why : "connect";
    const why = reason.retry === "refresh_token" ? "expired" : unanswered;
    this.#pauseTimer = this.#options.clock.setTimeout(() => this.#attempt(why), pause);
    this.#setState("offline", pause);
  }

  /** The network is back: shorten a pause that the server did not ask for. */
  #networkIsBack() {
    if (this.#state !== "offline" || this.reason.byServer) return;
    const { clock } = this.#options;
    clock.clearTimeout(this.#pauseTimer);
    const pause = this.#policy.delayMs(0);
    this.#pauseTimer = clock.setTimeout(() => this.#attempt("connect"), pause);
  }

  #notReady() {
    return this.reason ?? NOT_CONNECTED;
  }

  /** What iterations throw after the end, null for nothing. */
  #endError() {
    return this.reason.code === "normal" ? null : new ConnectionLostError(this.reason, false);
  }

  #setState(state, retryInMs = null) {
    this.#state = state;
    const detail = Object.freeze({ state, reason: this.reason, retryInMs });
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }

  #finish(reason) {
    this.#options.clock.clearTimeout(this.#pauseTimer);
    globalThis.removeEventListener?.("online", this.#online);
    this.#connection = null;
    this.reason = reason;
    this.#state = "closed";
    this.#queue.close(reason);
    for (const { reject } of this.#waiting.splice(0)) {
      reject(new ConnectionLostError(reason, false));
    }
    const error = this.#endError();
    for (const buffer of [...this.#buffers]) buffer.close(error);
    this.#buffers.clear();
    this.#subscribers.close(error);
    this.#setState("closed");
    for (const tell of this.#leavers.splice(0)) tell();
  }
}

/**
 * Make a client. It connects at once, and reconnects as the server advises until it is closed.
 *
 * Throws `TypeError` or `RangeError` for an invalid URL or option.
 * @param {string | URL} url  absolute, or relative to the page: `/ws/rooms/1`
 * @param {Options} [options]
 * @returns {Client}
 */
export function connect(url, options = {}) {
  return new Client(url, options);
}
