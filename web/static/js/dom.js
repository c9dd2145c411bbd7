/** Small helpers over the DOM. */

export const $ = (selector, root = document) => root.querySelector(selector);
export const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with properties (`text`, `class`, listeners as `onclick`) or else attributes, and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** One of the icons that index.html defines. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.classList.add("icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Calls `told()` for Enter in a field. A listener: an `onkeydown` that gives back false would take every other key away. */
export function onEnter(field, told) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    told();
  });
}

/** Calls `told(now, metadata)` for every new frame of a video, or every repaint where the browser cannot say. */
export function everyFrame(video, told) {
  let going = true;
  const exact = "requestVideoFrameCallback" in video;
  const ask = (then) => (exact ? video.requestVideoFrameCallback(then) : requestAnimationFrame(then));
  const next = (now, metadata = {}) => {
    if (!going) return;
    ask(next);
    told(now, metadata);
  };
  ask(next);
  return () => (going = false);
}

/** Calls `told()` at most `rate` times a second, in step with repaints; not at all while the page is hidden. */
export function everyTick(rate, told) {
  let going = true;
  let due = 0;
  const next = (now) => {
    if (!going) return;
    requestAnimationFrame(next);
    if (now < due - 2) return; // 2 ms: repaints come a little early or late
    due = Math.max(due + 1000 / rate, now);
    told();
  };
  requestAnimationFrame(next);
  return () => (going = false);
}

/** Milliseconds of the wall clock (as `Date.now()`) at a moment of `performance.now()`. */
export const wallClock = (now = performance.now()) => now + Date.now() - performance.now();

/** Waits; ends early, without an error, when `signal` aborts. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Waits for an event. */
export const once = (target, event) => new Promise((resolve) => target.addEventListener(event, resolve, { once: true }));

/** Hands a file to the browser's downloads. */
export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

export const size = (element) => [element.videoWidth || element.width || 0, element.videoHeight || element.height || 0];

/** What `localStorage` keeps under a name; nothing where the browser keeps nothing (private windows). */
export const kept = {
  get(name) {
    try {
      return JSON.parse(localStorage.getItem(`livebrush.${name}`));
    } catch {
      return null; // no storage, or not ours
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`livebrush.${name}`, JSON.stringify(value));
    } catch {
      // no storage: the setting holds until the page is closed
    }
  },
};
