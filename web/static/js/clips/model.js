/** The clip that is being edited, as plain values; and the timeline that it means. Nothing here knows the page. */

export const LEAST = 4; // frames of a segment, here

export const segment = (motion = "") => ({
  motion, prompt: "", keys: [], scale: 1, effect: 1, fade: null, camera: null,
});

/** A clip of the server's defaults: a segment for each of the first two motions. */
export function fresh({ motions, size, fps }) {
  const names = motions.slice(0, 2).map((m) => m.name);
  const segments = (names.length ? names : [""]).map(segment);
  const frames = 64;
  return {
    prompt: "", negative: "", frames, width: size[0], height: size[1], fps: String(fps), seed: 0, n: 1, loop: false,
    strength: null, format: "mp4", input: null, more: {},
    segments: segments.map((s, i) => ({ ...s, end: Math.round((frames * (i + 1)) / segments.length) })),
  };
}

export const start = (clip, index) => (index ? clip.segments[index - 1].end : 0);

/** The segment in which a frame lies. */
export const at = (clip, frame) => Math.max(0, clip.segments.findIndex((s) => frame < s.end));

/** Moves the border behind a segment, as far as both its neighbours allow. */
export function moveBorder(clip, index, frame) {
  const low = start(clip, index) + LEAST;
  const high = clip.segments[index + 1].end - LEAST;
  clip.segments[index].end = Math.min(Math.max(Math.round(frame), low), Math.max(low, high));
  settle(clip);
}

/** Another number of frames: borders keep their share. */
export function lengthen(clip, frames) {
  const before = clip.frames;
  clip.frames = frames;
  for (const s of clip.segments) {
    s.end = Math.round((s.end * frames) / before);
    for (const key of s.keys) key.frame = Math.round((key.frame * frames) / before);
  }
  clip.segments.at(-1).end = frames;
  settle(clip);
}

/** Splits a segment in two; the index of the new one, or null where it is too short. */
export function split(clip, index, motion) {
  const [from, to] = [start(clip, index), clip.segments[index].end];
  if (to - from < 2 * LEAST) return null;
  clip.segments[index].end = Math.round((from + to) / 2);
  clip.segments.splice(index + 1, 0, { ...segment(motion), end: to });
  settle(clip);
  return index + 1;
}

/** Takes a segment out; its frames go to a neighbour. */
export function remove(clip, index) {
  if (clip.segments.length < 2) return;
  const [gone] = clip.segments.splice(index, 1);
  if (index === clip.segments.length) clip.segments.at(-1).end = gone.end;
  settle(clip);
}

/** Keys stay inside their segments, in order, one at a frame; the first frame of a segment has its prompt. */
export function settle(clip) {
  clip.segments.forEach((s, i) => {
    const [low, high] = [start(clip, i) + 1, s.end - 1];
    const taken = new Set();
    s.keys = s.keys
      .map((key) => ({ ...key, frame: Math.min(Math.max(key.frame, low), high) }))
      .sort((a, b) => a.frame - b.frame)
      .filter(({ frame }) => frame >= low && !taken.has(frame) && taken.add(frame));
  });
}

/** Without what is empty or as it would be anyway. */
const lean = (object) => Object.fromEntries(Object.entries(object).filter(([, v]) => v !== null && v !== ""));

const told = (clip, s, i) => lean({
  start: start(clip, i),
  end: s.end,
  motion: s.motion,
  ...(s.keys.length
    ? { keys: [{ frame: start(clip, i), prompt: "" }, ...s.keys].map((k) => ({ ...k, prompt: k.prompt || s.prompt || clip.prompt })) }
    : { prompt: s.prompt }),
  scale: s.scale === 1 ? null : s.scale,
  effect: s.effect === 1 ? null : s.effect,
  fade: s.fade,
  camera: s.camera,
});

/** What the server is asked for. */
export function asked(clip) {
  const { prompt, frames, width, height, fps, seed, loop, strength, n, format } = clip;
  const input = clip.input?.id ?? (clip.input ? "upload" : null);
  const timeline = lean({
    ...clip.more, prompt, frames, width, height, fps, seed, loop, input, negative_prompt: clip.negative,
    strength: clip.input ? strength : null,
  });
  return { timeline: { ...timeline, segments: clip.segments.map((s, i) => told(clip, s, i)) }, n, format };
}

const OWN = ["prompt", "frames", "width", "height", "fps", "seed", "loop", "input", "negative_prompt", "strength",
             "segments"];

/** The clip of a timeline that was rendered before; what this page has no field for is kept in `more`. */
export function opened(timeline, base) {
  const more = Object.fromEntries(Object.entries(timeline).filter(([name]) => !OWN.includes(name)));
  const { prompt = "", frames = 64, width, height, fps, seed = 0, loop = false, input = null } = timeline;
  const clip = {
    ...base, more, prompt, frames, seed, loop, n: 1,
    width: width ?? base.width, height: height ?? base.height, fps: fps ?? base.fps,
    negative: timeline.negative_prompt ?? "", strength: timeline.strength ?? null,
    input: input ? { id: input, name: "as before" } : null,
    segments: (timeline.segments ?? [{}]).map((s) => ({
      ...segment(s.motion ?? ""), ...s, prompt: s.prompt ?? s.keys?.[0]?.prompt ?? "", end: s.end ?? frames,
      keys: (s.keys ?? []).slice(1), camera: s.camera ?? null,
    })),
  };
  for (const s of clip.segments) {
    delete s.start;
    if (s.prompt === prompt) s.prompt = "";
  }
  settle(clip);
  return clip;
}
