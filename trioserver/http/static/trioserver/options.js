import { isString } from "./protocol.js";

/**
 * @typedef {object} Options
 * @property {string | null | ((asked: {why: "connect" | "expired" | "expiring"}) =>
 *   string | null | Promise<string | null>)} [token]
 *   A string, or a function that is called for each connection, when the server says that the token
 *   has expired, and when it is about to. A rejection is a failed attempt; an error with
 *   `retry: "never"` closes the client. Without a function an expired token closes the client.
 * @property {"message" | "frame"} [heartbeat]  `message`, because pages cannot see WebSocket pings
 * @property {number} [readyTimeoutMs]  until ready, for each attempt; 30 s
 * @property {number} [requestTimeoutMs]  for an answer, from sending on; 30 s
 * @property {number} [queueTimeoutMs]  for waiting in the send queue; 10 min
 * @property {number} [maxQueue]  messages in the send queue; 1000
 * @property {number} [maxQueueBytes]  the same in characters of JSON; 1 MiB
 * @property {number} [maxBufferBytes]  what may wait for a slow consumer of a stream, of a
 *   subscription or of messages; 4 MiB
 * @property {boolean} [reconnect]  false closes the client with its first connection
 * @property {{firstMs?: number, maximumMs?: number}} [backoff]  pauses: 0.5 s, doubling to 30 s
 * @property {number | null} [maxAttempts]  consecutive ones that may fail before ready; null for no
 *   limit
 * @property {boolean} [tokenInQuery]  for routes that allow it; URLs are logged, so better do not
 * @property {object | null} [initial]  fields that replace or extend those of `auth`
 * @property {((message: {type: string, id: string, data: any}) => any) | null} [onStoredMessage]
 *   Handles messages that the server stored for this user; see docs/javascript.md
 * @property {typeof globalThis.WebSocket} [WebSocket]  if the platform has none
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
  maxBufferBytes: 4 * 1024 * 1024,
  reconnect: true,
  backoff: {},
  maxAttempts: null,
  tokenInQuery: false,
  initial: null,
  onStoredMessage: null,
  random: Math.random,
};

const CLOCK = {
  now: () => performance.now(),
  setTimeout: (callback, ms) => globalThis.setTimeout(callback, Math.min(ms, 2 ** 31 - 1)),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
};

/** All options with their defaults, and the absolute URL. Throws `TypeError` or `RangeError`. */
export function completeOptions(url, given) {
  const options = { ...DEFAULTS, clock: CLOCK, WebSocket: globalThis.WebSocket, ...given };
  check(options);
  options.url = absolute(url);
  return options;
}

function check(options) {
  const { token, heartbeat, WebSocket, onStoredMessage } = options;
  const unknown = Object.keys(options).find(
    (name) => !(name in DEFAULTS) && name !== "clock" && name !== "WebSocket",
  );
  if (unknown !== undefined) throw new TypeError(`unknown option ${unknown}`);
  if (token !== null && !isString(token) && typeof token !== "function") {
    throw new TypeError("token must be a string, a function or null");
  }
  if (onStoredMessage !== null && typeof onStoredMessage !== "function") {
    throw new TypeError("onStoredMessage must be a function or null");
  }
  if (!["message", "frame"].includes(heartbeat)) {
    throw new TypeError("heartbeat must be 'message' or 'frame'");
  }
  if (typeof WebSocket !== "function") {
    throw new TypeError("this platform has no WebSocket: pass one as the option WebSocket");
  }
  const numbers = ["readyTimeoutMs", "requestTimeoutMs", "queueTimeoutMs", "maxBufferBytes"];
  const wrong = numbers.find((name) => !(options[name] > 0));
  if (wrong !== undefined) throw new RangeError(`${wrong} must be a number above 0`);
}

/** Resolves a URL relative to the page; `http` becomes `ws`, `https` becomes `wss`. */
function absolute(url) {
  let parsed;
  try {
    parsed = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError("invalid URL"); // without the URL, which may contain a secret
  }
  parsed.protocol = { "http:": "ws:", "https:": "wss:" }[parsed.protocol] ?? parsed.protocol;
  if (!["ws:", "wss:"].includes(parsed.protocol) || parsed.hash || parsed.username) {
    throw new TypeError("a WebSocket URL is ws: or wss:, without a fragment, user or password");
  }
  return parsed.href;
}

/** Add parameters to the query of a URL. */
export function withQuery(url, parameters) {
  const parsed = new URL(url);
  for (const [name, value] of Object.entries(parameters)) parsed.searchParams.set(name, value);
  return parsed.href;
}
