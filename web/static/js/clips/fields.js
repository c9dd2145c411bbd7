/** Form fields, each with its label and a place for what is wrong with it. */

import { icon, make } from "../dom.js";

let count = 0;

/** A field by its name: `element`, `show(value)`, `wrong(text)`. `changed(value)` hears what the user does. */
function field(name, kind, label, control, more = {}) {
  const id = control.id;
  const wrong = make("p", { class: "wrong", id: `${id}-wrong`, hidden: true });
  const element = make("div", { class: `field ${kind}`, "data-name": name });
  element.append(...(more.layout?.(wrong) ?? [make("div", { class: "head" }, make("label", { for: id, text: label })), control, wrong]));
  return { name, element, control, show: more.show, wrong: said(control, wrong) };
}

/** Says what is wrong beside a control; nothing takes it away. */
export const said = (control, place) => (text) => {
  place.textContent = text;
  place.hidden = !text;
  control.toggleAttribute("aria-invalid", Boolean(text));
  if (text) control.setAttribute("aria-describedby", place.id);
  else control.removeAttribute("aria-describedby");
};

const named = (name) => `f-${name}-${(count += 1)}`;

/** A whole or other number in a box. Empty is null where that is allowed (`none`: what it then is). */
export function number(name, label, { min, max, step = 1, none = null, kind = "half" }, changed) {
  const control = make("input", {
    id: named(name), type: "number", class: "box", min, max, step, placeholder: none ?? "", inputmode: "decimal",
  });
  control.addEventListener("change", () => {
    if (control.value === "" && none !== null) return changed(null);
    const value = Number(control.value);
    if (control.value === "" || !Number.isFinite(value)) return show(last);
    changed(Math.min(Math.max(step === 1 ? Math.round(value) : value, min), max));
  });
  let last = null;
  const show = (value) => {
    last = value;
    control.value = value ?? "";
  };
  return field(name, kind, label, control, { show });
}

/** Any text. */
export function text(name, label, { kind = "", placeholder = "", limit = 2000 } = {}, changed) {
  const control = make("input", { id: named(name), type: "text", placeholder, maxlength: limit, autocomplete: "off" });
  control.addEventListener("input", () => changed(control.value));
  return field(name, kind, label, control, { show: (value) => control.value === value || (control.value = value) });
}

/** A number on a line, and exactly beside it. */
export function slider(name, label, { min, max, step }, changed) {
  const control = make("input", { id: named(name), type: "range", min, max, step });
  const exact = make("input", { type: "number", class: "exact", min, max, step, "aria-label": label });
  const show = (value) => {
    control.value = value;
    exact.value = Number(Number(value).toFixed(3));
    control.style.setProperty("--fill", `${(100 * (control.value - min)) / (max - min)}%`);
  };
  control.addEventListener("input", () => (show(control.value), changed(Number(control.value))));
  exact.addEventListener("change", () => {
    const value = Math.min(Math.max(Number(exact.value) || 0, min), max);
    show(value);
    changed(value);
  });
  const head = make("div", { class: "head" }, make("label", { for: control.id, text: label }), exact);
  return field(name, "", label, control, { show, layout: (wrong) => [head, control, wrong] });
}

/** One of several: `options` are `[value, label]`. */
export function choice(name, label, options, changed, kind = "") {
  const control = make("select", { id: named(name) }, ...options.map(([value, shown]) => make("option", { value, text: shown })));
  control.addEventListener("change", () => changed(control.value));
  const show = (value) => {
    if (![...control.options].some((o) => o.value === value)) control.append(make("option", { value, text: value }));
    control.value = value;
  };
  const head = make("div", { class: "head" }, make("label", { for: control.id, text: label }));
  const pick = make("div", { class: "pick" }, control, icon("more"));
  return field(name, kind, label, control, { show, layout: (wrong) => [head, pick, wrong] });
}

/** Yes or no. */
export function toggle(name, label, changed) {
  const control = make("input", { id: named(name), type: "checkbox", role: "switch" });
  control.addEventListener("change", () => changed(control.checked));
  const own = make("label", { for: control.id, text: label });
  return field(name, "switch", label, control, {
    show: (value) => (control.checked = value), layout: (wrong) => [own, control, wrong],
  });
}

/** A seed, and another one. */
export function seed(name, label, changed) {
  const made = number(name, label, { min: 0, max: 2 ** 32 - 1 }, changed);
  const other = () => changed(Math.floor(Math.random() * 2 ** 32));
  const dice = make("button", { type: "button", class: "plain dice", "aria-label": "Another seed", onclick: other }, icon("dice"));
  const row = make("div", { class: "row" });
  made.control.replaceWith(row);
  row.append(made.control, dice);
  return made;
}

/** A picture or a video of the user's; null again. */
export function upload(name, label, changed) {
  const file = make("input", { id: named(name), type: "file", accept: "image/*,video/*", class: "unseen", tabindex: "-1" });
  const button = make("button", { type: "button", class: "box pickfile", onclick: () => file.click() });
  const clear = make("button", { type: "button", class: "plain", "aria-label": "Take the input away" }, icon("close"));
  clear.addEventListener("click", () => ((file.value = ""), changed(null)));
  file.addEventListener("change", () => file.files[0] && changed(file.files[0]));
  const show = (value) => {
    button.textContent = value ? value.name : "Choose a picture or video";
    clear.hidden = !value;
  };
  button.id = `${file.id}-button`;
  const head = make("div", { class: "head" }, make("label", { for: button.id, text: label }));
  const row = make("div", { class: "row" }, button, clear, file);
  return field(name, "", label, button, { show, layout: (wrong) => [head, row, wrong] });
}
