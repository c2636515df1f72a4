/** A conversation: its history, answers as they come, what others say, and who is here. */

import { Answers, entry, wordsOf } from "./answer.js";
import { openConnection } from "./connection.js";
import { byId, keepDraft, make, say, sendOnEnter, timeOf } from "./dom.js";
import { requireLogin } from "./session.js";
import { ConnectionLostError } from "./trioserver.js";

const PAGE = 50;

const login = requireLogin();
const list = byId("said");
const field = byId("text");
const id = new URLSearchParams(location.search).get("id") ?? `${login?.user}-1`;
let client = null;
let waiting = []; // what has been typed and is not known to be stored
let oldest = null;
let watched = false; // whether we are subscribed to who is here

const answers = new Answers(list, byId("cancel"), (text) => client.stream("ask", { text }));

/* What was said. */

function stored({ message_id: id, role, by, text, at }) {
  const who = role === "user" && by !== login.user ? `${by}, ` : "";
  const item = entry(role, text, who + timeOf(at));
  if (who !== "") item.classList.replace("user", "other");
  item.dataset.id = id;
  return item;
}

/** Somebody else has said something, or we have in another tab. */
function hear(message) {
  if (list.querySelector(`[data-id="${message.message_id}"]`) !== null) return;
  list.append(stored({ ...message, at: new Date() }));
  list.lastElementChild.scrollIntoView({ block: "nearest" });
}

/** Once more after each `ready`: what others have said meanwhile, and what is stored of our own. */
async function showHistory() {
  const { messages } = await client.request("history", { limit: PAGE });
  const running = answers.running.flatMap(({ question, item }) => [question, item]);
  for (const { asked } of answers.running) forgetLast(messages, asked);
  list.replaceChildren(...messages.map(stored), ...waiting, ...running);
  oldest = messages[0]?.message_id ?? null;
  byId("older").hidden = messages.length < PAGE;
  list.lastElementChild?.scrollIntoView({ block: "nearest" });
}

/** A question that is shown with its answer already. */
function forgetLast(messages, asked) {
  const index = messages.findLastIndex(({ role, text }) => role === "user" && text === asked);
  if (index >= 0) messages.splice(index, 1);
}

async function showOlder() {
  const { messages } = await client.request("history", { limit: PAGE, before: oldest });
  list.prepend(...messages.map(stored));
  oldest = messages[0]?.message_id ?? oldest;
  byId("older").hidden = messages.length < PAGE;
}

/* Saying something. Offline, it waits in the client, and goes out once. */

async function note(text) {
  const item = entry("user", text, "waits for the connection");
  item.classList.add("waiting");
  waiting.push(item);
  list.append(item);
  item.scrollIntoView({ block: "nearest" });
  const meta = item.querySelector(".meta");
  try {
    const { message_id: id } = await client.request("message", { text });
    item.dataset.id = id;
    meta.textContent = `stored, ${timeOf(new Date())}`;
  } catch (error) {
    meta.textContent = wordsOf(error);
    meta.classList.add("bad");
  }
  item.classList.remove("waiting");
  waiting = waiting.filter((other) => other !== item);
}

/* Who is here, and who may be. */

async function showHere() {
  const { users, topic } = await client.request("present");
  const words = users.map(({ user, connections }) =>
    connections > 1 ? `${user} (${connections} times)` : user,
  );
  byId("here").textContent = words.join(", ");
  if (!watched) {
    watched = true; // the subscription comes back with the connection
    client.subscribe(topic, () => showHere().catch(() => {}));
  }
}

async function share(type, words) {
  const user = byId("whom").value.trim();
  if (user === "") return;
  try {
    await client.request(type, { user });
    say(byId("shared"), `${user} ${words}`, "good");
  } catch (error) {
    say(byId("shared"), wordsOf(error), "bad");
  }
}

/** What the server has kept for this user: news of conversations that are not open. */
function takeKept({ type, data: { conversation_id: where, by } }) {
  const words = { shared: `${by} shares ${where} with you.`, unread: `${by} has written in ${where}.` };
  if (!Object.hasOwn(words, type) || where === id) return;
  const known = [...byId("notices").children].find((item) => item.dataset.of === where + type);
  known?.remove();
  const link = make("a", { href: `?id=${encodeURIComponent(where)}` }, "Open it");
  const item = make("li", { class: "notice", "data-of": where + type }, words[type], " ", link);
  byId("notices").prepend(item);
}

/* The connection. */

function start() {
  history.replaceState(null, "", `?id=${encodeURIComponent(id)}`);
  byId("conversation").value = id;
  const path = `/ws/conversations/${encodeURIComponent(id)}`;
  client = openConnection(path, byId("state"), { token: login.token, onStoredMessage: takeKept });
  client.addEventListener("state", ({ detail: { state, reason } }) => {
    if (state === "ready") Promise.all([showHistory(), showHere()]).catch(fail);
    else byId("here").textContent = "unknown: there is no connection";
    if (state === "closed" && !reason.isNormal) say(byId("problem"), reason.message, "bad");
  });
  client.addEventListener("message", ({ detail: { type, data } }) => {
    if (type === "said") hear(data);
  });
}

/** What was lost with the connection is asked for again at the next `ready`. */
function fail(error) {
  if (!(error instanceof ConnectionLostError)) say(byId("problem"), wordsOf(error), "bad");
}

if (login !== null) {
  const clear = keepDraft(field, "conversation");
  sendOnEnter(field);
  const take = (how) => {
    const text = field.value.trim();
    if (text === "") return;
    clear();
    how(text);
  };
  byId("saying").addEventListener("submit", (event) => {
    event.preventDefault();
    take((text) => answers.ask(text));
  });
  byId("note").addEventListener("click", () => take(note));
  byId("older").addEventListener("click", () => showOlder().catch(fail));
  byId("sharing").addEventListener("submit", (event) => {
    event.preventDefault();
    share("share", "may read and write here now.");
  });
  byId("unshare").addEventListener("click", () => share("unshare", "may not any more."));
  byId("choosing").addEventListener("submit", (event) => {
    event.preventDefault();
    location.search = `?id=${encodeURIComponent(byId("conversation").value.trim())}`;
  });
  start();
}
