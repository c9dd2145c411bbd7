/** The editor: the track and the fields over one clip, what it will take, and what is wrong with it. */

import { $, kept, make } from "../dom.js";
import { showStyles } from "../styles.js";
import * as api from "./api.js";
import * as fields from "./fields.js";
import * as model from "./model.js";
import { Track } from "./track.js";

const PLAN_WAIT = 400; // ms after the last change
const CAMERA = { x: [-0.1, 0.1, 0.001], y: [-0.1, 0.1, 0.001], zoom: [0.9, 1.1, 0.001], rotate: [-5, 5, 0.1] };
const CAMERA_WORDS = { x: "To the right", y: "Downwards", zoom: "Zoom", rotate: "Turn" };
const REST = { x: 0, y: 0, zoom: 1, rotate: 0 };
const ALIAS = { input_reference: "input", size: "width", model: "", negative_prompt: "negative" };

export class Editor {
  #planned = null; // AbortController of the plan under way
  #timer = 0;
  #segmentFields = [];

  constructor(facts) {
    this.facts = facts;
    this.clip = this.#begin();
    this.general = $("#wrong");
    this.prompt = $("#prompt");
    this.clipFields = this.#clipFields();
    $("#clip").append(...this.clipFields.map((f) => f.element));
    this.track = new Track({ lane: $("#lane"), keys: $("#keys"), ruler: $("#ruler") }, this.clip, ({ changed }) => {
      this.#segment();
      if (changed) this.#changed();
    });
    this.#buttons();
    this.#styles();
    for (const form of ["#clip", "#segment"]) $(form).addEventListener("submit", (event) => event.preventDefault());
    this.show();
  }

