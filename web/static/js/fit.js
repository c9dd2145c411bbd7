/** How a picture of one shape is laid into another: the same three ways as the server's `fit`. */

/** Source rectangle and target rectangle, `[x, y, width, height]` each, for `drawImage`. */
export function rectangles(fit, [sw, sh], [w, h]) {
  const whole = [0, 0, sw, sh];
  if (fit === "crop") {
    const scale = Math.min(sw / w, sh / h);
    const [cw, ch] = [w * scale, h * scale];
    return [[(sw - cw) / 2, (sh - ch) / 2, cw, ch], [0, 0, w, h]];
  }
  if (fit === "pad") {
    const scale = Math.min(w / sw, h / sh);
    const [pw, ph] = [sw * scale, sh * scale];
    return [whole, [(w - pw) / 2, (h - ph) / 2, pw, ph]];
  }
  return [whole, [0, 0, w, h]];
}

/** Gives a canvas a size, unless it has it: a new size also clears it. */
export function resize(canvas, [width, height]) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}

/** Draws `image` into the whole canvas of `context`. */
export function lay(context, image, fit, from) {
  const { width, height } = context.canvas;
  if (!from[0] || !from[1]) return;
  if (fit === "pad") context.clearRect(0, 0, width, height);
  const [a, b] = rectangles(fit, from, [width, height]);
  context.drawImage(image, ...a, ...b);
}
