/** The tools below the picture and in the bar: what each button does. */

import { Recorder, snapshot } from "./capture.js";
import { Compare, Echo } from "./compare.js";
import { canFloat, canFullscreen, float, fullscreen, hideWhenStill } from "./display.js";
import { $, kept } from "./dom.js";

const NOTHING = "There is no painted picture yet: choose a source first.";

export const pressed = (id, on) => $(id).setAttribute("aria-pressed", Boolean(on));

export class Tools {
  #stage = $("#stage");
  #frame = $("#frame");

  constructor(page) {
    this.page = page;
    const echo = new Echo($("#camera"), $("#original"), () => page.latency.p50 ?? 0);
    this.compare = new Compare(this.#frame, $("#split"), echo);
    this.recorder = new Recorder();
    this.#wire({
      "#mirror": () => this.mirror(!this.mirrored, true),
      "#flip": () => this.flip(!this.flipped),
      "#compare": () => this.toggleCompare(!this.compare.on),
      "#show-overlay": () => this.#toggleOverlay(),
      "#snapshot": () => this.#snapshot(),
      "#record": () => this.record(),
      "#fullscreen": () => fullscreen(this.#stage, $("#picture")),
      "#pip": () => this.#float(),
      "#share": () => this.#share(),
      "#show-panel": () => this.#panel(document.body.classList.contains("no-panel")),
    });
    this.#offered();
    hideWhenStill(this.#stage);
  }

  #wire(clicks) {
    for (const [id, told] of Object.entries(clicks)) $(id).addEventListener("click", told);
    document.addEventListener("fullscreenchange", () => pressed("#fullscreen", document.fullscreenElement));
    document.addEventListener("enterpictureinpicture", () => pressed("#pip", true), true);
    document.addEventListener("leavepictureinpicture", () => pressed("#pip", false), true);
  }

  /** Only what this browser can do. */
  #offered() {
    $("#fullscreen").hidden = !canFullscreen(this.#stage, $("#picture"));
    $("#pip").hidden = !canFloat();
    $("#record").hidden = !globalThis.MediaRecorder;
    if (kept.get("overlay")) this.#toggleOverlay();
  }

  get mirrored() {
    return "mirror" in this.#frame.dataset;
  }

  mirror(on, remember = false) {
    if (on) this.#frame.dataset.mirror = "";
    else delete this.#frame.dataset.mirror;
    pressed("#mirror", on);
    if (remember && this.page.source?.kind === "camera") kept.set("mirror", on);
  }

  get flipped() {
    return "flip" in this.#frame.dataset;
  }

  /** Upside down, for a camera that hangs from the ceiling or a mirror that lies on a table. */
  flip(on) {
    if (on) this.#frame.dataset.flip = "";
    else delete this.#frame.dataset.flip;
    pressed("#flip", on);
    if (this.page.source?.kind === "camera") kept.set("flip", on);
  }

  toggleCompare(on) {
    this.compare.show(on);
    pressed("#compare", on);
  }

  #toggleOverlay() {
    const element = $("#overlay");
    element.hidden = !element.hidden;
    pressed("#show-overlay", !element.hidden);
    kept.set("overlay", !element.hidden);
  }

  #panel(on) {
    document.body.classList.toggle("no-panel", !on);
    pressed("#show-panel", on);
  }

  /** The painted picture's element, and how it is turned. */
  #shown = () => [$("#fallback").hidden ? $("#picture") : $("#fallback"), this.mirrored, this.flipped];

  async #snapshot() {
    const { facts, store } = this.page;
    const name = await snapshot(this.#shown, store.values, { model: facts.model?.name, version: facts.version });
    if (!name) return this.#done(NOTHING);
    $("#flash").classList.remove("on");
    requestAnimationFrame(() => $("#flash").classList.add("on"));
    this.#done(`Saved ${name}, its settings inside.`);
  }

  async record() {
    if (this.recorder.on) this.recorder.stop(this.page.store.values).then((name) => this.#done(`Saved ${name}.`));
    else if (!this.recorder.start(this.#shown, recorded)) this.#done(NOTHING);
    pressed("#record", this.recorder.on);
    $("#recorded").hidden = !this.recorder.on;
  }

  #float() {
    float(this.#shown()[0]).catch(() => this.#done(NOTHING));
  }

  async #share() {
    const link = new URL(this.page.store.link());
    const { joins } = this.page.source ?? {};
    link.search = joins ? new URLSearchParams({ session: joins }) : ""; // nothing else of how this page was opened
    const copied = navigator.clipboard?.writeText(link.href) ?? Promise.reject(new Error("no clipboard"));
    await copied.then(
      () => this.#done(joins ? "Copied: a link to this session." : "Copied: a link with these settings."),
      () => this.#done("The browser gave no access to the clipboard: copy the address above, it has the settings."),
    );
  }

  #done(text) {
    this.page.notices.set("done", text, { lasts: 4000 });
  }
}

function recorded(seconds) {
  $("#recorded").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
