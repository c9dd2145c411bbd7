/** A control for every setting, made from the settings' JSON schema: the main ones in sight, all others under More. */

import { $, icon, make } from "./dom.js";
import { inLimits, kind, parse, text } from "./store.js";

const MAIN = ["strength", "steps", "guidance", "guidance_scale", "seed", "size", "similarity"]; // size: width, height
const HALF = ["choice", "box"]; // as wide as half a row
const FINE = 128; // a slider has at most so many whole steps

/** Settings that do nothing for now, and why: nobody should look for their effect in vain. */
const MOOT = {
  strength: (s) => s.t_index !== null && "t_index is set instead.",
  steps: (s) => s.t_index !== null && "t_index is set instead.",
  guidance_scale: (s) => s.guidance === "none" && "Does nothing while guidance is none.",
  negative_prompt: (s) => /none|self/.test(s.guidance) && "Does nothing unless guidance is full or initialize.",
  delta: (s) => /none|full/.test(s.guidance) && "Does nothing unless guidance is self or initialize.",
  add_noise: (s) => s.steps < 2 && (s.t_index?.length ?? 0) < 2 && "Does nothing at one step.",
  drift: (s) => s.mode !== "text" && "Does nothing unless mode is text.",
  similarity_threshold: (s) => !s.similarity && "Does nothing while similarity is off.",
  max_skip: (s) => !s.similarity && "Does nothing while similarity is off.",
};

/** Fills the panel; the prompt's own field is there already. */
export class Controls {
  #fields = {};

