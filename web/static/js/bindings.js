/**
 * What a knob, a key or a stick moves. A controller says `{control, label, kind, value}`; `kind` is
 *   value  a position, 0..1 (a knob, a fader, a trigger)
 *   press  a button or a key went down, as strong as `value`
 *   push   a stick is held away from its middle: so far it should go, -1..1 of the whole range
 */

import { $, all } from "./dom.js";
import { inLimits, kind } from "./store.js";

const TENTH = 0.1; // of the range, for each press of a button
const WITHOUT = ["width", "height"]; // a new size stops the picture for a moment
const ACTIONS = ["#mirror", "#flip", "#compare", "#show-overlay", "#snapshot", "#record", "#show-blend", "#tap", "#stop"];

/** Everything that can be moved: a map of `{title, value(x), press(x), push(x)}` by name. */
export function targets(page) {
  const found = new Map();
  for (const [name, field] of Object.entries(page.store.fields)) {
    const made = WITHOUT.includes(name) ? null : setting(page.store, name, field);
    if (made) found.set(name, made);
  }
  found.set("fader", fader(page.blend));
  found.set("style+", pressed("Next style", () => nextStyle(1)));
  found.set("style-", pressed("Style before", () => nextStyle(-1)));
  for (const id of ACTIONS) if ($(id)) found.set(id, pressed($(id).getAttribute("aria-label"), () => $(id).checkVisibility() && $(id).click()));
  for (const { name } of page.extras.presets?.list ?? []) found.set(`preset:${name}`, pressed(`Preset ${name}`, () => page.extras.presets.load(name)));
  return found;
}

function setting(store, name, field) {
  const title = (field.title ?? name).toLowerCase().replace(/^./, (x) => x.toUpperCase());
  const put = (value) => value !== undefined && store.change({ [name]: value });
  switch (kind(field)) {
    case "number":
    case "integer":
      return { title, ...(name === "seed" ? seed(put) : numeric(store, name, field, put)) };
    case "boolean":
      return { title, value: (x) => put(x >= 0.5), press: () => put(!store.values[name]), push: () => {} };
    case "choice": {
      const { length } = field.enum;
      const next = () => put(field.enum[(field.enum.indexOf(store.values[name]) + 1) % length]);
      return { title, value: (x) => put(field.enum[Math.min(length - 1, Math.floor(x * length))]), press: next, push: () => {} };
    }
    default:
      return null;
  }
}

function numeric(store, name, field, put) {
  const [low, high] = [field.minimum, field.maximum ?? field.exclusiveMaximum];
  const to = (x) => put(inLimits(field, Number((low + x * (high - low)).toFixed(4))));
  const exact = {}; // where a stick has pushed it: whole numbers move as well
  const at = () => (store.values[name] - low) / (high - low);
  const push = (by) => {
    if (exact.seen !== store.values[name]) exact.at = at();
    exact.at = Math.min(1, Math.max(0, exact.at + by));
    to(exact.at);
    exact.seen = store.values[name];
  };
  const press = (x) => (x < 1 ? to(x) : to(at() > 1 - TENTH / 2 ? 0 : Math.min(1, at() + TENTH)));
  return { value: to, press, push };
}

const seed = (put) => ({
  value: (x) => put(Math.round(x * 1000)),
  press: () => put(Math.floor(Math.random() * 1e6)),
  push: () => {},
});

const fader = (blend) => ({
  title: "Fader from A to B",
  value: (x) => blend.fade(x),
  press: () => blend.fade(blend.share < 0.5 ? 1 : 0),
  push: (by) => blend.fade(blend.share + by),
});

/** An action: a knob does it when it passes its middle upwards. */
function pressed(title, act) {
  let before = 0;
  const value = (x) => {
    if (before < 0.5 && x >= 0.5) act();
    before = x;
  };
  return { title, press: act, value, push: () => {} };
}

function nextStyle(by) {
  const chips = all("#styles button");
  if (!chips.length) return;
  const now = chips.findIndex((chip) => chip.getAttribute("aria-pressed") === "true");
  chips[(Math.max(now, by < 0 ? 0 : -1) + by + chips.length) % chips.length].click();
}
