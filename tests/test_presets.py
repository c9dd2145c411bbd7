"""Presets: names, files of other versions, kills in the middle, what ships, and prompts that blend."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from stream.config import spec
from stream.control import store
from stream.control.bindings import MOST, Binding, Bindings
from stream.control.presets import Presets, checked_name, shipped
from stream.errors import ControlError, SettingsError
from stream.grammar import blend, parse
from stream.settings import Settings

LOOK = {"prompt": "neon lights", "strength": 0.45, "steps": 2, "t_index": None}


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(tmp_path)


def test_a_preset_comes_back_as_it_was_kept(presets: Presets) -> None:
    presets.save("01 Intro", LOOK)
    found = presets.find("01 Intro")
    assert (found.settings, found.own, found.notes) == (LOOK, True, ())
    assert presets.find(0) == found, "the user's own are first"
    presets.save("01 Intro", {"prompt": "fog"})
    assert presets.find("01 Intro").settings == {"prompt": "fog"}, "nothing of the old one is left"
    presets.delete("01 Intro")
    with pytest.raises(ControlError, match="'01 Intro' is not here: use one of"):
        presets.find("01 Intro")


def test_settings_that_are_wrong_are_not_kept(presets: Presets, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="strength is 2"):
        presets.save("x", {"strength": 2})
    with pytest.raises(SettingsError, match="colour is not a setting"):
        presets.save("x", {"colour": 1})
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("name", ["a", "Neon night", "01", "Été", "霧の朝", "a.b", "v1.2 (soft)", "C++", "x" * 48])
def test_names_that_can_be_kept(presets: Presets, name: str) -> None:
    presets.save(name, LOOK)
    assert checked_name(name) in presets.names()
    assert presets.find(name).settings == LOOK


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "a\x00b", "a\nb", "-x", ".hidden", "x.", "x" * 49, "con",
     "NUL", "com1.txt", "a:b", "a*b", "a?b", '"', "\ud800", "x\u202ey"],
)  # fmt: skip
def test_names_that_are_no_names_of_files(presets: Presets, tmp_path: Path, name: str) -> None:
    for tried in (lambda: presets.save(name, LOOK), lambda: presets.find(name), lambda: presets.delete(name)):
        with pytest.raises(ControlError, match=r"preset name .* is none"):
            tried()
    assert not list(tmp_path.rglob("*"))


@given(st.text(max_size=60))
def test_no_name_leaves_the_folder(name: str) -> None:
    try:
        made = checked_name(name)
    except ControlError:
        return
    path = Path("/presets") / f"{made}.json"
    assert os.path.normpath(path) == str(path)
    assert path.parent == Path("/presets")
    assert len(path.name.encode()) < 255
    assert checked_name(made) == made


def test_one_letter_in_two_codings_is_one_name(presets: Presets) -> None:
    presets.save("E\u0301te\u0301", LOOK)
    assert presets.find("\u00c9t\u00e9").settings == LOOK


# ------------------------------------------------------------------------------------------------- other versions


def put(folder: Path, name: str, content: Any) -> None:
    (folder / "presets").mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "presets" / f"{name}.json").write_text(text, encoding="utf-8")


def test_a_file_of_another_version_is_read_as_far_as_it_goes(presets: Presets, tmp_path: Path) -> None:
    put(tmp_path, "new", {"format": 7, "glow": 1, "settings": {"prompt": "x", "strength": 9, "sparkle": 1, "steps": 2}})
    found = presets.find("new")
    assert found.settings == {"prompt": "x", "steps": 2}
    assert found.notes == (
        "format 7 is of another version: read as 1",
        "left out: strength is 9: input should be less than or equal to 1",
        "left out: sparkle is a setting of another version",
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 5000, "\x00", '{"format": 1}x', '"' + "x" * 300_000])
def test_a_file_that_is_none_is_told_and_the_others_are_there(presets: Presets, tmp_path: Path, content: str) -> None:
    presets.save("good", LOOK)
    put(tmp_path, "bad", content)
    with pytest.raises(ControlError, match=r"preset bad\.json"):
        presets.find("bad")
    (bad,) = [preset for preset in presets.all() if preset.name == "bad"]
    assert (bad.settings, len(bad.notes)) == ({}, 1)
    assert presets.find("good").settings == LOOK


def test_a_file_without_settings_is_an_empty_look(presets: Presets, tmp_path: Path) -> None:
    put(tmp_path, "empty", {"format": 1})
    assert (presets.find("empty").settings, presets.find("empty").notes) == (
        {},
        ("settings is None: expected an object",),
    )


def test_whoever_reads_while_it_is_written_sees_the_old_one_or_the_new_one(
    presets: Presets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets.save("look", LOOK)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(ControlError, match="No space left on device"):
        presets.save("look", {"prompt": "other"})
    monkeypatch.undo()
    assert presets.find("look").settings == LOOK
    assert [path.name for path in (tmp_path / "presets").iterdir()] == ["look.json"], "nothing is left lying"


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "presets").write_text("a file")
    with pytest.raises(ControlError, match="preset cannot be kept in"):
        Presets(tmp_path).save("x", LOOK)


# ------------------------------------------------------------------------------------------------- what ships


def test_those_that_ship_are_whole_and_of_styles_that_the_built_in_model_knows(presets: Presets) -> None:
    assert len(shipped()) >= 6
    known = set(spec("builtin").prompts)
    for name in shipped():
        found = presets.find(name)
        assert (found.notes, found.own) == ((), False)
        assert checked_name(name) == name
        assert {text for text, _ in parse(found.settings["prompt"])} <= known
        assert 0.2 <= found.settings["strength"] <= 0.4


def test_an_own_one_hides_one_that_ships_and_gives_it_back(presets: Presets) -> None:
    name = next(iter(shipped()))
    before = presets.find(name)
    with pytest.raises(ControlError, match="ships with Livebrush"):
        presets.delete(name)
    presets.save(name, {"prompt": "mine"})
    assert presets.find(name).settings == {"prompt": "mine"}
    assert presets.names().count(name) == 1
    presets.delete(name)
    assert presets.find(name) == before


@pytest.mark.parametrize("number", [-1, 10_000])
def test_a_number_that_is_none(presets: Presets, number: int) -> None:
    with pytest.raises(ControlError, match="the first is 0"):
        presets.find(number)


# ------------------------------------------------------------------------------------------------- prompts

TEXTS = st.text(st.characters(exclude_characters="|", exclude_categories=("Cs",)), min_size=1, max_size=20)
PROMPTS = st.lists(st.tuples(TEXTS, st.floats(0.01, 9)), min_size=1, max_size=4).map(
    lambda parts: "|".join(f"{text}:{weight:.2f}" for text, weight in parts)
)


def shares(prompt: str) -> dict[str, float]:
    parts: dict[str, float] = {}
    whole = sum(weight for _, weight in parse(prompt))
    for text, weight in parse(prompt):
        parts[text] = parts.get(text, 0.0) + weight / whole
    return parts


@given(PROMPTS, PROMPTS, st.floats(0, 1))
@hypothesis(max_examples=300)
def test_a_blend_of_prompts_is_what_the_grammar_reads(one: str, other: str, share: float) -> None:
    mixed = blend(one, other, share)
    begin, end = shares(one), shares(other)
    if mixed is None:
        assert "" in begin or "" in end, "only a part without text cannot be weighed"
        return
    expected = {t: (1 - share) * begin.get(t, 0) + share * end.get(t, 0) for t in begin | end}
    got = shares(mixed)
    for text, weight in expected.items():
        assert got.get(text, 0.0) == pytest.approx(weight, abs=0.002), mixed


def test_what_is_in_both_keeps_its_weight() -> None:
    assert blend("oil|ink", "ink|fog:3", 0.5) == "oil:0.2500|ink:0.3750|fog:0.3750"
    assert blend("oil", "oil", 0.3) == "oil"
    assert blend("a clock at 12:30", "x", 0.5) == "a clock at 12:30:0.5000|x:0.5000"
    assert blend("", "x", 0.5) is None


# ------------------------------------------------------------------------------------------------- MIDI's mapping


def test_bindings_come_back_and_those_of_another_version_are_left_out(tmp_path: Path) -> None:
    kept = Bindings(tmp_path)
    one = Binding(setting="strength", kind="cc14", number=3, low=0.2, high=0.6, takeover=True)
    kept.replace((one, Binding(setting="tap", kind="note", number=60)))
    assert Bindings(tmp_path).all == kept.all
    raw = json.loads((tmp_path / "midi.json").read_text())
    raw["bindings"] += [{"setting": "sparkle"}, {"setting": "prompt"}, 7, {"setting": "delta", "low": 9}]
    (tmp_path / "midi.json").write_text(json.dumps(raw))
    found = Bindings(tmp_path)
    assert found.all == kept.all
    assert [note[:9] for note in found.notes] == ["left out:"] * 4
    assert "prompt cannot be turned with a knob" in found.notes[1]
    assert "delta 9 is not between 0 and 2" in found.notes[3]


def test_a_mapping_that_cannot_be_read_is_told_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "midi.json").write_text("{")
    found = Bindings(tmp_path)
    assert (found.all, len(found.notes)) == ((), 1)
    found.bind(Binding(setting="strength", number=1))
    assert Bindings(tmp_path).all == found.all
    with pytest.raises(ControlError, match=f"use at most {MOST}"):
        found.replace((Binding(setting="strength"),) * (MOST + 1))


def test_every_setting_but_texts_and_lists_can_be_bound() -> None:
    for name in Settings.model_fields:
        able = name not in ("prompt", "negative_prompt", "t_index")
        if able:
            assert Binding(setting=name).setting == name
        else:
            with pytest.raises(ValueError, match="cannot be turned with a knob"):
                Binding(setting=name)