  constructor(store, { multiple, about }) {
    this.store = store;
    const names = Object.keys(store.fields).filter((name) => name !== "prompt");
    const main = MAIN.filter((name) => name === "size" || names.includes(name));
    const further = names.filter((name) => !main.includes(name));
    const made = (name) => (name === "size" ? sizes(store, multiple ?? 8) : this.#made(name));
    $("#settings").replaceChildren(...main.map(made));
    $("#further").replaceChildren(...further.map(made));
    $("#settings").onsubmit = (event) => event.preventDefault();
    this.#prompt();
    hints(about ?? "");
    store.listen(() => this.show());
    this.show();
  }

  /** Everything as the store has it. */
  show() {
    const { values } = this.store;
    for (const [name, field] of Object.entries(this.#fields)) {
      field.show(values[name]);
      this.#weigh(name, field);
    }
  }

  /** An error of the server, beside the setting that it names; false where it names none. */
  blame(message) {
    const name = /^\w+/.exec(message)?.[0];
    for (const { element } of Object.values(this.#fields)) $(".wrong", element)?.remove();
    const field = message && this.#fields[name];
    if (!field) return false;
    field.element.append(make("p", { class: "wrong", role: "alert", text: message }));
    if (field.element.closest("details")) $("#more").open = true;
    return true;
  }

  #made(name) {
    const schema = this.store.fields[name];
    const field = widget(name, schema, (value) => value !== undefined && this.store.change({ [name]: value }));
    const told = make("p", { class: "help", id: `${name}-help` });
    field.element.append(told);
    field.input.setAttribute("aria-describedby", told.id);
    this.#fields[name] = { ...field, told, help: schema.description ?? "" };
    return field.element;
  }

  /** The help of a setting, and whether it does anything now. */
  #weigh(name, { element, told, help }) {
    const why = MOOT[name]?.(this.store.values) || "";
    const now = why ? `${help} ${why}` : help;
    element.classList.toggle("moot", Boolean(why));
    if (element.dataset.help === now) return;
    element.dataset.help = now;
    if (told) told.textContent = now;
  }

  /** The prompt's field is `Blend`'s; here is where errors about it go, and its help. */
  #prompt() {
    const input = $("#prompt");
    const help = this.store.fields.prompt?.description ?? "";
    this.#fields.prompt = { element: input.parentElement, input, help, show: () => {} };
  }

  /** Every slider that is a setting: `[name, element]`. */
  get sliders() {
    return Object.entries(this.#fields).filter(([, { input }]) => input.type === "range").map(([name, { element }]) => [name, element]);
  }
}

// ------------------------------------------------------------------------------------------------ widgets

/** `{element, input, show(value)}` for a field of the schema; `told(value)` is called when someone changes it. */
function widget(name, schema, told) {
  const title = (schema.title ?? name).toLowerCase().replace(/^./, (x) => x.toUpperCase());
  const make = { boolean: toggle, choice, slider, box, text: line }[look(schema)];
  return make({ name, schema, title, told });
}

function look(schema) {
  const asked = kind(schema);
  if (["boolean", "choice"].includes(asked)) return asked;
  if (!["number", "integer"].includes(asked)) return "text";
  const span = (schema.maximum ?? schema.exclusiveMaximum ?? Infinity) - (schema.minimum ?? -Infinity);
  return Number.isFinite(span) && (asked === "number" || span <= FINE) ? "slider" : "box";
}

function framed(type, { name, title }, ...children) {
  const half = HALF.includes(type) ? " half" : "";
  const head = make("div", { class: "head" }, make("label", { for: `set-${name}`, text: title }));
  return make("div", { class: `field ${type}${half}`, "data-name": name }, head, ...children);
}

export function slider(given) {
  const { name, schema, title, told } = given;
  const [min, max] = [schema.minimum, schema.maximum ?? schema.exclusiveMaximum];
  const step = kind(schema) === "integer" ? 1 : max - min <= 2 ? 0.01 : 0.1;
  const input = make("input", { type: "range", id: `set-${name}`, "data-setting": name, min, max, step });
  const looks = { class: "exact", "aria-label": `${title}, as a number` };
  const exact = make("input", { type: "number", min, max, step: "any", ...looks });
  const element = framed("slider", given, input);
  $(".head", element).append(exact);
  input.oninput = () => told(inLimits(schema, Number(input.value)));
  exact.onchange = () => told(inLimits(schema, exact.value === "" ? NaN : Number(exact.value)));
  const show = (value) => {
    input.value = value;
    input.style.setProperty("--fill", `${((value - min) / (max - min)) * 100}%`);
    if (document.activeElement !== exact || Number(exact.value) !== value) exact.value = Number(value.toFixed(4));
  };
  return { element, input, show };
}

function box(given) {
  const { name, schema, told } = given;
  const limits = { min: schema.minimum, max: schema.maximum, step: schema.multipleOf ?? 1 };
  const input = make("input", { type: "number", class: "box", id: `set-${name}`, "data-setting": name, ...limits });
  const show = keep(input);
  const take = () => told(inLimits(schema, input.value === "" ? NaN : Number(input.value)));
  input.onchange = take;
  const row = make("div", { class: "row" }, input);
  if (name === "seed") row.append(dice(schema, told));
  return { element: framed("box", given, row), input, show };
}

function dice(schema, told) {
  const roll = () => told(Math.floor(Math.random() * Math.min(schema.maximum + 1, 1e6))); // short enough to read
  const looks = { class: "plain dice", "aria-label": "Another seed" };
  return make("button", { type: "button", onclick: roll, ...looks }, icon("dice"));
}

function toggle({ name, title, told }) {
  const input = make("input", { type: "checkbox", role: "switch", id: `set-${name}`, "data-setting": name });
  input.onchange = () => told(input.checked);
  const element = make("div", { class: "field switch" }, make("label", { for: `set-${name}`, text: title }), input);
  return { element, input, show: (value) => (input.checked = value) };
}

const pick = (select) => make("div", { class: "pick" }, select, icon("more"));

function choice(given) {
  const { name, schema, told } = given;
  const options = schema.enum.map((value) => make("option", { value, text: value }));
  const input = make("select", { id: `set-${name}`, "data-setting": name }, ...options);
  input.onchange = () => told(input.value);
  return { element: framed("choice", given, pick(input)), input, show: (value) => (input.value = value) };
}

/** Text, lists (`32,45`; nothing is null), and whatever else a schema may ask for. */
function line(given) {
  const { name, schema, told } = given;
  const plain = { autocomplete: "off", spellcheck: "false" };
  const input = make("input", { type: "text", id: `set-${name}`, "data-setting": name, ...plain });
  const list = kind(schema) === "array";
  if (list) input.placeholder = "e.g. 32,45";
  input[list ? "onchange" : "oninput"] = () => told(parse(schema, input.value));
  return { element: framed("line", given, input), input, show: keep(input) };
}

/** Shows a value without moving the cursor of someone who is typing it. */
const keep = (input) => (value) => {
  if (input.value !== text(value)) input.value = text(value);
};

// ------------------------------------------------------------------------------------------------ size, hints

const SHAPES = [[1, 1], [16, 9], [4, 3], [9, 16]];
const SIDES = [256, 384, 512, 768];

/** Width and height together: the usual shapes that the model can paint. */
function sizes(store, multiple) {
  const input = make("select", { id: "set-size", "data-size": true });
  const usual = SHAPES.flatMap((shape) => SIDES.map((side) => shaped(shape, side, multiple)));
  const show = () => {
    const now = `${store.values.width}×${store.values.height}`;
    const options = [...new Set([...usual, now])].sort(byArea).map((x) => make("option", { value: x, text: x }));
    input.replaceChildren(...options);
    input.value = now;
  };
  input.onchange = () => {
    const [width, height] = input.value.split("×").map(Number);
    store.change({ width, height });
  };
  store.listen(show);
  show();
  const element = framed("choice", { name: "size", title: "Size" }, pick(input));
  element.dataset.help = "Size of the painted picture in pixels; smaller is faster. Any other: under More.";
  return element;
}

function shaped([w, h], side, multiple) {
  const fit = (x) => Math.max(multiple, Math.round((side * x) / Math.max(w, h) / multiple) * multiple);
  return `${fit(w)}×${fit(h)}`;
}

const area = (size) => size.split("×").reduce((a, b) => a * b);
const byArea = (a, b) => area(a) - area(b);

/** What the setting under the pointer or the cursor does, at the foot of the panel; else what the model is. */
function hints(about) {
  const [panel, hint] = [$("#panel"), $("#hint span")];
  const tell = (target) => (hint.textContent = target.closest?.("[data-help]")?.dataset.help ?? about);
  for (const name of ["pointerover", "focusin"]) panel.addEventListener(name, ({ target }) => tell(target));
  for (const name of ["pointerleave", "focusout"]) panel.addEventListener(name, () => tell(document.body));
  tell(document.body);
}
