/** True glass-to-glass latency: from the capture of a picture to the moment its painted one is on the screen. */

const WINDOW = 10_000; // ms
const HELD = 300; // pictures that wait for their other half

/** Percentiles of the last ten seconds. */
export class Latency {
  samples = []; // [when, ms]

  add(ms, now = performance.now()) {
    if (ms > 0 && ms < 60_000) this.samples.push([now, ms]);
    while (this.samples.length && this.samples[0][0] < now - WINDOW) this.samples.shift();
  }

  figures(now = performance.now()) {
    const recent = this.samples.filter(([at]) => at >= now - WINDOW).map(([, ms]) => ms);
    const sorted = recent.sort((a, b) => a - b);
    const at = (share) => (sorted.length ? sorted[Math.round(share * (sorted.length - 1))] : null);
    return { p50: at(0.5), p95: at(0.95), count: sorted.length };
  }

  clear() {
    this.samples = [];
  }
}

/** Matches the pictures that were shown with the moments that they were captured, whichever is known first. */
export class Matching {
  #shown = new Map(); // RTP timestamp -> wall clock, ms
  #captured = new Map();

  constructor(latency) {
    this.latency = latency;
  }

  shown(rtp, at) {
    this.#pair(this.#captured, this.#shown, rtp, at, (captured) => at - captured);
  }

  captured(pairs) {
    for (const [rtp, at] of pairs) this.#pair(this.#shown, this.#captured, rtp, at, (shown) => shown - at);
  }

  #pair(others, own, rtp, at, difference) {
    if (others.has(rtp)) {
      this.latency.add(difference(others.get(rtp)));
      others.delete(rtp);
      return;
    }
    own.set(rtp, at);
    if (own.size > HELD) own.delete(own.keys().next().value);
  }
}
