/** The settings: what they are now, where they differ from the defaults, and where they are kept. */

import { kept } from "./dom.js";

/** The entries of an object that pass `test(name, value)`. */
export function only(object, test) {
  return Object.fromEntries(Object.entries(object).filter(([name, value]) => test(name, value)));
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** The kind of control that a part of the JSON schema asks for. */
export function kind(field) {
  const options = (field.anyOf ?? [field]).filter((x) => x.type !== "null");
  if (field.enum) return "choice";
  return options[0]?.type ?? "text"; // boolean, integer, number, string, array
}

/** A value from its text, as it stands in a field or in the address; undefined where it is none. */
export function parse(field, text) {
  switch (kind(field)) {
    case "boolean":
      return text === "true";
    case "integer":
    case "number":
      return inLimits(field, Number(text));
    case "array":
      return text.trim() ? numbers(text) : null;
    case "choice":
      return field.enum.includes(text) ? text : undefined;
    default:
      return text.slice(0, field.maxLength);
  }
}

export const text = (value) => (value == null ? "" : Array.isArray(value) ? value.join(",") : String(value));

function numbers(text) {
  const parts = text.split(/[\s,]+/).filter(Boolean).map(Number);
  return parts.every(Number.isFinite) ? parts : undefined;
}

/** The nearest value that the schema allows. */
export function inLimits(field, value) {
  if (!Number.isFinite(value)) return undefined;
  const step = field.multipleOf ?? (kind(field) === "integer" ? 1 : 0);
  const whole = step ? Math.round(value / step) * step : value;
  const top = field.exclusiveMaximum !== undefined ? field.exclusiveMaximum - 0.001 : (field.maximum ?? Infinity);
  return Math.min(Math.max(whole, field.minimum ?? -Infinity), top);
}

/** Owner of the settings. Listeners get `(changes, from)`; `from` is "page" or "server". */
export class Store {
  #listeners = [];
  #own = null; // the page's own values, while it shows those of a session that it joined

  constructor({ settings, defaults, model }) {
    this.fields = settings.properties;
    this.defaults = { ...defaults };
    this.place = `settings.${model?.name ?? "model"}`;
    this.values = { ...this.defaults, ...this.#begin() };
    this.revision = 0; // counts the page's own changes
    this.#keep();
  }

  listen(told) {
    this.#listeners.push(told);
  }

  /** Changes from the page: kept, told to everyone. */
  change(changes) {
    const news = this.#news(changes);
    if (!Object.keys(news).length) return;
    this.revision += 1;
    this.#take(news, "page");
  }

  /** What the server says holds now. */
  adopt(values) {
    this.#take(this.#news(values), "server");
  }

  reset() {
    this.change(this.defaults);
  }

  /** From now on the values are those of a session that others see too: neither kept here nor in the address. */
  borrow() {
    this.#own ??= { ...this.values };
  }

  /** The page's own values again. */
  giveBack() {
    const own = this.#own;
    this.#own = null;
    if (own) this.#take(this.#news(own), "server");
  }

  get borrowed() {
    return this.#own !== null;
  }

  /** The settings that differ from `others`, by default from the model's own. */
  differences(others = this.defaults) {
    return only(this.values, (name, value) => !same(value, others[name]));
  }

  /** Takes over what the address says, e.g. when a link was pasted. */
  readAddress() {
    if (!this.borrowed) this.change({ ...this.defaults, ...this.#fromAddress() });
  }

  /** The address that brings these settings along. */
  link() {
    const differing = Object.entries(this.differences()).map(([name, value]) => [name, text(value)]);
    const address = new URL(location.href);
    if (this.borrowed) return address.href.replace(/#.*/, "");
    address.hash = new URLSearchParams(differing).toString();
    return address.href;
  }

  /** What a link says, else what was used last. */
  #begin() {
    const linked = this.#fromAddress();
    return Object.keys(linked).length ? linked : this.#known(kept.get(this.place) ?? {});
  }

  #take(news, from) {
    if (!Object.keys(news).length) return;
    Object.assign(this.values, news);
    this.#keep();
    for (const told of this.#listeners) told(news, from);
  }

  #news(changes) {
    return only(this.#known(changes), (name, value) => !same(value, this.values[name]));
  }

  #known(values) {
    return only(values, (name, value) => name in this.fields && value !== undefined);
  }

  #fromAddress() {
    const given = [...new URLSearchParams(location.hash.slice(1))].filter(([name]) => name in this.fields);
    return this.#known(Object.fromEntries(given.map(([name, text]) => [name, parse(this.fields[name], text)])));
  }

  #keep() {
    if (this.borrowed) return;
    kept.set(this.place, this.differences());
    clearTimeout(this.writing);
    this.writing = setTimeout(() => this.#write(), 400); // browsers limit how often
  }

  #write() {
    if (!this.borrowed) history.replaceState(null, "", this.link());
  }
}

/** Sends changes at once, then at most every `gap` ms; what comes in between is merged, newest wins. */
export class Coalesced {
  #waiting = {};
  #timer = null;

  constructor(send, gap = 50) {
    this.send = send;
    this.gap = gap;
  }

  put(changes) {
    Object.assign(this.#waiting, changes);
    if (!this.#timer) this.#flush();
  }

  /** Whether a setting waits to be sent. */
  holds(name) {
    return name in this.#waiting;
  }

  #flush() {
    this.#timer = null;
    if (!Object.keys(this.#waiting).length) return;
    const changes = this.#waiting;
    this.#waiting = {};
    this.#timer = setTimeout(() => this.#flush(), this.gap);
    this.send(changes);
  }
}
