/**
 * The login of this tab. Its token is in sessionStorage: another tab has its own, and it ends with
 * the tab. It goes into the first message of a WebSocket and into the Authorization header, never
 * into a URL, the document or the console.
 */

import { byId, make } from "./dom.js";

const KEY = "trioserver.session";

/** `{user, token}`, or null. */
export function session() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY));
    return typeof kept?.token === "string" ? kept : null;
  } catch {
    return null;
  }
}

/** Log in. Throws an `Error` with words for people. */
export async function logIn(username, password) {
  const answer = await send("/api/v1/login", {
    method: "POST",
    credentials: "same-origin", // the cookie by which the server knows this device
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ username, password }),
  });
  sessionStorage.setItem(KEY, JSON.stringify({ user: username, token: answer.token }));
}

/** Ask the server over HTTP with this tab's token; JSON comes back. Throws as `logIn` does. */
export function ask(path, options = {}) {
  const headers = { ...options.headers, Authorization: `Bearer ${session()?.token}` };
  return send(path, { ...options, headers });
}

async function send(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "omit", ...options, cache: "no-store" });
  } catch {
    throw new Error("The server cannot be reached. Try again in a moment.");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const message = body.error?.message ?? `The server answered with status ${answer.status}.`;
  throw Object.assign(new Error(message), { status: answer.status, code: body.error?.code });
}

/** Forget the login, and go to the login page. */
export function logOut() {
  sessionStorage.removeItem(KEY);
  location.assign("/login");
}

/** Go to the login page and come back here; `reason` is a code that it has words for. */
export function goToLogin(reason) {
  sessionStorage.removeItem(KEY);
  const query = new URLSearchParams({ next: location.pathname + location.search });
  if (reason !== null) query.set("reason", reason);
  location.replace(`/login?${query}`);
}

/** Where to go after the login: a path of this very server, whoever has made the link. */
export function wherePathLeads(path) {
  if (!isOwnPath(path)) return "/";
  const url = new URL(path, location.origin);
  return url.origin === location.origin && url.pathname !== "/login" ? url.href : "/";
}

/** What leads elsewhere, or may: an empty or a dotted segment, a backslash, a control character. */
const ELSEWHERE = /\/\/|(^|\/)\.{1,2}(\/|$)|[\\\p{Cc}]/u;

/**
 * Whether browsers, proxies and servers all take this for a path of the server that it came from,
 * however often they decode it. website.py has the same rule.
 */
function isOwnPath(text) {
  // Browsers drop white space from a URL, and take a backslash for a slash.
  if (!text.startsWith("/") || /[\\\s\p{Cc}]/u.test(text)) return false;
  let path = text.split(/[?#]/, 1)[0];
  for (let round = 0; round < 4; round += 1) {
    if (ELSEWHERE.test(path)) return false;
    let decoded;
    try {
      decoded = decodeURIComponent(path);
    } catch {
      return false;
    }
    if (decoded === path) return true;
    path = decoded;
  }
  return false;
}

/** The login of a page that needs one; without it, null, and the login page follows. */
export function requireLogin() {
  const current = session();
  if (current === null) goToLogin(null);
  else showWho(current);
  return current;
}

/** Say in the head of the page who is logged in. */
export function showWho(current) {
  const who = byId("who");
  if (current === null) {
    who.replaceChildren(make("a", { href: "/login" }, "Log in"));
    return;
  }
  const leave = make("button", { type: "button", class: "small", onclick: logOut }, "Log out");
  who.replaceChildren(make("span", {}, current.user), leave);
}