  /** What was edited last, else a new one. */
  #begin() {
    const last = kept.get("clip");
    const base = model.fresh(this.facts);
    return last?.segments?.length ? { ...base, ...last, input: null } : base;
  }

  /** Another clip in the editor. */
  open(timeline) {
    Object.assign(this.clip, model.opened(timeline, model.fresh(this.facts)));
    this.track.chosen = 0;
    this.show();
  }

  get segment() {
    return this.clip.segments[this.track.chosen];
  }

  /** Everything as the clip has it. */
  show() {
    this.prompt.value = this.clip.prompt;
    for (const field of this.clipFields) field.show(this.clip[field.name]);
    this.#strength();
    this.track.draw();
    this.#segment();
    this.#changed();
  }

  // ------------------------------------------------------------------------------------------ the fields

  #clipFields() {
    const set = (name) => (value) => this.#set(name, value);
    return [
      fields.number("frames", "Frames", { min: model.LEAST, max: 10_000 }, (value) => {
        model.lengthen(this.clip, value);
        this.show();
      }),
      fields.text("fps", "Frames a second", { kind: "half", limit: 20 }, set("fps")),
      fields.number("width", "Width", { min: 64, max: 2048, step: 8 }, set("width")),
      fields.number("height", "Height", { min: 64, max: 2048, step: 8 }, set("height")),
      fields.seed("seed", "Seed", set("seed")),
      fields.number("n", "Clips, a seed each", { min: 1, max: 16 }, set("n")),
      fields.upload("input", "Repaint a picture or a video", (value) => {
        this.#set("input", value);
        this.#strength();
      }),
      fields.number("strength", "Strength: how far from it", { min: 0, max: 1, step: 0.05, none: "as the motion has it", kind: "" }, set("strength")),
      fields.toggle("loop", "Closed loop", set("loop")),
      fields.choice("format", "File", this.facts.formats.map((f) => [f, f.toUpperCase()]), set("format"), "half"),
      fields.text("negative", "Keep away from", { kind: "half" }, set("negative")),
    ];
  }

  #set(name, value) {
    this.clip[name] = value;
    this.clipFields.find((f) => f.name === name)?.show(value);
    if (name === "fps") this.track.draw();
    this.#changed();
  }

  #strength() {
    this.clipFields.find((f) => f.name === "strength").element.hidden = !this.clip.input;
  }

  /** The fields of the chosen segment, made anew. */
  #segment() {
    const { segment: s, clip } = this;
    const index = this.track.chosen;
    $("#segment-title").textContent = `Segment ${index + 1} of ${clip.segments.length}`;
    const set = (name) => (value) => {
      s[name] = value;
      this.track.draw();
      this.#changed();
    };
    const motions = [["", "None: each frame by itself"], ...this.facts.motions.map((m) => [m.name, m.about ? `${m.name}: ${m.about}` : m.name])];
    const made = [
      fields.choice("motion", "Motion", motions, set("motion")),
      fields.text("prompt", "Its own prompt", { placeholder: clip.prompt || "the clip's" }, set("prompt")),
      ...s.keys.map((key, i) => this.#keyField(s, key, i)),
      fields.slider("scale", "Motion scale", { min: 0, max: 3, step: 0.05 }, set("scale")),
      fields.slider("effect", "Motion effect", { min: 0, max: 1, step: 0.05 }, set("effect")),
    ];
    if (clip.loop || index < clip.segments.length - 1) {
      const label = "Cross-fade into the next, in frames";
      made.push(fields.number("fade", label, { min: 0, max: 256, none: "half a window", kind: "" }, set("fade")));
    }
    for (const field of made) field.show?.(s[field.name] ?? (field.name === "prompt" ? "" : null));
    this.#segmentFields = made;
    $("#segment").replaceChildren(...made.map((f) => f.element), this.#camera(s));
    $("#remove-segment").disabled = clip.segments.length < 2;
    $("#add-key").disabled = s.end - model.start(clip, index) < 2;
  }

  #keyField(s, key, i) {
    const made = fields.text(`keys.${i + 1}.prompt`, `Key at frame ${key.frame}`, { placeholder: "what it becomes" }, (value) => {
      key.prompt = value;
      this.track.draw();
      this.#changed();
    });
    const drop = make("button", { type: "button", class: "text", text: "Remove" });
    drop.addEventListener("click", () => {
      s.keys = s.keys.filter((k) => k !== key);
      this.track.draw();
      this.#segment();
      this.#changed();
    });
    $(".head", made.element).append(drop);
    made.control.value = key.prompt;
    return { ...made, show: null };
  }

  #camera(s) {
    const box = make("div", { class: "fields camera" });
    const own = fields.toggle("camera", "A camera of its own", (on) => {
      s.camera = on ? { ...REST } : null;
      fill();
      this.#changed();
    });
    own.show(Boolean(s.camera));
    const fill = () => box.replaceChildren(own.element, ...(s.camera ? Object.entries(CAMERA).map(([name, [min, max, step]]) => {
      const made = fields.slider(`camera.${name}`, CAMERA_WORDS[name], { min, max, step }, (value) => {
        s.camera = { ...REST, ...s.camera, [name]: value };
        this.#changed();
      });
      made.show(s.camera[name] ?? REST[name]);
      return made.element;
    }) : []));
    fill();
    return box;
  }

  #buttons() {
    $("#add-segment").addEventListener("click", () => {
      const names = this.facts.motions.map((m) => m.name);
      const next = names[(names.indexOf(this.segment.motion) + 1) % Math.max(names.length, 1)] ?? "";
      const index = model.split(this.clip, this.track.chosen, next);
      if (index === null) return this.wrong(`segment ${this.track.chosen + 1} is too short to be split: use more frames`, "frames");
      this.track.choose(index);
      this.#changed();
    });
    $("#remove-segment").addEventListener("click", () => {
      model.remove(this.clip, this.track.chosen);
      this.track.choose(Math.max(0, this.track.chosen - 1));
      this.#changed();
    });
    $("#add-key").addEventListener("click", () => this.#addKey());
    this.prompt.addEventListener("input", () => {
      this.clip.prompt = this.prompt.value;
      this.track.draw();
      this.#changed();
    });
  }

  /** A key in the widest gap of the segment. */
  #addKey() {
    const { segment: s, clip } = this;
    const points = [model.start(clip, this.track.chosen), ...s.keys.map((k) => k.frame), s.end];
    const gaps = points.slice(1).map((p, i) => [p - points[i], Math.round((p + points[i]) / 2)]);
    const [room, frame] = gaps.reduce((a, b) => (b[0] > a[0] ? b : a));
    if (room < 2) return;
    s.keys.push({ frame, prompt: "" });
    model.settle(clip);
    this.track.draw();
    this.#segment();
    this.#segmentFields.find((f) => f.name === `keys.${s.keys.findIndex((k) => k.frame === frame) + 1}.prompt`)?.control.focus();
    this.#changed();
  }

  /** The styles to tap, over the clip's prompt. */
  #styles() {
    const { clip, facts } = this;
    showStyles(facts.styles, {
      values: clip,
      listen: (told) => (this.shown = told),
      change: ({ prompt }) => {
        this.prompt.value = clip.prompt = prompt;
        this.track.draw();
        this.#changed();
      },
    });
  }

  // ------------------------------------------------------------------------------------------ what it will take

  #changed() {
    kept.set("clip", { ...this.clip, input: null });
    this.shown();
    clearTimeout(this.#timer);
    this.#planned?.abort();
    this.#timer = setTimeout(() => this.#plan(), PLAN_WAIT);
  }

  async #plan() {
    const mine = (this.#planned = new AbortController());
    try {
      const plan = await api.plan(model.asked(this.clip), mine.signal);
      this.wrong("");
      $("#plan").textContent = told(plan);
    } catch (error) {
      if (mine.signal.aborted) return;
      $("#plan").textContent = "";
      this.wrong(error.message, error.param);
    }
  }

  /** Says what is wrong beside the field that it is about, in the segment that it is about; else below the button.
   * `look` brings it into sight. */
  wrong(text, param = "", look = false) {
    const places = [...this.clipFields, ...this.#segmentFields];
    for (const field of places) field.wrong("");
    const prompt = fields.said(this.prompt, $("[data-name=prompt] .wrong"));
    prompt("");
    this.general.hidden = true;
    if (!text) return;
    const [, index, rest] = /^segments\.(\d+)\.?(.*)$/.exec(param) ?? [];
    if (index !== undefined && Number(index) !== this.track.chosen && this.clip.segments[index]) {
      this.track.chosen = Number(index);
      this.track.draw();
      this.#segment();
    }
    const name = index === undefined ? (ALIAS[param] ?? param) : rest || "motion";
    const among = index === undefined ? this.clipFields : this.#segmentFields;
    const field = among.find((f) => f.name === name) ?? among.find((f) => name && name.startsWith(`${f.name}.`));
    if (name === "prompt" && index === undefined) prompt(text);
    else if (field) field.wrong(text);
    else {
      this.general.textContent = text;
      this.general.hidden = false;
    }
    if (look) (field?.element ?? this.general).scrollIntoView({ block: "center", behavior: "smooth" });
  }

  /** Asks for the clip; the first of its jobs. */
  async render() {
    const { input } = this.clip;
    try {
      const made = await api.create(model.asked(this.clip), input instanceof File ? input : null);
      this.wrong("");
      return made;
    } catch (error) {
      this.wrong(error.message, error.param, true);
      return null;
    }
  }
}

/** `64 frames, 256x256 at 8 a second · 60 UNet calls · about 12 s · 686 MB`, and what differs from what was asked. */
export function told({ frames, width, height, fps, unet_calls: calls, seconds, memory_mb: memory, notes }) {
  const parts = [`${frames} frames, ${width}x${height} at ${fps} a second`, `${calls} UNet calls`];
  if (seconds !== null) parts.push(`about ${seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`}`);
  if (memory !== null) parts.push(memory < 2000 ? `${Math.round(memory)} MB` : `${(memory / 1000).toFixed(1)} GB`);
  return [parts.join(" · "), ...notes].join(". ");
}
