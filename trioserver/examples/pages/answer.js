/** Answers while they arrive: calls of tools and text, in order, and how it ended, in words. */

import { make, timeOf } from "./dom.js";
import { ConnectionLostError, RequestRejectedError } from "./trioserver.js";

/** All answers that are under way; a button cancels the last of them. */
export class Answers {
  /** `stream` is given the question, and opens the stream. */
  constructor(list, button, stream) {
    this.list = list;
    this.button = button;
    this.stream = stream;
    /** @type {Answer[]} */
    this.running = [];
    button.addEventListener("click", () => this.running.at(-1)?.cancel());
  }

  /** Ask, follow the answer to its end, and say how it was. Never throws. */
  async ask(question, onPassage) {
    const answer = new Answer(this.list, question, this.stream(question), onPassage);
    this.running.push(answer);
    this.button.disabled = false;
    await answer.follow();
    this.running = this.running.filter((other) => other !== answer);
    this.button.disabled = this.running.length === 0;
  }
}

class Answer {
  constructor(list, asked, stream, onPassage = () => {}) {
    this.asked = asked;
    this.stream = stream;
    this.onPassage = onPassage;
    this.wasCancelled = false;
    this.question = entry("user", asked);
    this.question.classList.add("waiting");
    this.text = make("p");
    this.tools = make("div");
    this.meta = make("div", { class: "meta" }, "waits for the connection");
    // A screen reader hears of it once, when it is complete.
    this.item = make("li", { class: "assistant", "aria-busy": "true" }, this.tools, this.text);
    this.item.append(this.meta);
    list.append(this.question, this.item);
    this.item.scrollIntoView({ block: "nearest" });
  }

  cancel() {
    this.wasCancelled = true;
    this.stream.cancel();
  }

  async follow() {
    try {
      for await (const chunk of this.stream) this.take(chunk);
      this.end(this.wasCancelled ? "cancelled" : `complete, ${timeOf(new Date())}`);
    } catch (error) {
      this.end(wordsOf(error), "bad");
    }
  }

  take(chunk) {
    this.question.classList.remove("waiting");
    this.meta.textContent = "answering…";
    if (chunk.kind === "text") this.text.append(chunk.text);
    else if (chunk.kind === "passage") this.onPassage(chunk);
    else if (chunk.kind === "tool_call") this.tools.append(call(chunk));
    else if (chunk.kind === "tool_result") this.tools.append(result(chunk));
  }

  end(words, kind = "") {
    this.question.classList.remove("waiting");
    this.meta.textContent = words;
    this.meta.className = `meta ${kind}`;
    this.item.removeAttribute("aria-busy");
  }
}

/** Something that was said. */
export function entry(role, text, meta = "") {
  const words = make("p", {}, text);
  return make("li", { class: role }, words, make("div", { class: "meta" }, meta));
}

/** Why something was not done, and whether it may have been. */
export function wordsOf(error) {
  if (error instanceof ConnectionLostError && error.sent) {
    return "The connection was lost before the end; it may have been done.";
  }
  if (error instanceof ConnectionLostError) return "Not sent: the connection has ended.";
  if (error instanceof RequestRejectedError) return `Refused: ${error.message}`;
  return error.message;
}

function call({ name, arguments: given }) {
  return details(`Calls ${name}`, given);
}

function result({ name, result: got }) {
  return details(`${name} gives ${Array.isArray(got) ? `${got.length} found` : "an answer"}`, got);
}

function details(summary, value) {
  const shown = make("pre", {}, JSON.stringify(value, null, 1));
  return make("details", {}, make("summary", { class: "meta" }, summary), shown);
}
