/** The server live: figures, who is connected, who tried to be, and what to do about them. */

import { wordsOf } from "./answer.js";
import { Chart, short } from "./chart.js";
import { openConnection } from "./connection.js";
import { byId, make, row, say, timeOf } from "./dom.js";
import { ask, requireLogin } from "./session.js";
import { ConnectionLostError, ERRORS } from "./trioserver.js";

const PAGE = 20;
const MOST = 200; // attempts that are kept on the page

const login = requireLogin();
let client = null;
let before = null; // the figures of a second ago
let earlier = null; // where the next page of attempts begins

/* Figures and charts. */

const FIGURES = {
  connections: "Connections",
  ready: "Ready",
  unauthenticated: "Not authenticated",
  users: "Users",
  accepted: "Accepted since start",
  refused: "Refused since start",
  messages: "Messages in, out",
  uptime: "Running for",
};

const shown = Object.fromEntries(
  Object.entries(FIGURES).map(([name, label]) => {
    const value = make("dd", {}, "–");
    byId("figures").append(make("div", {}, make("dt", {}, label), value));
    return [name, value];
  }),
);

function chart(label, unit) {
  const figure = make("figure");
  byId("charts").append(figure);
  return new Chart(figure, { label, unit });
}

const charts = {
  ready: chart("Ready connections"),
  incoming: chart("Messages in", " per second"),
  outgoing: chart("Messages out", " per second"),
  refused: chart("Refused", " per minute"),
};

function showFigures(figures) {
  const refused = Object.values(figures.refused).reduce((sum, number) => sum + number, 0);
  const reasons = Object.entries(figures.refused).map(([code, number]) => `${code}: ${number}`);
  shown.connections.textContent = figures.connections;
  shown.ready.textContent = figures.ready;
  shown.unauthenticated.textContent = figures.unauthenticated;
  shown.users.textContent = figures.users;
  shown.accepted.textContent = short(figures.accepted);
  shown.refused.replaceChildren(short(refused), " ", make("small", {}, reasons.join(", ")));
  shown.messages.textContent = `${short(figures.messages_in)}, ${short(figures.messages_out)}`;
  shown.uptime.textContent = lasting(figures.uptime_s * 1000);
  const now = { ...figures, refused };
  if (before !== null && before.uptime_s < now.uptime_s) showChange(before, now);
  charts.ready.add(now.at, now.ready);
  before = now;
}

/** What has changed since the figures before; a server that has started anew begins anew. */
function showChange(then, now) {
  const seconds = now.uptime_s - then.uptime_s;
  const rate = (name) => Math.max(0, (now[name] - then[name]) / seconds);
  charts.incoming.add(now.at, rate("messages_in"));
  charts.outgoing.add(now.at, rate("messages_out"));
  charts.refused.add(now.at, rate("refused") * 60);
}

