"""The little grammar of prompts: parts split by `|`, each with a weight behind a colon. Without torch."""

from __future__ import annotations

import re

from stream.errors import SettingsError

WEIGHT = re.compile(r"^(?P<text>.*\S)\s*:\s*(?P<weight>\d{1,6}(?:\.\d+)?)\s*$", re.DOTALL)
LEAST = 0.00005  # weight that is still written, with four digits


def parse(prompt: str) -> list[tuple[str, float]]:
    """Texts and weights of a prompt: `watercolor | neon:0.5` is `[("watercolor", 1.0), ("neon", 0.5)]`."""
    parts = []
    for piece in prompt.split("|"):
        found = WEIGHT.match(piece)
        parts.append((found["text"].strip(), float(found["weight"])) if found else (piece.strip(), 1.0))
    if len(parts) == 1:  # nothing to weigh it against: 12:30 is a time
        parts = [(prompt.strip(), 1.0)]
    if sum(w for _, w in parts) <= 0:
        raise SettingsError(f"the weights of prompt {prompt[:80]!r} add up to 0: give one part a weight above 0")
    return [p for p in parts if p[1] > 0]


def blend(begin: str, end: str, share: float) -> str | None:
    """The prompt between two: all parts of `begin` at `1 - share`, all of `end` at `share` (0..1), each side's weights
    as they are among themselves. None where the grammar cannot say it: a part without text has no weight."""
    weights: dict[str, float] = {}
    for prompt, of in ((begin, 1 - share), (end, share)):
        parts = parse(prompt)
        whole = sum(weight for _, weight in parts)
        for text, weight in parts:
            weights[text] = weights.get(text, 0.0) + of * weight / whole
    if "" in weights:
        return None
    kept = [(text, weight) for text, weight in weights.items() if weight >= LEAST]
    return kept[0][0] if len(kept) == 1 else "|".join(f"{text}:{weight:.4f}" for text, weight in kept)
