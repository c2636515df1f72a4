/** Any route, with any token, message by message. It shows what a client would not: each of them. */

import { byId, make, say } from "./dom.js";
import { Log } from "./log.js";
import { session, showWho } from "./session.js";
import { CloseReason, SUBPROTOCOL } from "./trioserver.js";

const TOKEN_KEY = "trioserver.tester.token"; // in localStorage, for this page only
const ROUTE_KEY = "trioserver.tester.route";

/** The routes of the demo, and what one might send there. */
const ROUTES = {
  "/ws": [
    { type: "list_agents", id: 1 },
    { type: "run", id: 2, data: { agent: "reverse", input: "hello" } },
  ],
  "/ws/conversations/alice-1": [
    { type: "message", id: 1, data: { text: "I like trees" } },
    { type: "ask", id: 2, data: { text: "What about trees?" } },
    { type: "cancel", id: 2 },
    { type: "history", id: 3, data: { limit: 10 } },
  ],
  "/admin/ws": [
    { type: "get_stats" },
    { type: "subscribe", id: 1, events: ["stats", "attempts"] },
    { type: "list_attempts", id: 2, data: { limit: 10 } },
  ],
  "/api/chat/ws": [{ type: "ask", id: 1, data: { text: "What is this text about?" } }],
  "/api/v1/ws/behavior/SESSION": [
    {
      type: "behavior",
      id: 1,
      data: { event_type: "key_press", at: "2026-01-31T12:00:00Z", data: { key: "a" } },
    },
  ],
};

const log = new Log(byId("log-box"), byId("log"));
const token = byId("token");
let socket = null;

function show(state, words) {
  byId("state").dataset.state = state;
  byId("status").textContent = words;
  const isOpen = state === "connected";
  byId("send").disabled = !isOpen;
  byId("disconnect").disabled = socket === null;
  byId("connect").disabled = socket !== null;
}

/** A route of this server; null for anything else, and for one with a query, which might hold a token. */
function urlOf(route) {
  const url = new URL(route, location.href);
  if (url.host !== location.host || url.search || url.hash) return null;
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

function connect() {
  const url = urlOf(byId("route").value.trim());
  if (url === null) {
    say(byId("fault"), "A route is a path of this server, without a query: /ws", "bad");
    return;
  }
  say(byId("fault"), "");
  localStorage.setItem(ROUTE_KEY, url.pathname);
  log.token = token.value.trim();
  log.add("note", `connecting to ${url}`);
  socket = new WebSocket(url, [SUBPROTOCOL]);
  show("connecting", "Connecting…");
  let wasOpen = false;
  socket.onopen = () => {
    wasOpen = true;
    show("connected", "Connected: waiting for ready");
    const first = log.token === "" ? {} : { token: log.token };
    send(JSON.stringify({ type: "auth", ...first }));
  };
  socket.onmessage = ({ data }) => hear(data);
  socket.onclose = ({ code, reason }) => {
    socket = null;
    const why = String(CloseReason.fromClose(code, reason));
    const told = code === 1000 ? "Closed, and all is well." : why;
    const words = wasOpen
      ? told
      : "No connection: the server is away, it has no such route, or it lets no page of this " +
        "origin in. A browser does not say which.";
    const kind = code === 1000 ? "" : "bad";
    log.add("note", `closed with ${code}${reason === "" ? "" : ` ${reason}`}: ${words}`, kind);
    show(code === 1000 ? "closed" : "error", words);
  };
}

function hear(data) {
  if (typeof data !== "string") {
    log.add("in", "(a binary message)");
    return;
  }
  let message;
  try {
    message = JSON.parse(data);
  } catch {
    message = {};
  }
  log.add("in", data, message.type === "error" ? "bad" : "");
  if (message.type === "ready") show("connected", `Ready, as ${message.user?.id}`);
  if (message.type === "ping") send(JSON.stringify({ type: "pong", id: message.id }));
}

function send(text) {
  socket.send(text);
  log.add("out", text);
}

/* The examples of the route that is chosen. */

function showExamples() {
  const route = byId("route").value;
  const known = Object.keys(ROUTES).find((name) => name === route) ?? nearest(route);
  const examples = (ROUTES[known] ?? []).map((message) => JSON.stringify(message));
  byId("example").replaceChildren(
    make("option", { value: "" }, "Choose one, then change it"),
    ...examples.map((text) => make("option", { value: text }, text)),
  );
}

function nearest(route) {
  const parent = route.slice(0, route.lastIndexOf("/") + 1);
  return Object.keys(ROUTES).find((name) => parent.length > 1 && name.startsWith(parent));
}

byId("routes").append(...Object.keys(ROUTES).map((value) => make("option", { value })));
byId("route").value = localStorage.getItem(ROUTE_KEY) ?? "/ws";
byId("route").addEventListener("input", showExamples);
showExamples();
byId("example").addEventListener("change", ({ target }) => {
  if (target.value !== "") byId("message").value = target.value;
});

token.value = localStorage.getItem(TOKEN_KEY) ?? "";
token.addEventListener("input", () => localStorage.setItem(TOKEN_KEY, token.value.trim()));
byId("forget").addEventListener("click", () => {
  token.value = "";
  localStorage.removeItem(TOKEN_KEY);
});
byId("own").hidden = session() === null;
byId("own").addEventListener("click", () => {
  token.value = session()?.token ?? ""; // it is in this tab's sessionStorage, and stays there
});

byId("connecting").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket === null) connect();
});
byId("disconnect").addEventListener("click", () => socket?.close(1000));
byId("clear").addEventListener("click", () => log.clear());
byId("sending").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket?.readyState === WebSocket.OPEN) send(byId("message").value);
});
showWho(session());
