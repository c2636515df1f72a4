import {
  ConnectionLostError,
  ERRORS,
  QueueFullError,
  RequestRejectedError,
  RequestTimeoutError,
} from "./errors.js";
import { bytesOf } from "./protocol.js";

/** A request, from the moment it is queued until it is answered. It is settled only once. */
export class PendingRequest {
  #resolve;
  #reject;

  /**
   * @param {string} type
   * @param {((protocol: object) => number) | null} send  sends it and returns its id
   * @param {object} handlers
   *   `resolve` and `reject` are called with the outcome, `receiveChunk` with each chunk and its size
   */
  constructor(type, send, { resolve, reject, receiveChunk = () => {}, ...more }) {
    Object.assign(this, { type, send, receiveChunk });
    Object.assign(this, { wantsAnswer: true, isStream: false, size: 0 }, more);
    this.#resolve = resolve;
    this.#reject = reject;
    this.id = null;
    this.connection = null; // on which it was sent
    this.timer = null;
    this.isSettled = false;
    /** Called when it is settled. */
    this.cleanUp = () => {};
  }

  get isSent() {
    return this.connection !== null;
  }

  resolve(value) {
    this.#settle(this.#resolve, value);
  }

  reject(error) {
    this.#settle(this.#reject, error);
  }

  #settle(tell, value) {
    if (this.isSettled) return;
    this.isSettled = true;
    this.cleanUp();
    tell(value);
  }
}

const BUFFERED_BYTES = 256 * 1024; // above this the socket's own buffer gets no more messages
const POLL_MS = 50; // a socket does not report that its buffer has become smaller
const ROUND_MS = 1000; // queued messages are sent at the server's messages per second at most

/** Requests that wait for a connection, and sends them in order, as fast as the server allows. */
export class SendQueue {
  #options;
  #connection = null;
  #requests = [];
  #size = 0;
  #credit = 0;
  #timer = null;

  constructor(options) {
    this.#options = options;
  }

  /** Number of messages that wait. */
  get length() {
    return this.#requests.length;
  }

  /** Use this connection from now on, which is ready. Then call `flush`. */
  connected(connection) {
    this.#connection = connection;
    this.#refillCredit();
  }

  disconnected() {
    this.#connection = null;
  }

  /**
   * Send a request now, or queue it. `notReady` is the reason for a request that must not wait.
   * @param {{timeoutMs?: number, queueTimeoutMs?: number, signal?: AbortSignal}} options
   */
  submit(request, options, notReady) {
    const { requestTimeoutMs, queueTimeoutMs: defaultTimeoutMs, clock } = this.#options;
    const { timeoutMs = requestTimeoutMs, queueTimeoutMs = defaultTimeoutMs, signal } = options;
    request.timeoutMs = timeoutMs;
    if (signal?.aborted) return request.reject(signal.reason);
    const abort = () => this.abandon(request, signal.reason);
    signal?.addEventListener("abort", abort, { once: true });
    request.cleanUp = () => {
      clock.clearTimeout(request.timer);
      signal?.removeEventListener("abort", abort);
    };
    if (this.#requests.length === 0 && this.#canSend()) return this.#send(request);
    if (queueTimeoutMs <= 0) return request.reject(new ConnectionLostError(notReady, false));
    return this.#enqueue(request, queueTimeoutMs);
  }

  #enqueue(request, queueTimeoutMs) {
    const { maxQueue, maxQueueBytes, clock } = this.#options;
    if (this.#requests.length >= maxQueue || this.#size + request.size > maxQueueBytes) {
      request.reject(new QueueFullError("the send queue is full"));
      return;
    }
    this.#requests.push(request);
    this.#size += request.size;
    const { type } = request;
    const late = () => this.abandon(request, new RequestTimeoutError(type, queueTimeoutMs, false));
    request.timer = clock.setTimeout(late, queueTimeoutMs);
    this.flush();
  }

  #canSend() {
    const connection = this.#connection;
    if (!connection?.isReady || connection.bufferedBytes > BUFFERED_BYTES) return false;
    const { protocol } = connection;
    return protocol.inFlight < protocol.ready.limits.max_in_flight;
  }

  /** Send queued requests in order, as fast as the server allows. */
  flush() {
    const { clock } = this.#options;
    while (this.#requests.length > 0 && this.#credit > 0 && this.#canSend()) {
      const request = this.#requests.shift();
      this.#size -= request.size;
      this.#credit -= 1;
      clock.clearTimeout(request.timer);
      this.#send(request);
    }
    if (this.#requests.length === 0 || !this.#connection?.isReady || this.#timer !== null) return;
    const pause = this.#credit > 0 ? POLL_MS : ROUND_MS;
    this.#timer = clock.setTimeout(() => {
      this.#timer = null;
      if (pause === ROUND_MS) this.#refillCredit();
      this.flush();
    }, pause);
  }

  #refillCredit() {
    this.#credit = this.#connection?.protocol.ready?.limits.messages_per_second || 1;
  }

  #send(request) {
    const connection = this.#connection;
    const { protocol } = connection;
    const id = request.send(protocol);
    const limit = protocol.ready.limits.max_message_bytes;
    if (bytesOf(protocol.outgoing.at(-1)) > limit) {
      protocol.outgoing.pop(); // the server would close the connection
      if (request.wantsAnswer) protocol.forget(id);
      const [, retry, message] = ERRORS.message_too_big;
      request.reject(new RequestRejectedError({ code: "message_too_big", message, retry }));
      return;
    }
    connection.flush();
    request.connection = connection;
    if (!request.wantsAnswer) {
      request.resolve();
      return;
    }
    request.id = id;
    connection.track(id, request);
    if (!request.isStream) {
      const { type, timeoutMs } = request;
      const late = () => this.abandon(request, new RequestTimeoutError(type, timeoutMs, true));
      request.timer = this.#options.clock.setTimeout(late, timeoutMs);
    }
  }

  /** Reject a request that no code waits for any more. A stream is cancelled on the server. */
  abandon(request, error) {
    if (request.isSettled) return;
    const { connection, id } = request;
    if (!request.isSent) {
      this.#requests = this.#requests.filter((other) => other !== request);
      this.#size -= request.size;
    } else if (request.isStream) {
      connection.protocol.cancel(id);
      connection.flush();
      request.receiveChunk = () => {};
    } else {
      connection.forget(id);
    }
    request.reject(error);
    this.flush();
  }

  /** Reject everything that waits: the client is closed. */
  close(reason) {
    this.#options.clock.clearTimeout(this.#timer);
    this.#connection = null;
    const requests = this.#requests.splice(0);
    this.#size = 0;
    for (const request of requests) request.reject(new ConnectionLostError(reason, false));
  }
}
