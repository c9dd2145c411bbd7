/**
 * The test card: the same small moving landscape as `stream/sources/testcard.py`, drawn on a canvas.
 *
 * Lengths are shares of the height; x = 0 is the left edge and x = `wide` the right one.
 */

const SKY = ["#265ca8", "#78b0d6", "#fad6a5", "#ffaa6e"];
const HILLS = [[128, 140, 178], [92, 128, 132], [84, 140, 84], [52, 104, 58]]; // far to near
const RAINBOW = ["#d63438", "#f08c28", "#fad642", "#46a854", "#3078c8", "#7c48a8"];
const WHITE = "#faf6ee";
const WOOD = "#704830";
const DARK = "#38323c";
const TURN = 2 * Math.PI;

/** Draws the card as it looks `seconds` after its start, over the whole canvas of `context`; its clock if `signed`. */
export function drawCard(context, seconds, signed = true) {
  const { width, height } = context.canvas;
  const wide = width / height;
  context.save();
  context.scale(height, height);
  sky(context, wide);
  clouds(context, wide, seconds);
  HILLS.forEach((colour, depth) => {
    hill(context, wide, depth, colour, seconds);
    if (depth === 2) windmill(context, wide, seconds);
  });
  wheel(context, wide, seconds);
  ball(context, wide, seconds);
  context.restore();
  if (signed && height >= 128) sign(context, seconds);
}

function fill(context, colour, trace) {
  context.fillStyle = colour;
  context.beginPath();
  trace();
  context.fill();
}

const disc = (context, x, y, r, colour) => fill(context, colour, () => context.arc(x, y, r, 0, TURN));

function polygon(context, colour, points) {
  fill(context, colour, () => points.forEach(([x, y]) => context.lineTo(x, y)));
}

function sector(context, x, y, r, start, end, colour) {
  fill(context, colour, () => {
    context.moveTo(x, y);
    context.arc(x, y, r, start, end);
  });
}

function sky(context, wide) {
  const air = context.createLinearGradient(0, 0, 0, 1);
  [0, 0.25, 0.55, 0.8].forEach((at, k) => air.addColorStop(at, SKY[k]));
  context.fillStyle = air;
  context.fillRect(0, 0, wide, 1);
  const x = 0.72 * wide;
  const glow = context.createRadialGradient(x, 0.3, 0, x, 0.3, 0.4);
  for (let at = 0; at < 1; at += 0.15) {
    glow.addColorStop(at, `rgb(255 236 170 / ${0.75 * Math.exp(-((at / 0.55) ** 2))})`);
  }
  glow.addColorStop(1, "rgb(255 236 170 / 0)");
  disc(context, x, 0.3, 0.4, glow);
  disc(context, x, 0.3, 0.085, "#ffecaa");
}

const PUFFS = [[-1.9, 0.35, 0.75], [-0.9, -0.15, 1.05], [0.3, -0.4, 1.25], [1.4, 0.05, 0.95], [2.2, 0.4, 0.65]];

function clouds(context, wide, seconds) {
  [[0.13, 0.055], [0.22, 0.04], [0.09, 0.035]].forEach(([y, size], k) => {
    const span = wide + 0.8;
    const x = (((k * span) / 3 + 0.25 + seconds * (0.02 + 0.008 * k)) % span) - 0.4;
    for (const [dx, dy, r] of PUFFS) disc(context, x + dx * size, y + dy * size, r * size, "#f4f0ee");
  });
}

/** The height of a hill over x: waves that get larger as it comes nearer. */
function ridge(x, depth) {
  const k = depth + 1;
  const base = [0.58, 0.66, 0.74, 0.86][depth];
  return base + 0.05 * Math.sin(x * 2.1 + 1.7 * k) + 0.025 * Math.sin(x * 4.7 + 2.9 * k) + 0.006 * Math.sin(x * 13 + k);
}

function hill(context, wide, depth, colour, seconds) {
  const moved = depth === 2 ? 0 : seconds * 0.015 * (depth + 1) ** 1.5;
  for (const [low, shade] of [[0, 1], [0.05, 0.93], [0.11, 0.86]]) { // a hill gets darker towards its foot
    const edge = Array.from({ length: 81 }, (_, k) => ((wide + 0.1) * k) / 80 - 0.05);
    const tone = `rgb(${colour.map((c) => Math.round(c * shade)).join(" ")})`;
    const top = edge.map((x) => [x, ridge(x + moved, depth) + low]);
    polygon(context, tone, [[-0.05, 1.05], ...top, [wide + 0.05, 1.05]]);
  }
  if (depth % 2) trees(context, wide, depth, moved);
}

