/** Making elements from text. Nothing a server says ever becomes markup: there is no innerHTML. */

/** `make("li", { class: "user" }, "text", element)`; a property whose value is null is left out. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "disabled" || key === "hidden") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** The element with this id, which the page has. */
export function byId(id) {
  return document.getElementById(id);
}

/** Epoch seconds, or a date, as the time of day; with milliseconds where wanted. */
export function timeOf(at, { milliseconds = false } = {}) {
  const date = at instanceof Date ? at : new Date(at * 1000);
  const options = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
  if (milliseconds) options.fractionalSecondDigits = 3;
  return date.toLocaleTimeString(undefined, options);
}

/** A row of a table, with the column's name at each cell, for narrow screens. */
export function row(labels, cells) {
  const made = cells.map((cell, index) =>
    make("td", { "data-label": labels[index] }, make("span", {}, cell)),
  );
  return make("tr", {}, ...made);
}

/** Say something once, for eyes and for screen readers; `element` has a role of its own. */
export function say(element, text, kind = "") {
  element.textContent = text;
  element.className = text === "" ? "" : `notice ${kind}`;
}

/** Keep what is typed and not sent yet, for as long as the tab lives. */
export function keepDraft(field, key) {
  const name = `trioserver.draft.${key}`;
  field.value = sessionStorage.getItem(name) ?? "";
  field.addEventListener("input", () => sessionStorage.setItem(name, field.value));
  return () => {
    field.value = "";
    sessionStorage.removeItem(name);
  };
}

/** Enter sends, Shift and Enter makes a new line. */
export function sendOnEnter(field) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    field.form.requestSubmit();
  });
}
