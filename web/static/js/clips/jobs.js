/** What is being rendered, with its progress; and what was, as a gallery. */

import { icon, make } from "../dom.js";
import * as api from "./api.js";

const STAGES = {
  "": "waits", starting: "starts", load: "loads the model", encode: "reads the input", denoise: "denoises",
  decode: "decodes", write: "writes the file",
};
const SURE = 3000; // ms in which a second press deletes

export const moving = (video) => video.status === "queued" || video.status === "in_progress";
const pictures = ["gif", "apng", "png"];
export const still = (video) => pictures.includes(video.format);

const button = (name, label, onclick) =>
  make("button", { type: "button", class: "plain", "aria-label": label, title: label, onclick }, icon(name));

export class Jobs {
  #rows = new Map(); // by id: {video, element, update}

  /** `acts`: `show(video)`, `edit(video)`, `fail(error)`. */
  constructor({ jobs, gallery, titles }, acts) {
    Object.assign(this, { jobs, gallery, titles, acts });
  }

  get videos() {
    return [...this.#rows.values()].map((row) => row.video);
  }

  /** What the server says: those that changed, and the ids of all. */
  take({ changed, ids }) {
    for (const video of changed) this.#put(video);
    const there = new Set(ids);
    for (const [id, row] of this.#rows) {
      if (there.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
    const under = this.videos.filter((v) => v.status !== "completed").length;
    this.titles.jobs.hidden = !under;
    this.titles.gallery.hidden = under === this.#rows.size;
  }

  #put(video) {
    const before = this.#rows.get(video.id);
    if (before && (before.video.status === "completed") === (video.status === "completed")) {
      before.video = video;
      before.update(video);
      return;
    }
    before?.element.remove();
    const done = video.status === "completed";
    const row = done ? this.#card(video) : this.#row(video);
    this.#rows.set(video.id, { video, ...row });
    row.update(video);
    if (done) this.gallery.prepend(row.element);
    else this.jobs.append(row.element);
  }

  /** A clip that waits, is made, or was not. */
  #row(video) {
    const bar = make("progress", { max: "100", "aria-label": `Progress of ${video.prompt || "a clip"}` });
    const picture = make("img", { alt: "", class: "thumb", hidden: true });
    const title = make("b", { text: video.prompt || "a clip" });
    const state = make("small", { class: "state" });
    const cancel = button("close", "Cancel", this.#does(() => api.cancel(video.id)));
    const again = button("again", "Go on", this.#does(() => api.resume(video.id)));
    const drop = this.#delete(video);
    const element = make("li", { "data-id": video.id }, picture, make("div", { class: "what" }, title, state, bar), cancel, again, drop);
    const update = (now) => {
      const over = !moving(now);
      bar.hidden = over;
      bar.value = now.progress;
      element.dataset.status = now.status;
      state.textContent = over ? now.error?.message ?? "failed" : words(now);
      cancel.hidden = over;
      again.hidden = drop.hidden = !over;
      if (now.preview) picture.src = `.${now.preview}`;
      picture.hidden = !now.preview;
    };
    return { element, update };
  }

  /** A clip that is there. */
  #card(video) {
    const shown = still(video)
      ? make("img", { src: api.content(video.id), alt: "", loading: "lazy" })
      : make("video", { src: api.content(video.id), poster: api.content(video.id, "thumbnail"), loop: true, playsinline: true, preload: "none" });
    shown.muted = true;
    const look = make("button", {
      type: "button", class: "look", "aria-label": `Show ${video.prompt || "the clip"}`, onclick: () => this.acts.show(video),
    }, shown);
    if (!still(video)) {
      for (const kind of ["pointerenter", "focus"]) look.addEventListener(kind, () => shown.play().catch(() => {}));
      for (const kind of ["pointerleave", "blur"]) look.addEventListener(kind, () => shown.pause());
    }
    const save = make("a", { class: "plain", href: api.saved(video.id), download: "", "aria-label": "Download", title: "Download" }, icon("save"));
    const edit = button("edit", "Open in the editor", () => this.acts.edit(video));
    const told = make("div", { class: "what" }, make("b", { text: video.prompt || "a clip" }), make("small", {
      text: `${video.size} · ${video.seconds} s · seed ${video.seed}`,
    }));
    const row = make("div", { class: "row" }, told, edit, save, this.#delete(video));
    const element = make("li", { "data-id": video.id, "data-status": video.status }, look, row);
    return { element, update: () => {} };
  }

  /** Deletes at the second press. */
  #delete(video) {
    let sure = false;
    const press = button("delete", "Delete", () => {
      if (sure) return this.#does(() => api.remove(video.id))();
      sure = true;
      press.dataset.sure = "";
      press.setAttribute("aria-label", "Press again to delete");
      setTimeout(() => {
        sure = false;
        delete press.dataset.sure;
        press.setAttribute("aria-label", "Delete");
      }, SURE);
    });
    return press;
  }

  #does(what) {
    return () => what().catch(this.acts.fail);
  }
}

/** `denoises 12 of 60`. */
export function words({ status, stage, done, total }) {
  if (status === "queued") return "waits";
  const word = STAGES[stage] ?? stage;
  return total > 1 ? `${word} ${done} of ${total}` : word;
}
