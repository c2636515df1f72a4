/**
 * A page's connection, and how it is, in words: connecting, connected, offline, reconnecting, error.
 *
 * Where the server does not accept who this is, the login page follows, with the reason. A network
 * that is gone is another thing: the page stays, and the connection comes back by itself.
 */

import { connect } from "./trioserver.js";
import { make } from "./dom.js";
import { goToLogin } from "./session.js";

/** Close code 1008 with one of these: the login is at fault, and a new one helps. */
const LOGIN_FAILED = new Set([
  "token_missing", "token_invalid", "token_expired", "token_revoked", "session_blocked",
]); // prettier-ignore

const WORDS = {
  connecting: ["connecting", "Connecting…"],
  authenticating: ["connecting", "Connecting: the server verifies who you are…"],
  ready: ["connected", "Connected"],
  offline: ["offline", "Offline"],
  reconnecting: ["reconnecting", "Reconnecting…"],
};

/**
 * Connect, and show in `element` how it goes. `toLogin` are more codes that lead to the login
 * page; all other options are those of the client.
 */
export function openConnection(path, element, { token, toLogin = [], ...options }) {
  const client = connect(path, { token, ...options });
  const indicator = new Indicator(element, client);
  client.addEventListener("state", ({ detail }) => {
    const { state, reason } = detail;
    const code = reason?.closeCode === 1008 ? reason.code : null;
    if (state === "closed" && (LOGIN_FAILED.has(code) || toLogin.includes(code))) {
      goToLogin(code);
      return;
    }
    indicator.show(detail);
  });
  return client;
}

class Indicator {
  constructor(element, client) {
    this.element = element;
    this.words = make("span", { role: "status" });
    this.countdown = make("span", { class: "quiet", "aria-hidden": "true" });
    const again = () => client.reconnect();
    this.button = make("button", { type: "button", class: "small", onclick: again }, "Try now");
    this.attempts = 0;
    this.timer = null;
    element.classList.add("state");
    element.replaceChildren(this.words, this.countdown, this.button);
    this.show({ state: client.state, reason: null, retryInMs: null });
  }

  show({ state, reason, retryInMs }) {
    clearInterval(this.timer);
    if (this.words.parentNode !== this.element) return; // another connection has its place
    this.countdown.textContent = "";
    this.button.hidden = state !== "offline";
    if (state === "ready") this.attempts = 0;
    const [name, words] = WORDS[state] ?? ended(reason);
    this.element.dataset.state = name;
    const because = state === "offline" && reason?.message ? `: ${reason.message}` : "";
    if (this.words.textContent !== words + because) this.words.textContent = words + because;
    if (state === "offline") this.count(retryInMs);
  }

  /** Only for the eye: a screen reader is told of the state, not of each second. */
  count(retryInMs) {
    this.attempts += 1;
    this.element.dataset.retryMs = String(Math.round(retryInMs));
    const due = performance.now() + retryInMs;
    const tick = () => {
      const left = Math.max(0, (due - performance.now()) / 1000);
      this.countdown.textContent = `Attempt ${this.attempts} in ${left.toFixed(1)} s.`;
    };
    tick();
    this.timer = setInterval(tick, 100);
  }
}

function ended(reason) {
  if (reason === null || reason.isNormal) return ["closed", "Closed."];
  const code = reason.closeCode === null ? "" : ` (${reason.closeCode} ${reason.code})`;
  return ["error", `Error: ${reason.message}${code}`];
}
