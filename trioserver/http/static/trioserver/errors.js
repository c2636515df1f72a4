/** Error codes, reasons for the end of a connection, and the errors that the client throws. */

/** @typedef {"never" | "refresh_token" | "backoff"} Retry */

const RETRIES = ["never", "refresh_token", "backoff"];

/**
 * The table of errors of `docs/protocol.md`: close code (null if the error never closes the
 * connection), retry advice, message.
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

/** The retry advice, or "backoff" if a newer server sent an unknown value. @returns {Retry} */
const adviceOf = (retry) => (RETRIES.includes(retry) ? retry : "backoff");

/**
 * The error code of a Close frame: its reason, or the only possible one for its close code.
 * Null if the frame does not say enough.
 * @param {number} closeCode
 * @param {string} text
 */
function errorCodeOfClose(closeCode, text) {
  if (Object.hasOwn(ERRORS, text)) return text;
  const rows = Object.entries(ERRORS).filter(([, [code]]) => code === closeCode);
  return new Set(rows.map(([, [, retry]]) => retry)).size === 1 ? rows[0][0] : null;
}

export const NORMAL_CLOSURE = 1000;

/** RFC 6455, section 7.4.1: a Close frame without a code, and no Close frame at all. */
export const NO_CLOSE_CODE = [1005, 1006];

/**
 * Why a connection ended, or could not be opened.
 *
 * `code` is a key of `ERRORS`, a code of the application's own, or one of this client's: `normal`,
 * `closed` (by this program), `connection_lost`, `server_silent`, `connect_timeout`,
 * `token_unavailable`, `bad_url`. `message` is for people. `byServer` is false if this client or
 * the network ended the connection without a message or a Close frame from the server.
 */
export class CloseReason {
  /**
   * @param {string} code
   * @param {string} message
   * @param {Retry} retry
   * @param {{closeCode?: number | null, retryAfterMs?: number | null, byServer?: boolean}} [more]
   */
  constructor(code, message, retry, more = {}) {
    const { closeCode = null, retryAfterMs = null, byServer = true } = more;
    this.code = code;
    this.message = message;
    this.retry = retry;
    this.closeCode = closeCode;
    this.retryAfterMs = retryAfterMs;
    this.byServer = byServer;
    Object.freeze(this);
  }

  /** A reason that this client or the network gives, not the server. */
  static local(message, code = "connection_lost", retry = "backoff") {
    return new CloseReason(code, message, retry, { byServer: false });
  }

  /** From a fatal `error` message, and the close code that followed it, null without one. */
  static fromError(error, closeCode) {
    const { code, message, retry, retry_after_ms: retryAfterMs = null } = error;
    return new CloseReason(code, message, adviceOf(retry), { closeCode, retryAfterMs });
  }

  /**
   * From a Close frame without an `error` message before it; its text is an error code.
   * @param {number} closeCode
   * @param {string} text
   */
  static fromClose(closeCode, text) {
    if (closeCode === NORMAL_CLOSURE) {
      return new CloseReason("normal", "The server has finished.", "never", { closeCode });
    }
    const name = errorCodeOfClose(closeCode, text);
    if (name !== null) {
      const [, retry, message] = ERRORS[name];
      return new CloseReason(name, message, retry, { closeCode });
    }
    if (NO_CLOSE_CODE.includes(closeCode)) {
      return CloseReason.local("The connection ended without a close code.");
    }
    const retry = closeCode === 1008 || closeCode >= 4000 ? "never" : "backoff";
    const code = text || `close_${closeCode}`;
    return new CloseReason(code, `Closed with ${closeCode}.`, retry, { closeCode });
  }

  /** Whether one of the two sides closed the connection normally. */
  get isNormal() {
    return this.closeCode === NORMAL_CLOSURE;
  }

  /** For people: "access_denied: Not found or access denied. (close code 1008)". */
  toString() {
    const code = this.closeCode === null ? "" : ` (close code ${this.closeCode})`;
    return `${this.code}: ${this.message}${code}`;
  }
}

export const CLOSED = new CloseReason("closed", "Closed by this program.", "never", {
  closeCode: NORMAL_CLOSURE,
});

/** The base class of the errors that this client rejects with, or throws during iteration. */
export class ClientError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/**
 * The connection ended before the answer, or the client has given up; `reason` says why.
 *
 * If `sent` is false, the request never left this program. If it is true, the request may or may
 * not have been executed; it is not sent again, and the caller decides whether to.
 */
export class ConnectionLostError extends ClientError {
  /** @param {CloseReason} reason @param {boolean} sent */
  constructor(reason, sent) {
    super(String(reason));
    this.reason = reason;
    this.sent = sent;
  }
}

/** The server answered a request with an error. The connection stays open. */
export class RequestRejectedError extends ClientError {
  /** @param {{code: string, message: string, retry: Retry, retry_after_ms?: number}} error */
  constructor({ code, message, retry, retry_after_ms: retryAfterMs = null }) {
    super(`${code}: ${message}`);
    this.code = code;
    this.retry = adviceOf(retry);
    this.retryAfterMs = retryAfterMs;
  }
}

/** No answer arrived in time; `sent` is as in `ConnectionLostError`. */
export class RequestTimeoutError extends ClientError {
  /** @param {string} type @param {number} ms @param {boolean} sent */
  constructor(type, ms, sent) {
    super(`${type}: ${sent ? "no answer" : "could not be sent"} within ${ms} ms`);
    this.sent = sent;
  }
}

/** The send queue is full, so the message was not queued. */
export class QueueFullError extends ClientError {}

/** The consumer was too slow: `missed` items were dropped at this point of the sequence. */
export class BufferOverflowError extends ClientError {
  /** @param {number} missed */
  constructor(missed) {
    super(`${missed} items were dropped: the consumer was too slow`);
    this.missed = missed;
  }
}

/** The server violated the protocol. */
export class ProtocolError extends ClientError {}