function lasting(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/* Connections, and what to do about them. */

const COLUMNS = ["User", "Route", "Address", "For", "Actions"];

async function showConnections() {
  const { connections } = await client.request("list_connections", { limit: 200 });
  const focused = document.activeElement?.dataset.key;
  byId("connections").replaceChildren(...connections.map(connectionRow));
  if (focused !== undefined) document.querySelector(`[data-key="${focused}"]`)?.focus();
}

function connectionRow({ id, user, phase, route, resource, address, age_ms: age }) {
  const isMine = id === client.ready?.connection_id;
  const name = user ?? `nobody yet (${phase})`;
  const path = (route ?? "").replace(/\{(\w+)\}/g, (all, part) => resource?.[part] ?? all);
  const acts = make("span");
  if (isMine) acts.append("this page");
  else acts.append(button("Disconnect", `${name}, ${path}`, id, () => disconnect(id, name)));
  if (user !== null && user !== login.user) {
    acts.append(" ", button("Block user", user, `block-${id}`, () => block(user)));
  }
  return row(COLUMNS, [name, path, address ?? "", lasting(age), acts]);
}

/** `key` finds it again, for the focus, when the list is drawn anew. */
function button(label, whom, key, onclick) {
  const properties = { type: "button", class: "small danger", "aria-label": `${label}: ${whom}` };
  return make("button", { ...properties, "data-key": key, onclick }, label);
}

function disconnect(connection, name) {
  act("disconnect", { connection }, ({ disconnected: met }) =>
    met === 0 ? "It had ended already." : `Disconnected: ${name}.`,
  );
}

function block(user) {
  act("block", { user }, ({ disconnected: met }) => `Blocked: ${user}; ${met} disconnected.`);
}

function unblock(target, name) {
  act("unblock", target, () => `Not blocked any more: ${name}.`);
}

async function act(type, data, words) {
  try {
    say(byId("done"), words(await client.request(type, data, { queueTimeoutMs: 0 })), "good");
    await Promise.all([showConnections(), showBlocks()]);
  } catch (error) {
    say(byId("done"), wordsOf(error), "bad");
  }
}

async function showBlocks() {
  const { blocks } = await ask("/api/v1/admin/blocks?limit=100");
  byId("blocking").hidden = blocks.length === 0;
  byId("blocks").replaceChildren(...blocks.map(blockItem));
}

function blockItem({ user, sid, actor, reason, created_at: at }) {
  const [name, target] = user === null ? [`session ${sid}`, { sid }] : [user, { user }];
  const since = timeOf(new Date(at));
  const words = `${name}, since ${since}, by ${actor ?? "nobody"}${reason ? `: ${reason}` : ""} `;
  const lift = button("Unblock", name, `unblock-${name}`, () => unblock(target, name));
  return make("li", { class: "row" }, make("span", { class: "grow" }, words), lift);
}

/* Authentication attempts. */

const PARTS = ["Time", "Outcome", "User", "Route", "Address", "Token"];

function attemptRow({ id, at, kind, outcome, code, affected, user, method, route, address, token }) {
  const isGood = outcome === "accepted" || outcome === "refreshed";
  const why = code === null ? "" : `: ${code}`;
  const words = Object.hasOwn(ERRORS, code ?? "") ? ERRORS[code][2] : null;
  const more = kind === "suppressed" ? `and ${affected.toLocaleString()} more ` : "";
  const told = make("span", { class: isGood ? "good" : "bad", title: words }, more + outcome + why);
  const how = method === null || method === "websocket" ? "" : `${method} at `;
  const where = `${how}${route ?? ""}`;
  const cells = [timeOf(new Date(at)), told, user ?? "", where, address ?? "", token ?? "none"];
  const made = row(PARTS, cells);
  made.dataset.id = id;
  return made;
}

async function showAttempts() {
  const { attempts, next } = await client.request("list_attempts", { limit: PAGE });
  byId("attempts").replaceChildren(...attempts.map(attemptRow));
  showMore(next);
}

async function showEarlier() {
  const { attempts, next } = await client.request("list_attempts", { limit: PAGE, before: earlier });
  byId("attempts").append(...attempts.map(attemptRow));
  showMore(next);
}

function showMore(next) {
  earlier = next;
  byId("more").hidden = next === null;
}

function addAttempt(attempt) {
  const list = byId("attempts");
  if (list.querySelector(`[data-id="${attempt.id}"]`) !== null) return;
  list.prepend(attemptRow(attempt));
  while (list.childElementCount > MOST) list.lastElementChild.remove();
}

/* Who watches, and what they say. */

async function showHere() {
  const { dashboards } = await client.request("list_dashboards");
  const items = dashboards.map(({ user, connections, since }) => {
    const times = connections > 1 ? ` (${connections} pages)` : "";
    return make("li", {}, `${user}${times}, since ${timeOf(since)}`);
  });
  byId("here").replaceChildren(...items);
}

function showBroadcast({ text, from, at }) {
  byId("broadcasts").prepend(make("li", {}, `${timeOf(at)} ${from}: ${text}`));
}

async function broadcast() {
  const field = byId("text");
  try {
    await client.request("broadcast", { text: field.value });
    field.value = "";
  } catch (error) {
    say(byId("problem"), wordsOf(error), "bad");
  }
}

/* The connection. */

function start() {
  const onStoredMessage = ({ type, data }) => type === "broadcast" && showBroadcast(data);
  const options = { token: login.token, toLogin: ["forbidden", "access_denied"], onStoredMessage };
  client = openConnection("/admin/ws", byId("state"), options);
  client.addEventListener("state", ({ detail: { state } }) => {
    if (state === "ready") load([showConnections, showAttempts, showHere, showBlocks]);
  });
  client.subscribe("stats", ({ data }) => showFigures(data));
  client.subscribe("attempts", ({ data }) => addAttempt(data));
  client.subscribe("connections", () => load([showConnections, showHere]));
  client.subscribe("broadcast", ({ data }) => showBroadcast(data));
  client.subscribe("presence:/admin/ws", () => load([showHere]));
}

/** What is lost with the connection is asked for again at the next `ready`. */
async function load(parts) {
  try {
    await Promise.all(parts.map((part) => part()));
    say(byId("problem"), "");
  } catch (error) {
    if (!(error instanceof ConnectionLostError)) say(byId("problem"), wordsOf(error), "bad");
  }
}

if (login !== null) {
  byId("more").addEventListener("click", () => load([showEarlier]));
  byId("broadcasting").addEventListener("submit", (event) => {
    event.preventDefault();
    broadcast();
  });
  start();
}
