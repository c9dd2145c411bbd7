/** One notice at a time on the picture: what happened and what to do. The most pressing one is shown. */

import { icon, make } from "./dom.js";
import { sentence } from "./words.js";

const ORDER = ["source", "page", "server", "setting", "transport", "done"]; // most pressing first

export class Notices {
  #held = {};

  constructor(element) {
    this.element = element;
  }

  /**
   * `kind`: wait, bad, good or plain; `act`: `[label, function]`; `after`: ms until it is shown, should it still hold
   * then; `lasts`: ms until it goes. Nothing where `text` is empty.
   */
  set(name, text, { kind = "plain", act = null, after = 0, lasts = 0 } = {}) {
    if (text && text === this.#held[name]?.text) return; // goes on as it is
    clearTimeout(this.#held[name]?.timer);
    if (!text) delete this.#held[name];
    else this.#held[name] = { text, kind, act, shown: !after, timer: this.#later(name, after, lasts) };
    this.#show();
  }

  #later(name, after, lasts) {
    if (after) return setTimeout(() => this.#due(name), after);
    return lasts ? setTimeout(() => this.set(name, ""), lasts) : null;
  }

  #due(name) {
    this.#held[name].shown = true;
    this.#show();
  }

  #show() {
    const name = ORDER.find((x) => this.#held[x]?.shown);
    const { text = "", kind = "", act } = this.#held[name] ?? {};
    if (text === this.text) return; // a screen reader should not hear it twice
    this.text = text;
    this.element.hidden = !text;
    this.element.dataset.kind = kind;
    this.element.replaceChildren(make("p", { text: sentence(text) }), ...this.#buttons(name, act));
  }

  #buttons(name, act) {
    const done = () => this.set(name, "");
    const looks = { type: "button", class: "plain", "aria-label": "Close this notice" };
    const close = make("button", { ...looks, onclick: done }, icon("close"));
    if (!act) return [close];
    return [make("button", { type: "button", class: "act", text: act[0], onclick: () => (done(), act[1]()) }), close];
  }
}
