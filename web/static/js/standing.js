/** Sessions that go on without a page (OBS, outputs, a show): tiles to join them, beside the sources. */

import * as api from "./api.js";
import { $, all, icon, make } from "./dom.js";

const EVERY = 5000; // ms between two looks
const MOST = 4; // tiles
const SOURCES = { whip: "a picture from OBS", server: "the server's own source" };

export class Standing {
  constructor(page) {
    this.page = page;
    this.ready = this.#look();
  }

  /** What is on now; and again after a while, unless this server has no such sessions. */
  async #look() {
    if (this.#wanted && !(await this.#ask())) return;
    setTimeout(() => this.#look(), EVERY);
  }

  /** Whether there is anybody to choose: nothing is asked while something is shown, or nobody looks. */
  get #wanted() {
    return !this.page.source && !document.hidden;
  }

  async #ask() {
    let found;
    try {
      found = await api.part("api/sessions");
    } catch {
      return true; // away: it may come back
    }
    if (!found) return false;
    this.#show(found.sessions.filter(({ name }) => name));
    return true;
  }

  #show(sessions) {
    if (!this.page.may("control") && sessions.length && !this.page.source) {
      const first = sessions.find(({ name }) => name === "live") ?? sessions[0];
      return this.page.join(first.name);
    }
    const tiles = sessions.slice(0, MOST).map((session) => this.#tile(session));
    const now = tiles.map((tile) => tile.textContent).join();
    if (now === this.shown) return;
    this.shown = now;
    for (const old of all(".sources [data-join]")) old.remove();
    $(".sources").append(...tiles);
    arrange();
  }

  #tile({ name, source, viewers }) {
    const told = [SOURCES[source] ?? source, viewers && `${viewers} watching`].filter(Boolean).join(" · ");
    const looks = { type: "button", "data-join": name };
    const title = make("b", { text: `Join ${name}` });
    return make("button", { ...looks, onclick: () => this.page.join(name) }, icon("live"), title, make("small", { text: told }));
  }
}

/** Makes room for more than two rows of tiles. */
export function arrange() {
  const shown = all(".sources > button").filter((tile) => !tile.hidden).length;
  $("#stage").style.setProperty("--rows", Math.ceil(shown / 2));
}
