/** The words: one prompt, or two with a cross-fader between them, written in the prompt language (`a:0.7|b:0.3`). */

import { $, kept, onEnter } from "./dom.js";
import { between, parts } from "./grammar.js";

const FULL = 100; // of the fader

/** Owner of both prompts and the fader; the setting `prompt` is what they make together. */
export class Blend {
  on = false;
  share = 0; // of prompt B, 0..1
  #made = null; // what was written last

  constructor(store) {
    this.store = store;
    [this.a, this.b, this.fader] = [$("#prompt"), $("#prompt-b"), $("#fader")];
    this.at = this.a; // where a style goes
    const { maxLength = 2000 } = store.fields.prompt ?? {};
    for (const field of [this.a, this.b]) this.#listen(field, maxLength);
    this.fader.oninput = () => this.fade(this.fader.value / FULL);
    $("#show-blend").onclick = () => this.toggle();
    this.#restore();
    store.listen((changes) => "prompt" in changes && this.show(store.values.prompt));
  }

  #listen(field, maxLength) {
    field.maxLength = maxLength;
    field.oninput = () => this.#write();
    field.onfocus = () => (this.at = field);
    onEnter(field, () => field.blur());
  }

  /** The prompt that a style changes: the one that was written in last. */
  get words() {
    return this.at.value;
  }

  set words(text) {
    this.at.value = text;
    this.#write();
  }

  toggle(on = !this.on) {
    this.on = on;
    this.at = on ? this.b : this.a;
    if (on && !this.b.value) this.b.value = kept.get("blend")?.b ?? "";
    this.#show();
    this.#write();
    if (on && !this.b.value) this.b.focus();
  }

  /** Moves the fader; `share` is of prompt B, 0..1. */
  fade(share) {
    if (!this.on) this.toggle(true);
    this.share = Math.min(1, Math.max(0, share));
    this.#show();
    this.#write();
  }

  /** What the setting is now: made of both fields here, or somebody else's word. */
  show(prompt) {
    if (prompt === this.#made) return;
    this.#made = prompt;
    if (this.on) this.#divide(prompt);
    else put(this.a, prompt);
    this.#show();
  }

  /** Two parts with weights are both sides of the fader; anything else is prompt A. */
  #divide(prompt) {
    const all = parts(prompt);
    if (all.length !== 2) {
      put(this.a, prompt);
      this.share = 0;
      return;
    }
    const [[a, one], [b, two]] = all;
    put(this.a, a);
    put(this.b, b);
    this.share = two / (one + two || 1);
  }

  #write() {
    const { a, b, share } = this;
    const made = this.on ? between(a.value, b.value, share) : a.value;
    this.#made = made ?? a.value; // one side is empty: there is nothing to fade to
    kept.set("blend", { on: this.on, a: a.value, b: b.value, share });
    this.store.change({ prompt: this.#made });
  }

  /** As the page was left, where the prompt is still the one that came of it. */
  #restore() {
    const { on = false, a = "", b = "", share = 0 } = kept.get("blend") ?? {};
    const { prompt } = this.store.values;
    this.on = on && between(a, b, share) === prompt;
    [this.a.value, this.b.value, this.share] = this.on ? [a, b, share] : [prompt, "", 0];
    this.#made = prompt;
    this.#show();
  }

  #show() {
    $("#blend").hidden = !this.on;
    $("#show-blend").setAttribute("aria-pressed", this.on);
    const percent = Math.round(this.share * FULL);
    this.fader.value = percent;
    this.fader.style.setProperty("--fill", `${percent}%`);
    this.fader.setAttribute("aria-valuetext", `${FULL - percent} percent A, ${percent} percent B`);
    $("#fader-at").textContent = `${FULL - percent} : ${percent}`;
  }
}

/** Writes a value without moving the cursor of someone who is typing it. */
function put(field, text) {
  if (field.value !== text) field.value = text;
}
