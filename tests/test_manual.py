"""The manual as a site: every page has a place, it builds without a warning, and it needs no network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from tools.manual_nav import SECTIONS, navigation

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NEEDS_MKDOCS = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed (make docs installs it)"
)


def pages(nav: list[Any]) -> list[str]:
    """All pages of a navigation, in order."""
    found: list[str] = []
    for entry in nav:
        found += [entry] if isinstance(entry, str) else [page for part in entry.values() for page in part]
    return found


def test_every_page_has_one_place() -> None:
    present = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert sorted(pages(navigation(DOCS))) == present


def test_pages_that_no_section_names(tmp_path: Path) -> None:
    for name in ("README.md", "tutorial.md", "new.md"):
        (tmp_path / name).write_text("# A page\n", encoding="utf-8")
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "isa.md").write_text("# A page\n", encoding="utf-8")
    nav = navigation(tmp_path)
    assert nav[0] == "README.md"
    assert nav[1:] == [{"Start": ["tutorial.md"]}, {"Tools": ["new.md"]}, {"Extend": []}, {"Understand": []},
                       {"Reference": ["reference/isa.md"]}]  # fmt: skip
    assert len({name for names in SECTIONS.values() for name in names}) == sum(map(len, SECTIONS.values()))


@NEEDS_MKDOCS
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    html = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    loaded = re.compile(r'<(?:script|img|iframe|link rel="stylesheet")[^>]*(?:src|href)="https?:')
    assert [name for name, text in html.items() if loaded.search(text)] == []
    # Colours of our languages come with the installed toolkit.
    if any(entry.name == "neuron-asm" for entry in entry_points(group="pygments.lexers")):
        assert 'class="nb"' in html["assembly.html"]
