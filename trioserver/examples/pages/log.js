/** A log of what goes both ways, with times; it keeps the last lines, and shows no token. */

import { make, timeOf } from "./dom.js";

const KEPT = 500;
const LONGEST = 4000; // characters of a message
const JWT = /\beyJ[\w-]+\.[\w-]+\.[\w-]*/g;
const MASK = "•••";

const MARKS = { out: ["→", "sent"], in: ["←", "received"], note: ["·", "note"] };

/** Text without this token, and without anything that looks like one. */
export function masked(text, token = "") {
  const known = token === "" ? text : text.replaceAll(token, MASK);
  return known.replace(JWT, MASK);
}

export class Log {
  /** `box` scrolls, `list` is in it. */
  constructor(box, list) {
    this.box = box;
    this.list = list;
    this.token = "";
  }

  /** `direction` is "out", "in" or "note". */
  add(direction, text, kind = "") {
    const [mark, word] = MARKS[direction];
    const now = new Date();
    const shown = masked(text, this.token);
    const cut = shown.length > LONGEST ? `${shown.slice(0, LONGEST)}… (${shown.length})` : shown;
    const { box } = this;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    this.list.append(
      make(
        "li",
        { "data-direction": direction },
        make("time", { datetime: now.toISOString() }, timeOf(now, { milliseconds: true })),
        make("span", { class: direction, role: "img", "aria-label": word }, mark),
        make("span", { class: kind }, cut),
      ),
    );
    while (this.list.childElementCount > KEPT) this.list.firstElementChild.remove();
    if (atEnd) box.scrollTop = box.scrollHeight;
  }

  clear() {
    this.list.replaceChildren();
  }
}
