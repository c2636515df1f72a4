import {
  CLOSED,
  CloseReason,
  ConnectionLostError,
  NO_CLOSE_CODE,
  NORMAL_CLOSURE,
  ProtocolError,
  RequestRejectedError,
} from "./errors.js";
import { withQuery } from "./options.js";
import { ClientProtocol, isString, SUBPROTOCOL } from "./protocol.js";
import { PendingRequest } from "./requests.js";

const OPEN = 1; // a WebSocket's readyState
const PROTOCOL_ERROR_CLOSE = 4900; // browsers do not allow pages to close with 1002
const CLOSE_TIMEOUT_MS = 5000; // for the closing handshake, and for the Close after a fatal error
const LATE_MS = 1000; // if a timer fires later than this, the machine was suspended
const REFRESH_PAUSE_MS = 1000; // minimum between two attempts to refresh a token

/**
 * One connection, from asking for the token to the end.
 *
 * `events` is told what happens: `opened(connection)`, `ready(connection, message)`,
 * `pushed(message, size)` for messages that answer no request, `answered()` after an answer, and
 * `ended(connection, reason)`.
 */
export class ClientConnection {
  #options;
  #events;
  #isExpired;
  #token = null;
  #socket = null;
  #pending = new Map();
  #timers = {};

  /** `isExpired` says whether a token is known to have expired. */
  constructor(options, why, events, isExpired) {
    this.protocol = new ClientProtocol(options.clock.now());
    /** Why the token is asked for. */
    this.why = why;
    this.reason = null;
    this.readyAt = null;
    this.reconnectAt = null;
    this.#options = options;
    this.#events = events;
    this.#isExpired = isExpired;
  }

  /** The last token that was sent. */
  get token() {
    return this.#token;
  }

  get isReady() {
    return this.protocol.state === "ready" && this.#socket?.readyState === OPEN;
  }

  /** Bytes that the socket has accepted and not sent yet. */
  get bufferedBytes() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /* Life. */

  async start() {
    const { readyTimeoutMs } = this.#options;
    const late = () => this.end(CloseReason.local("Not ready in time.", "connect_timeout"));
    this.#after("ready", readyTimeoutMs, late);
    let token;
    try {
      token = await this.#askForToken(this.why);
    } catch (error) {
      const retry = error?.retry === "never" ? "never" : "backoff";
      this.end(CloseReason.local("No token could be obtained.", "token_unavailable", retry));
      return;
    }
    if (this.reason === null) this.#open(token);
  }

  #open(token) {
    const { url, WebSocket, tokenInQuery, heartbeat } = this.#options;
    const inQuery = tokenInQuery && token !== null;
    try {
      const target = inQuery ? withQuery(url, { token, heartbeat }) : url;
      this.#socket = new WebSocket(target, [SUBPROTOCOL]);
    } catch {
      // The text of the exception may quote the URL, which may contain a token.
      this.end(CloseReason.local("The browser rejects this URL.", "bad_url", "never"));
      return;
    }
    const socket = this.#socket;
    socket.onopen = () => this.#opened(token, inQuery);
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onerror = () => {}; // `close` follows, and says as much
    socket.onclose = ({ code, reason }) => {
      this.#socket = null;
      this.end(this.#reasonOf(code, reason));
    };
  }

