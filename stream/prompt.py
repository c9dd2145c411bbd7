"""Prompts as the value that conditions a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from stream.grammar import parse


@dataclass(frozen=True, eq=False, slots=True)
class Text:
    """What conditions rows, as one value that travels with them.

    `tokens` is `(rows, tokens, width)`. `pooled` `(rows, width)` and `time_ids` `(rows, 6)` are SDXL's, else None.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """The parts that are there, in the order in which a denoiser takes them."""
        return tuple(t for t in (self.tokens, self.pooled, self.time_ids) if t is not None)

    @staticmethod
    def cat(texts: Sequence[Text]) -> Text:
        """The rows of all of them, in order."""
        tokens = torch.cat([t.tokens for t in texts])
        return Text(tokens, _cat([t.pooled for t in texts]), _cat([t.time_ids for t in texts]))

    @staticmethod
    def blend(texts: Sequence[Text], weights: Sequence[float]) -> Text:
        """Their weighted mean; time ids are the first one's."""
        share = [w / sum(weights) for w in weights]

        def mean(field: str) -> Tensor | None:
            parts = [getattr(t, field) for t in texts]
            return None if parts[0] is None else sum(w * p for w, p in zip(share, parts, strict=True))

        tokens = mean("tokens")
        assert tokens is not None
        return Text(tokens, mean("pooled"), texts[0].time_ids)


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    return None if parts[0] is None else torch.cat([p for p in parts if p is not None])


class Prompter:
    """Prompts to `Text`, blended by weight; the last few are remembered, since sessions share and repeat them."""

    def __init__(self, encode: Callable[[str, int, int], Text]) -> None:
        self._encode = lru_cache(maxsize=64)(encode)

    def __call__(self, prompt: str, width: int, height: int) -> Text:
        """The `Text` of one row, `(1, ...)`, for pictures of this size."""
        parts = parse(prompt)
        texts = [self._encode(text, width, height) for text, _ in parts]
        return texts[0] if len(texts) == 1 else Text.blend(texts, [w for _, w in parts])

    def forget(self) -> None:
        """Remembers nothing: the text encoders have other weights."""
        self._encode.cache_clear()
