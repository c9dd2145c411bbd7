// Watches the videos of a page: reads the mark of every frame that is presented (tools/barcode.py draws it) with the
// moments of its capture and its presentation, and keeps hold of the page's peer connections for their statistics.
// Runs before the page's own scripts, as an init script: (function)(LAYOUT).
(layout) => {
  "use strict";
  const SIDE = 96; // pixels of the shorter side of the canvas: 9 to a block, and cheap to draw
  const KEPT = 20000; // frames kept of one video

  // ------------------------------------------------------------------------------------------------ reading

  function checkBits(value) {
    let crc = layout.first;
    for (const shift of [0, 8, 16]) {
      crc ^= (value >> shift) & 0xff;
      for (let k = 0; k < 8; k++) crc = ((crc << 1) ^ (crc & 0x80 ? layout.polynomial : 0)) & 0xff;
    }
    return crc;
  }

  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });

  /** A small copy of a picture: one drawing, whatever is read from it then. */
  function small(picture, width, height) {
    const scale = SIDE / Math.min(width, height);
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    context.drawImage(picture, 0, 0, w, h);
    return { data: context.getImageData(0, 0, w, h).data, width: w, height: h };
  }

  /** Mean red, green and blue of the middle half of a box, in pixels of the copy. */
  function mean({ data, width }, x, y, w, h) {
    const sum = [0, 0, 0];
    const [x0, x1, y0, y1] = [x + w / 4, x + (w * 3) / 4, y + h / 4, y + (h * 3) / 4].map(Math.round);
    for (let row = y0; row < y1; row++)
      for (let at = 4 * (row * width + x0); at < 4 * (row * width + x1); at += 4)
        for (let c = 0; c < 3; c++) sum[c] += data[at + c];
    return sum.map((s) => s / ((x1 - x0) * (y1 - y0)));
  }

  /** The means of a grid of boxes in the central square, whose sides may be `shrunk`. */
  function grid(copy, columns, rows, place, shrunk = [1, 1]) {
    const side = Math.min(copy.width, copy.height);
    const [sw, sh] = [side * shrunk[0], side * shrunk[1]];
    const left = (copy.width - sw) / 2 + place[0] * sw, top = (copy.height - sh) / 2 + place[1] * sh;
    const w = (place[2] * sw) / columns, h = (place[3] * sh) / rows;
    const box = (_, cell) => mean(copy, left + (cell % columns) * w, top + Math.floor(cell / columns) * h, w, h);
    return Array.from({ length: columns * rows }, box);
  }

  const corners = [...layout.white, ...layout.black];
  const cells = [...Array(layout.columns * layout.rows).keys()].filter((c) => !corners.includes(c));
  const average = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  /** [counter, source] of the mark in a square of a copy, or null. */
  function readIn(copy, shrunk) {
    const grey = grid(copy, layout.columns, layout.rows, layout.place, shrunk).map(average);
    const white = layout.white.map((c) => grey[c]), black = layout.black.map((c) => grey[c]);
    if (Math.min(...white) - Math.max(...black) < layout.contrast) return null;
    const middle = (average(white) + average(black)) / 2;
    const bits = cells.map((c) => (grey[c] > middle ? 1 : 0));
    const number = (from, count) => bits.slice(from, from + count).reduce((n, bit, k) => n + bit * 2 ** k, 0);
    const data = layout.counterBits + layout.sourceBits;
    if (checkBits(number(0, data)) !== number(data, 8)) return null;
    return [number(0, layout.counterBits), number(layout.counterBits, layout.sourceBits)];
  }

  function read(copy) {
    for (const shrunk of layout.squares) {
      const found = readIn(copy, shrunk);
      if (found) return found;
    }
    return null;
  }

  /** What a picture looks like: `edge` is dark where it is padded, `red` is the first patch. */
  function look(copy) {
    const edge = mean(copy, copy.width * 0.3, 0, copy.width * 0.4, copy.height * 0.1);
    return { edge, red: grid(copy, layout.patches.length, 1, layout.patchPlace)[0] };
  }

  // ------------------------------------------------------------------------------------------------ watching

  const probe = { connections: [], began: [], channels: [], heard: [], videos: {}, said: [], spent: [] };

  /** Follows one video: a row for each frame that it presents. */
  function watch(video) {
    const rows = [];
    const seen = (now, frame) => {
      const begun = performance.now();
      video.requestVideoFrameCallback(seen);
      const copy = small(video, video.videoWidth, video.videoHeight);
      const mark = read(copy);
      rows.push({
        counter: mark && mark[0],
        source: mark && mark[1],
        now,
        shown: frame.expectedDisplayTime,
        captured: frame.captureTime ?? null,
        received: frame.receiveTime ?? null,
        rtp: frame.rtpTimestamp ?? null,
        presented: frame.presentedFrames,
        width: frame.width,
        height: frame.height,
        extra: look(copy),
      });
      if (rows.length > KEPT) rows.shift();
      probe.spent.push(performance.now() - begun);
      if (probe.spent.length > KEPT) probe.spent.shift();
    };
    video.requestVideoFrameCallback(seen);
    return rows;
  }

  /** Starts to watch these videos, by their ids; those that are watched already go on. */
  probe.watch = (...ids) => {
    for (const id of ids) {
      const video = document.getElementById(id);
      if (!video) throw new Error(`the page has no #${id}`);
      probe.videos[id] ??= watch(video);
    }
  };
  /** What was seen since the last call. */
  probe.take = () => Object.fromEntries(Object.entries(probe.videos).map(([id, rows]) => [id, rows.splice(0)]));
  probe.read = (picture, width, height) => read(small(picture, width, height));
  /** Mean colours of the six patches in what a video shows. */
  probe.patches = (id) => {
    const video = document.getElementById(id);
    return grid(small(video, video.videoWidth, video.videoHeight), layout.patches.length, 1, layout.patchPlace);
  };

  // What the page says of itself, whenever that changes: its state, its notice and its session.
  setInterval(() => {
    const state = window.livebrush?.state ?? null, session = window.livebrush?.session ?? null;
    const notice = document.getElementById("notice")?.textContent.trim() ?? "";
    const last = probe.said.at(-1);
    if (last?.state !== state || last.notice !== notice || last.session !== session)
      probe.said.push({ now: performance.now(), state, notice, session });
  }, 10);

  // ------------------------------------------------------------------------------------------------ connections

  const Plain = window.RTCPeerConnection;
  if (Plain)
    window.RTCPeerConnection = class extends Plain {
      constructor(...given) {
        super(...given);
        probe.connections.push(this);
        probe.began.push(performance.now());
      }
      createDataChannel(...given) {
        const channel = super.createDataChannel(...given);
        channel.addEventListener("message", ({ data }) => probe.heard.push(data));
        probe.channels.push(channel);
        return channel;
      }
    };
  /** Statistics of the last connection, as plain objects. */
  probe.stats = async () => {
    const last = probe.connections.at(-1);
    return last ? [...(await last.getStats()).values()] : [];
  };
  window.probe = probe;
}