function trees(context, wide, depth, moved) {
  const size = depth === 1 ? 0.02 : 0.05;
  const gap = size * 4.3;
  for (let k = Math.floor((moved - 0.1) / gap); k < (moved + wide + 0.1) / gap; k++) {
    if (Math.sin(k * 12.9898) <= 0.15) continue; // here and there, the same at every moment
    const x = k * gap + 0.3 * gap * Math.sin(k * 78.233);
    tree(context, x - moved, ridge(x, depth), size * (1 + 0.35 * Math.sin(k * 37.7)), depth);
  }
}

function tree(context, x, y, size, depth) {
  const leaves = depth === 1 ? "#3a6868" : "#225434";
  polygon(context, WOOD, [[x - size * 0.12, y + size * 0.2], [x + size * 0.12, y + size * 0.2], [x, y - size]]);
  for (const [up, wide] of [[0.3, 0.75], [0.95, 0.6], [1.55, 0.42]]) {
    const base = y - size * up;
    polygon(context, leaves, [[x - size * wide, base], [x + size * wide, base], [x, base - size * 1.15]]);
  }
}

function windmill(context, wide, seconds) {
  const x = 0.27 * wide;
  const [foot, top] = [ridge(x, 2) + 0.03, 0.42];
  polygon(context, WHITE, [[x - 0.06, foot], [x + 0.06, foot], [x + 0.036, top], [x - 0.036, top]]);
  polygon(context, "#ded2c4", [[x, foot], [x + 0.06, foot], [x + 0.036, top], [x, top]]);
  polygon(context, "#ba4434", [[x - 0.046, top + 0.005], [x + 0.046, top + 0.005], [x, top - 0.06]]);
  for (let k = 0; k < 4; k++) sail(context, x, top, seconds * 1.1 + (k * TURN) / 4);
  disc(context, x, top, 0.012, WOOD);
}

function sail(context, x, y, angle) {
  context.save();
  context.translate(x, y);
  context.rotate(angle);
  polygon(context, WOOD, [[0, -0.004], [0.19, -0.004], [0.19, 0.004], [0, 0.004]]);
  polygon(context, "#f4e2be", [[0.04, 0.004], [0.19, 0.004], [0.19, 0.05], [0.04, 0.038]]);
  context.restore();
}

/** A wheel of six colours that rolls along the lower edge without sliding. */
function wheel(context, wide, seconds) {
  const radius = 0.1;
  const way = seconds * 0.24 + 0.62 * wide;
  const [x, y, turn] = [(way % (wide + 4 * radius)) - 2 * radius, 0.985 - radius, way / radius];
  disc(context, x, y, radius, DARK);
  RAINBOW.forEach((colour, k) => {
    const start = turn + (k * TURN) / 6;
    sector(context, x, y, radius * 0.86, start, start + (0.94 * TURN) / 6, colour);
  });
  disc(context, x, y, radius * 0.3, WHITE);
  disc(context, x, y, radius * 0.14, DARK);
}

/** A striped ball that bounces every 1.2 seconds and goes from side to side. */
function ball(context, wide, seconds) {
  const radius = 0.07;
  const [beat, side] = [(seconds / 1.2) % 1, ((seconds * 0.19) / wide) % 2];
  const x = radius + (wide - 2 * radius) * (side < 1 ? side : 2 - side);
  const y = 0.93 - radius - 2 * beat * (1 - beat);
  disc(context, x, y, radius * 1.04, "#46282c");
  for (let k = 0; k < 6; k++) {
    const start = seconds * 2.4 + (k * TURN) / 6;
    sector(context, x, y, radius, start, start + TURN / 6, k % 2 ? "#de3a3e" : WHITE);
  }
  disc(context, x - radius * 0.35, y - radius * 0.4, radius * 0.16, "#fff");
}

/** A dark plate with the clock at the top left. */
function sign(context, seconds) {
  const size = Math.round(context.canvas.height * 0.036);
  const minutes = String(Math.floor(seconds / 60)).padStart(2, "0");
  const text = `livebrush  ${minutes}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
  context.font = `${size}px ui-monospace, "Liberation Mono", monospace`;
  context.textBaseline = "middle";
  context.fillStyle = "#222434";
  context.fillRect(size / 2, size / 2, context.measureText(text).width + size, size * 1.7);
  context.fillStyle = WHITE;
  context.fillText(text, size, size * 1.4);
}
