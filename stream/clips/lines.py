"""From a place in a timeline's file back to its line.

TOML comes without positions, from the standard library's parser and from the others that are well kept. So a line is
found with that same parser: it is the first one up to which the file says the value. JSON has its positions from
PyYAML's nodes (JSON is YAML), once it was read as JSON.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

# what arrays and tables that were begun on earlier lines may need, up to four within each other
CLOSERS = tuple("".join(x) for depth in range(5) for x in product("]}", repeat=depth))


class TomlLines:
    """Lines of a TOML text that is valid."""

    def __init__(self, text: str) -> None:
        self._lines = [line + "\n" for line in text.split("\n")]
        self._upto = lru_cache(maxsize=None)(self._parsed)

    def line(self, at: Sequence[str | int]) -> int | None:
        """The line, from 1, on which a place is first said; None where it is not."""
        if not _present(self._upto(len(self._lines)), at):
            return None
        low, high, found = 0, len(self._lines), len(self._lines)
        while high - low > 1:  # what is said stays said: up to `found` it is there, up to `low` it is not
            middle = (low + high) // 2
            probe = next((k for k in range(middle, high) if self._upto(k) is not None), None)
            if probe is None:
                high = middle
            elif _present(self._upto(probe), at):
                high = found = probe
            else:
                low = probe
        return self._begin(found)

    def _begin(self, last: int) -> int:
        """The first line of the value that ends on line `last`."""
        before = next(k for k in range(last - 1, -1, -1) if self._upto(k) is not None)
        blank = (not text.strip() or text.lstrip().startswith("#") for text in self._lines[before:last])
        return before + 1 + next((k for k, empty in enumerate(blank) if not empty), 0)

    def _parsed(self, count: int) -> dict[str, Any] | None:
        """What the first `count` lines say, or None where they stop in the middle of something."""
        text = "".join(self._lines[:count])
        for closer in CLOSERS:
            try:
                return tomllib.loads(text + closer)
            except ValueError:
                continue
        return None


class NodeLines:
    """Lines of a JSON or YAML text that is valid."""

    def __init__(self, text: str) -> None:
        import yaml

        try:
            self._root: Any = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            self._root = None

    def line(self, at: Sequence[str | int]) -> int | None:
        """The line, from 1, on which a place begins; None where it is not there."""
        node, mark = self._root, None
        for name in at:
            inside = _inside(node, name)
            if inside is None:
                return None
            mark, node = inside
        return None if mark is None else int(mark.start_mark.line) + 1


def _inside(node: Any, name: str | int) -> tuple[Any, Any] | None:
    """What stands for `name` in a node of PyYAML: where it begins, and its value."""
    values = getattr(node, "value", None)
    if not isinstance(values, list):
        return None
    if isinstance(name, int):
        return (values[name], values[name]) if name < len(values) and not isinstance(values[name], tuple) else None
    return next(((k, v) for k, v in (x for x in values if isinstance(x, tuple)) if k.value == name), None)


def _present(table: Any, at: Sequence[str | int]) -> bool:
    for name in at:
        inside = name < len(table) if isinstance(table, list) and isinstance(name, int) else False
        if not inside and not (isinstance(table, dict) and name in table):
            return False
        table = table[name]
    return table is not None