  #reasonOf(code, text) {
    const { failure, state } = this.protocol;
    if (failure !== null) return CloseReason.fromError(failure, code);
    const opened = state !== "connected";
    if (!opened && NO_CLOSE_CODE.includes(code)) return CloseReason.local("Cannot connect.");
    return CloseReason.fromClose(code, text);
  }

  #opened(token, inQuery) {
    const { heartbeat, initial, onStoredMessage } = this.#options;
    const fields = onStoredMessage === null ? initial : { mailbox: "ack", ...(initial ?? {}) };
    this.protocol.authenticate(token, { heartbeat, inQuery, initial: fields });
    this.flush();
    this.#events.opened(this);
  }

  /** End the connection. Only the first reason counts. */
  end(reason) {
    if (this.reason !== null) return;
    this.reason = reason;
    this.protocol.lost();
    Object.keys(this.#timers).forEach((name) => this.#stop(name));
    const socket = this.#socket;
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      const code = reason.code === "protocol_error" ? PROTOCOL_ERROR_CLOSE : NORMAL_CLOSURE;
      socket.close(code, reason.isNormal ? "" : reason.code);
    }
    this.#events.ended(this, reason);
  }

  /** Close normally, and wait for a while until the server has closed too. */
  leave() {
    if (this.#socket?.readyState !== OPEN) {
      this.end(CLOSED);
      return;
    }
    this.protocol.lost();
    this.#socket.onmessage = null;
    this.#socket.onclose = () => {
      this.#socket = null;
      this.end(CLOSED);
    };
    this.#after("close", CLOSE_TIMEOUT_MS, () => this.end(CLOSED));
    this.#socket.close(NORMAL_CLOSURE);
  }

  /* Requests. */

  /** Send the messages that the protocol wants to send. */
  flush() {
    const messages = this.protocol.outgoing.splice(0);
    if (this.#socket?.readyState === OPEN) messages.forEach((text) => this.#socket.send(text));
  }

  /** Settle this request with the answer to this id. */
  track(id, request) {
    this.#pending.set(id, request);
  }

  /** Stop waiting for an answer. */
  forget(id) {
    this.#pending.delete(id);
    this.protocol.forget(id);
  }

  /** Reject all pending requests, after the end; each with an error of its own. */
  rejectAll() {
    for (const request of this.#pending.values()) {
      request.reject(new ConnectionLostError(this.reason, true));
    }
  }

  /* Messages. */

  #receive(text) {
    if (this.protocol.failure !== null) return;
    let message;
    try {
      if (!isString(text)) throw new ProtocolError("A binary message came.");
      message = this.protocol.receive(text, this.#options.clock.now());
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.end(new CloseReason("protocol_error", error.message, "never", { closeCode: 1002 }));
      return;
    }
    this.flush();
    if (message !== null) this.#dispatch(message, text.length);
  }

  #dispatch(message, size) {
    const { clock } = this.#options;
    switch (message.type) {
      case "ready":
        this.#stop("ready");
        this.readyAt = clock.now();
        this.#watch(this.#silenceLimitMs);
        this.#events.ready(this, message);
        break;
      case "error":
        if (message.fatal) {
          this.#stop("watch");
          const end = () => this.end(CloseReason.fromError(message, null));
          this.#after("close", CLOSE_TIMEOUT_MS, end);
        } else {
          this.#settle(message.id, (request) => request.reject(new RequestRejectedError(message)));
        }
        break;
      case "chunk":
        this.#pending.get(message.id)?.receiveChunk(message, size);
        break;
      case "ack":
      case "end":
      case "pong":
      case "auth_refreshed":
        this.#settle(message.id, (request) => request.resolve(message));
        break;
      case "auth_expiring":
        this.#refreshUntil(clock.now() + message.expires_in_ms);
        break;
      case "goaway":
        this.reconnectAt = clock.now() + message.reconnect_after_ms;
        break;
      case "hello":
      case "ping":
        break;
      default:
        this.#events.pushed(message, size);
    }
  }

  #settle(id, how) {
    const request = this.#pending.get(id);
    if (request !== undefined) {
      this.#pending.delete(id);
      how(request);
    }
    this.#events.answered();
  }

  /* Time. */

  get #silenceLimitMs() {
    const { interval_ms: interval, timeout_ms: timeout } = this.protocol.ready.heartbeat;
    return interval + timeout;
  }

  /**
   * End the connection if nothing arrives although `ready` promised regular heartbeats. It sends a
   * `ping` first in two cases: the heartbeats are WebSocket pings, which pages cannot see; or this
   * timer fires late, because the machine was suspended and what arrived may not be delivered yet.
   */
  #watch(ms, asked = false) {
    const { clock } = this.#options;
    const due = clock.now() + ms;
    this.#after("watch", ms, () => {
      const { mode, timeout_ms: timeout } = this.protocol.ready.heartbeat;
      const now = clock.now();
      const left = this.protocol.lastReceived + this.#silenceLimitMs - now;
      if (left > 0) {
        this.#watch(left);
      } else if (!asked && (mode !== "message" || now - due > LATE_MS)) {
        this.protocol.forget(this.protocol.ping());
        this.flush();
        this.#watch(timeout, true);
      } else {
        const text = "Nothing was received from the server for too long.";
        this.end(CloseReason.local(text, "server_silent"));
      }
    });
  }

  /** Refresh the token. If that fails, the old one stays in use, and it is tried again. */
  async #refreshUntil(expiry) {
    if (typeof this.#options.token !== "function") return;
    try {
      await this.refresh(await this.#askForToken("expiring"));
    } catch {
      const left = expiry - this.#options.clock.now();
      const pause = Math.max(REFRESH_PAUSE_MS, left / 4);
      if (this.isReady && pause < left) {
        this.#after("refresh", pause, () => this.#refreshUntil(expiry));
      }
    }
  }

  /** Send a new token. Resolves when the server has accepted it. */
  refresh(token) {
    return new Promise((resolve, reject) => {
      if (!this.isReady) {
        throw new ConnectionLostError(this.reason ?? CloseReason.local("Not ready."), false);
      }
      const id = this.protocol.authenticate(token, { heartbeat: this.#options.heartbeat });
      this.#token = token;
      this.track(id, new PendingRequest("auth", null, { resolve: () => resolve(), reject }));
      this.flush();
    });
  }

  /** The current token. Throws what the page's function throws. */
  async #askForToken(why) {
    const { token: given } = this.#options;
    if (typeof given !== "function") return given;
    const token = (await given({ why })) ?? null;
    if (token !== null && !isString(token)) throw new TypeError("token must be a string or null");
    if (token !== null && this.#isExpired(token)) throw new Error("the expired token was returned");
    this.#token = token;
    return token;
  }

  #after(name, ms, callback) {
    this.#stop(name);
    if (this.reason === null) this.#timers[name] = this.#options.clock.setTimeout(callback, ms);
  }

  #stop(name) {
    this.#options.clock.clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }
}
