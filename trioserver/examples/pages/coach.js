/** The study coach: upload texts, ask about them, and see what each answer rests on beside it. */

import { Answers } from "./answer.js";
import { openConnection } from "./connection.js";
import { byId, keepDraft, make, say, sendOnEnter } from "./dom.js";
import { ask, requireLogin } from "./session.js";

const TEXTS = "/api/chat/texts";
const ADDRESS = "/api/chat/ws";
const ADDRESS_KEY = "trioserver.coach.address";

const login = requireLogin();
let client = null;

/* Texts. */

async function showTexts() {
  const { texts } = await ask(TEXTS);
  const none = make("li", { class: "quiet" }, "None yet.");
  byId("texts").replaceChildren(...(texts.length === 0 ? [none] : texts.map(shown)));
}

function shown({ text_id: id, name, passages }) {
  const remove = async () => {
    await attempt(() => ask(`${TEXTS}/${encodeURIComponent(id)}`, { method: "DELETE" }));
    say(byId("uploaded"), `${name} is deleted.`);
    byId("file").focus();
  };
  const label = `Delete ${name}`;
  const button = make("button", { type: "button", class: "small danger", "aria-label": label });
  button.append("Delete");
  button.addEventListener("click", remove);
  const words = make("span", { class: "grow" }, name, " ", make("small", {}, passagesOf(passages)));
  return make("li", { class: "row" }, words, button);
}

function passagesOf(number) {
  return `${number} ${number === 1 ? "passage" : "passages"}`;
}

async function upload() {
  const form = new FormData();
  form.set("file", byId("file").files[0]);
  byId("upload").disabled = true;
  say(byId("uploaded"), "Uploading…");
  const stored = await attempt(() => ask(TEXTS, { method: "POST", body: form }));
  byId("upload").disabled = false;
  if (stored === null) return;
  say(byId("uploaded"), `${stored.name} is stored: ${passagesOf(stored.passages)}.`, "good");
  byId("uploading").reset();
}

/** What HTTP is asked; the list of texts follows. What goes wrong is said. */
async function attempt(work) {
  try {
    const done = await work();
    await showTexts();
    return done;
  } catch (error) {
    say(byId("uploaded"), error.message, "bad");
    return null;
  }
}

/* Questions. */

const stream = (text) => client.stream("ask", { text });
const answers = new Answers(byId("answers"), byId("cancel"), stream);

function askFor(text) {
  const found = make("ol", { class: "plain" });
  const head = make("p", { class: "quiet" }, `For “${text}”:`);
  byId("passages").replaceChildren(head, found);
  const onPassage = ({ name, number, text: words }) => {
    const cite = make("cite", { class: "quiet" }, `${name}, passage ${number}`);
    found.append(make("li", {}, make("blockquote", {}, words), cite));
  };
  answers.ask(text, onPassage).then(() => {
    if (found.childElementCount === 0) found.append(make("li", { class: "quiet" }, "Nothing."));
  });
}

/* The connection. */

function start(address) {
  const url = new URL(address, location.href);
  if (url.host !== location.host || url.search !== "") {
    say(byId("problem"), "This page may connect to its own server only: /api/chat/ws", "bad");
    return;
  }
  say(byId("problem"), "");
  client?.close();
  localStorage.setItem(ADDRESS_KEY, url.pathname);
  byId("address").value = url.pathname;
  client = openConnection(url.pathname, byId("state"), { token: login.token });
}

if (login !== null) {
  const question = byId("question");
  const clear = keepDraft(question, "coach");
  sendOnEnter(question);
  byId("asking").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = question.value.trim();
    if (text === "") return;
    clear();
    askFor(text);
  });
  byId("uploading").addEventListener("submit", (event) => {
    event.preventDefault();
    upload();
  });
  byId("addressing").addEventListener("submit", (event) => {
    event.preventDefault();
    start(byId("address").value.trim());
  });
  start(localStorage.getItem(ADDRESS_KEY) ?? ADDRESS);
  showTexts().catch((error) => say(byId("uploaded"), error.message, "bad"));
}
