/** The little grammar of prompts: parts split by `|`, each with a weight behind a colon; as the server reads it. */

const WEIGHT = /^([^]*\S)\s*:\s*(\d{1,6}(?:\.\d+)?)\s*$/;
const LEAST = 0.0005; // weight that is still written, with three digits

/** Texts and weights: `watercolor | neon:0.5` is `[["watercolor", 1], ["neon", 0.5]]`. */
export function parts(prompt) {
  const pieces = prompt.split("|");
  if (pieces.length === 1) return [[prompt.trim(), 1]]; // nothing to weigh it against: 12:30 is a time
  return pieces.map((piece) => {
    const found = WEIGHT.exec(piece);
    return found ? [found[1].trim(), Number(found[2])] : [piece.trim(), 1];
  });
}

const written = (weight) => String(Number(weight.toFixed(3)));

/** The prompt between two: all of `a` at `1 - share`, all of `b` at `share`; null where a side has no words to weigh. */
export function between(a, b, share) {
  if (share <= 0) return a;
  if (share >= 1) return b;
  const weights = new Map();
  for (const [prompt, of] of [[a, 1 - share], [b, share]]) {
    const all = parts(prompt);
    const whole = all.reduce((sum, [, weight]) => sum + weight, 0) || 1;
    for (const [text, weight] of all) weights.set(text, (weights.get(text) ?? 0) + (of * weight) / whole);
  }
  if (weights.has("")) return null;
  const left = [...weights].filter(([, weight]) => weight >= LEAST);
  return left.length === 1 ? left[0][0] : left.map(([text, weight]) => `${text}:${written(weight)}`).join("|");
}
