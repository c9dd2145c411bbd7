/** Full screen, picture in picture, and a screen that stays awake. */

import { $, all, make } from "./dom.js";

const STILL = 2500; // ms without a movement after which the tools go in full screen

/** Full screen for the stage; where only videos can (iPhone), for the picture. */
export async function fullscreen(stage, picture) {
  if (document.fullscreenElement) return document.exitFullscreen();
  if (stage.requestFullscreen) return stage.requestFullscreen({ navigationUI: "hide" });
  return picture.webkitEnterFullscreen?.();
}

export const canFullscreen = (stage, picture) => Boolean(stage.requestFullscreen ?? picture.webkitEnterFullscreen);

/** Hides the tools in full screen when nothing moves. */
export function hideWhenStill(stage) {
  let timer;
  const wake = () => {
    stage.classList.remove("still");
    clearTimeout(timer);
    if (document.fullscreenElement) timer = setTimeout(() => stage.classList.add("still"), STILL);
  };
  const signs = ["pointermove", "pointerdown", "keydown", "focusin", "fullscreenchange"];
  for (const name of signs) stage.addEventListener(name, wake);
}

export const canFloat = () => document.pictureInPictureEnabled === true;

/** Picture in picture of a video, or of a canvas through a video of its own. */
export async function float(element) {
  if (document.pictureInPictureElement) return document.exitPictureInPicture();
  if (element instanceof HTMLVideoElement) return element.requestPictureInPicture();
  const video = make("video", { muted: true, playsinline: true });
  video.srcObject = element.captureStream();
  await video.play();
  return video.requestPictureInPicture();
}

/** Keeps the screen awake while `wanted`; browsers let go when the page is hidden. */
export class Awake {
  #wanted = false;
  #lock = null;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#hold());
  }

  keep(wanted) {
    this.#wanted = wanted;
    this.#hold();
  }

  async #hold() {
    const hold = this.#wanted && !document.hidden && "wakeLock" in navigator;
    if (!hold) return void (await this.#lock?.release(), (this.#lock = null));
    if (this.#lock && !this.#lock.released) return;
    this.#lock = await navigator.wakeLock.request("screen").catch(() => null); // e.g. battery saving: it may dim
  }
}

/** Keys of buttons (`data-key`), the digits for the styles, and a list of them all. */
export function keys() {
  const help = $("#help");
  for (const button of all("button[data-key]")) {
    button.setAttribute("aria-keyshortcuts", button.dataset.key);
    button.dataset.tip = `${button.getAttribute("aria-label")} (${button.dataset.key.toUpperCase()})`;
  }
  addEventListener("keydown", (event) => pressed(event));
  $("#show-help").onclick = () => (list(), help.showModal());
  help.addEventListener("click", (event) => event.target === help && help.close());
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("#help").open) return;
  const typing = event.target.matches("textarea, select, input:not([type=range], [type=checkbox])");
  if (typing) return void (event.key === "Escape" && event.target.blur());
  const target = /^[1-9]$/.test(event.key) ? $("#styles").children[event.key - 1] : keyed(event.key);
  if (!target || target.disabled || !target.checkVisibility({ visibilityProperty: true })) return;
  event.preventDefault();
  if (target.matches("button")) target.click();
  else target.focus();
}

const keyed = (key) => all("[data-key]").find((x) => x.dataset.key === key.toLowerCase());

const FIRST = [["/", "To the prompt"], ["1 – 9", "Styles; with Shift and a click they blend"]];
const LAST = [["← →", "Move the line of the comparison"], ["Esc", "Leave a field, full screen or this list"]];

function list() {
  const named = all("button[data-key]").map((x) => [x.dataset.key, x.getAttribute("aria-label")]);
  const row = ([key, text]) => [make("dt", {}, make("kbd", { text: key.toUpperCase() })), make("dd", { text })];
  $("#keys").replaceChildren(...[...FIRST, ...named, ...LAST].flatMap(row));
}
