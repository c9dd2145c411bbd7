"""The docs say what the code does: settings, help, examples and links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stream.clips.explain import keys
from stream.settings import Settings
from tools.documents import DOCS, command_line, settings_table, timeline_page

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "stream" / "builtin" / "README.md"]


def test_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    assert text == settings_table(), "run: python -m tools.documents"
    assert all(f"`{name}`" in text for name in Settings.model_fields)


def test_every_key_of_a_timeline_is_documented() -> None:
    text = (DOCS / "timeline.md").read_text()
    assert text == timeline_page(), "run: python -m tools.documents"
    assert all(f"| `{name.rpartition('.')[2]}` |" in text for name, _ in keys())


def test_help_is_what_the_docs_show() -> None:
    assert (DOCS / "cli.md").read_text() == command_line(), "run: python -m tools.documents"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_readme_has_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "pip install -e . && livebrush serve" in text
    assert 'livebrush run testcard painted.mp4 --prompt "watercolor painting"' in text
    assert "pip install -e '.[test]' && pytest" in text


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{i} (256, 256, 3)" for i in range(3)]


@pytest.mark.parametrize("style", ["watercolor painting", "night vision"])
def test_the_prompts_of_the_readme_are_ones_the_model_knows(style: str) -> None:
    from tools.builtin.report import PROMPTS

    assert style in (ROOT / "README.md").read_text()
    assert all(f"`{p}`" in (ROOT / "README.md").read_text().replace("\n", " ") for p in PROMPTS.values() if p)


def test_what_is_promised_of_security_is_tested() -> None:
    """No claim beyond the tests: every one that the page names is there."""
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "security.md").read_text()))
    there = {name for file in (ROOT / "tests").glob("test_*.py")
             for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)}  # fmt: skip
    assert len(named) > 30
    assert not named - there
