"""The grammar of prompts, their blends, and what is remembered."""

from __future__ import annotations

import pytest
import torch

from stream.errors import SettingsError
from stream.grammar import parse
from stream.prompt import Prompter, Text


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("watercolor", [("watercolor", 1.0)]),
        ("", [("", 1.0)]),
        ("  a cat  ", [("a cat", 1.0)]),
        ("watercolor | neon", [("watercolor", 1.0), ("neon", 1.0)]),
        ("watercolor | neon:0.5", [("watercolor", 1.0), ("neon", 0.5)]),
        ("a:2|b:3|c", [("a", 2.0), ("b", 3.0), ("c", 1.0)]),
        ("a : 0.25 | b: 0.75 ", [("a", 0.25), ("b", 0.75)]),
        ("a:0 | b", [("b", 1.0)]),
        ("a | b:0", [("a", 1.0)]),
        ("two\nlines:0.5 | b", [("two\nlines", 0.5), ("b", 1.0)]),
        # colons that weigh nothing
        ("style: oil", [("style: oil", 1.0)]),
        ("style: oil | neon:0.5", [("style: oil", 1.0), ("neon", 0.5)]),
        ("a clock at 12:30", [("a clock at 12:30", 1.0)]),
        ("a cat:0", [("a cat:0", 1.0)]),
        ("a:b:0.5 | c", [("a:b", 0.5), ("c", 1.0)]),
        ("a:-1 | b", [("a:-1", 1.0), ("b", 1.0)]),
        ("a:1e9 | b", [("a:1e9", 1.0), ("b", 1.0)]),
        ("a:nan | b:inf", [("a:nan", 1.0), ("b:inf", 1.0)]),
        (":0.5 | b", [(":0.5", 1.0), ("b", 1.0)]),
        (f"a:{'9' * 400} | b", [(f"a:{'9' * 400}", 1.0), ("b", 1.0)]),
    ],
)
def test_grammar(prompt: str, parts: list[tuple[str, float]]) -> None:
    assert parse(prompt) == parts


def test_weights_that_add_up_to_nothing_say_so() -> None:
    with pytest.raises(SettingsError) as error:
        parse("a:0 | b:0.0")
    expected = "the weights of prompt 'a:0 | b:0.0' add up to 0: give one part a weight above 0"
    assert str(error.value) == expected


def test_a_long_prompt_of_no_weight_is_not_repeated_in_full() -> None:
    with pytest.raises(SettingsError) as error:
        parse("a" * 1900 + ":0|b:0")
    assert len(str(error.value)) < 200


class Words:
    """A text encoder of no meaning: tokens are the length of the text; it counts its calls."""

    def __init__(self, pooled: bool = False) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.pooled = pooled

    def __call__(self, text: str, width: int, height: int) -> Text:
        self.calls.append((text, width, height))
        tokens = torch.full((1, 3, 2), float(len(text)))
        if not self.pooled:
            return Text(tokens)
        return Text(tokens, torch.full((1, 5), 2.0 * len(text)), torch.tensor([[height, width, 0, 0, height, width]]))


def test_a_blend_is_the_weighted_mean() -> None:
    text = Prompter(Words())("a | bbbb:0.5", 64, 64)
    torch.testing.assert_close(text.tokens, torch.full((1, 3, 2), (1 * 1 + 4 * 0.5) / 1.5))


def test_weights_are_shares_so_only_their_ratio_counts() -> None:
    prompter = Prompter(Words())
    torch.testing.assert_close(prompter("a:1 | bbb:3", 64, 64).tokens, prompter("a:0.2 | bbb:0.6", 64, 64).tokens)


def test_a_part_without_weight_is_not_even_encoded() -> None:
    words = Words()
    text = Prompter(words)("a:0 | bbb", 64, 64)
    assert words.calls == [("bbb", 64, 64)]
    assert float(text.tokens[0, 0, 0]) == 3


def test_what_sdxl_adds_is_blended_too_but_its_sizes_are_not() -> None:
    text = Prompter(Words(pooled=True))("a | bbb", 64, 96)
    assert text.pooled is not None
    assert text.time_ids is not None
    torch.testing.assert_close(text.pooled, torch.full((1, 5), 4.0))
    assert text.time_ids.tolist() == [[96, 64, 0, 0, 96, 64]]
    assert [t.shape for t in text.tensors()] == [(1, 3, 2), (1, 5), (1, 6)]


def test_a_blend_in_half_precision_stays_in_it() -> None:
    half = Text(torch.ones(1, 3, 2, dtype=torch.float16))
    assert Text.blend([half, half], [1, 2]).tokens.dtype == torch.float16


def test_prompts_are_encoded_once_by_their_parts_and_size() -> None:
    words = Words()
    prompter = Prompter(words)
    for weight in range(1, 10):
        prompter(f"watercolor | neon:0.{weight}", 64, 64)
    assert words.calls == [("watercolor", 64, 64), ("neon", 64, 64)]
    prompter("neon", 64, 128)
    assert words.calls[2:] == [("neon", 64, 128)]


def test_the_memory_for_prompts_is_bounded() -> None:
    words = Words()
    prompter = Prompter(words)
    for k in range(300):
        prompter(f"prompt {k}", 64, 64)
    prompter("prompt 299", 64, 64)
    assert len(words.calls) == 300
    prompter("prompt 0", 64, 64)
    assert len(words.calls) == 301


def test_rows_of_texts_in_order() -> None:
    one, two = Text(torch.zeros(1, 3, 2)), Text(torch.ones(2, 3, 2))
    both = Text.cat([one, two, one])
    assert both.tokens[:, 0, 0].tolist() == [0, 1, 1, 0]
    assert both.pooled is None
    assert both.time_ids is None
    assert len(both.tensors()) == 1
