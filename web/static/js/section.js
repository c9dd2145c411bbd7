/** What the panel's sections and the page's dialogs have in common. */

import { $, icon, kept, make } from "./dom.js";

/** A section that opens, in its place in the panel (`#name`); remembers whether it was open. */
export function section(name, title, ...children) {
  const fields = make("div", { class: "fields" }, ...children);
  const summary = make("summary", { text: title }, icon("more"));
  const made = make("details", { class: "more", "data-section": name }, summary, fields);
  made.open = kept.get(`open.${name}`) ?? false;
  made.addEventListener("toggle", () => kept.set(`open.${name}`, made.open));
  $(`#${name}`).replaceChildren(made);
  return made;
}

/** A dialog with a title and a button that closes it. */
export function dialog(name, title, ...children) {
  const close = make("button", { class: "plain", "aria-label": "Close" }, icon("close"));
  const head = make("form", { method: "dialog" }, make("h2", { id: `${name}-title`, text: title }), close);
  const made = make("dialog", { id: name, "aria-labelledby": `${name}-title` }, head, ...children);
  made.addEventListener("click", (event) => event.target === made && made.close());
  document.body.append(made);
  return made;
}

export const press = (text, onclick, more = {}) => make("button", { type: "button", class: "button", text, onclick, ...more });

/** A small button that takes something away. */
export const away = (label, onclick) =>
  make("button", { type: "button", class: "plain small", "aria-label": label, onclick }, icon("close"));

/** A field with a label: a choice of `[value, text]` pairs. */
export function choice(id, label, options) {
  const select = make("select", { id }, ...options.map(([value, text]) => make("option", { value, text })));
  return framed("half choice", id, label, make("div", { class: "pick" }, select, icon("more")));
}

export function number(id, label, limits) {
  return framed("half box", id, label, make("input", { type: "number", class: "box", id, ...limits }));
}

export function line(id, label, more) {
  return framed("line", id, label, make("input", { type: "text", id, autocomplete: "off", spellcheck: "false", ...more }));
}

function framed(type, id, label, input) {
  const head = make("div", { class: "head" }, make("label", { for: id, text: label }));
  return make("div", { class: `field ${type}` }, head, input);
}

/** Where a section says what came of something. */
export const note = () => make("p", { class: "note", role: "status" });
