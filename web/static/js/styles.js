/** Styles to tap: each is a prompt that the model knows well. */

import { $, make } from "./dom.js";

/** Two colours for a style, so that one finds it again; those of other models get theirs from their letters. */
const COLOURS = {
  watercolor: ["#bfe3f5", "#5b9fd0"], oil: ["#e0a44a", "#7a3b1d"], pencil: ["#f3f1ec", "#83858a"],
  ink: ["#efe9dc", "#26242b"], pop: ["#ffd23d", "#ef3e6d"], neon: ["#27f5d2", "#7b2bff"],
  thermal: ["#ffe14a", "#c5206b"], night: ["#a8f08a", "#0d4a24"], sepia: ["#e7c99a", "#6d4525"],
  blueprint: ["#8fc3ff", "#153f93"], vaporwave: ["#ff86d1", "#58d6ee"],
};

function colours(style) {
  const known = COLOURS[style.toLowerCase().split(/\s+/)[0]];
  if (known) return known;
  const hue = [...style].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
  return [`hsl(${hue} 75% 70%)`, `hsl(${(hue + 50) % 360} 60% 38%)`];
}

const clean = (part) => part.replace(/:[\d.]+\s*$/, "").trim().toLowerCase();
const parts = (prompt) => prompt.split("|").map((part) => part.trim()).filter(Boolean);

/** The prompt after a tap: that style alone, or none if it is already; `blend` adds it or takes it out. */
export function tapped(prompt, style, blend) {
  const now = parts(prompt);
  const without = now.filter((part) => clean(part) !== style.toLowerCase());
  const there = without.length < now.length;
  if (blend) return [...without, ...(there ? [] : [style])].join(" | ");
  return there && now.length === 1 ? "" : style;
}

/** Fills `#styles`; the digits 1 to 9 tap the first nine. `blend` owns the words that they go to. */
export function showStyles(styles, store, blend) {
  const tap = (style, { shiftKey, ctrlKey, metaKey }) =>
    (blend.words = tapped(blend.words, style, shiftKey || ctrlKey || metaKey));
  const chips = styles.map((style) => chip(style, (event) => tap(style, event)));
  const show = () => {
    const used = parts(store.values.prompt).map(clean);
    for (const made of chips) made.setAttribute("aria-pressed", used.includes(made.textContent.toLowerCase()));
  };
  $("#styles").replaceChildren(...chips);
  $("#styles").hidden = !chips.length;
  store.listen(show);
  show();
}

function chip(style, onclick) {
  const swatch = make("i", { "aria-hidden": "true" });
  const [a, b] = colours(style);
  swatch.style.setProperty("--a", a);
  swatch.style.setProperty("--b", b);
  const title = "Shift and click blends it with the others";
  return make("button", { type: "button", class: "chip", title, "aria-pressed": "false", onclick }, swatch, style);
}
