"""The manual: generated pages are up to date and complete, links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_dialects.errors import ERROR_CODES
from neuron_dialects.graph import Graph
from neuron_dialects.isa import INSTRUCTIONS
from neuron_dialects.neuron import Neuron
from neuron_dialects.nisa import Nisa
from neuron_dialects.target import load_target, target_names
from neuron_dialects.tile import Tile
from passes.registry import PASSES
from tools import generate_docs
from tools.generate_docs import ROOT, generated_pages, stale_pages, write_pages
from tools.reference_pages.markdown import docstring, escaped, table
from tools.reference_pages.source_text import field_docstrings, refusals

REFERENCE = ROOT / "docs" / "reference"
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
_EXAMPLE = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def test_pages_are_up_to_date():
    stale = [str(path.relative_to(ROOT)) for path in stale_pages(ROOT)]
    assert stale == [], "run `python -m tools.generate_docs`"


# Another hash seed changes the order of sets: the pages must not change with it.
def test_pages_do_not_depend_on_the_process():
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "tools.generate_docs", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the manual."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return tmp_path


# Changed, missing and left-over pages are stale; writing repairs exactly these.
def test_stale_pages_are_found_and_repaired(copy: Path):
    reference = copy / "docs" / "reference"
    (reference / "isa.md").write_text("changed", encoding="utf-8")
    (reference / "graph.md").unlink()
    (reference / "gone.md").write_text("of no definition", encoding="utf-8")
    (copy / "docs" / "new.md").write_text("# A page with a title\n", encoding="utf-8")
    expected = {reference / "isa.md", reference / "graph.md", reference / "gone.md", copy / "docs" / "README.md"}
    assert set(stale_pages(copy)) == expected
    assert set(write_pages(copy)) == expected
    assert stale_pages(copy) == []
    assert not (reference / "gone.md").exists()
    assert "- [A page with a title](new.md)" in (copy / "docs" / "README.md").read_text(encoding="utf-8")


def test_check_tells_what_is_stale(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(generate_docs, "ROOT", copy)
    (copy / "docs" / "reference" / "isa.md").write_text("changed", encoding="utf-8")
    assert generate_docs.main(["--check"]) == 1
    assert capsys.readouterr().err == f"stale: {Path('docs', 'reference', 'isa.md')}\n"
    assert generate_docs.main([]) == 0
    assert generate_docs.main(["--check"]) == 0


def definitions() -> Iterator[tuple[str, str]]:
    """Every page with a name that must stand on it."""
    for page, dialect in (("graph", Graph), ("tile", Tile), ("nisa", Nisa), ("neuron", Neuron)):
        yield from ((page, f"`{operation.name}`") for operation in dialect.operations)
        yield from ((page, f"`{attribute.name}`") for attribute in dialect.attributes)
    yield from (("isa", f"## {name}\n") for name in INSTRUCTIONS)
    yield from (("errors", f"`{code}`") for code in ERROR_CODES)
    yield from (("passes", f"## {name}\n") for name in PASSES)
    yield from (("targets", f"## `{name}`") for name in target_names())
    yield from (("targets", f"| `{figure}` |") for name in target_names() for figure in load_target(name).figures)


def test_every_definition_is_described():
    text = {path.stem: path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.md")}
    assert [entry for entry in definitions() if entry[1] not in text[entry[0]]] == []


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    prose = _EXAMPLE.sub("", path.read_text(encoding="utf-8"))
    missing: list[str] = []
    for link in _LINK.findall(prose):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        is_broken = not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8")))
        missing += [link] if is_broken else []
    assert missing == []


def test_generated_pages_say_so():
    for path, text in generated_pages(ROOT).items():
        if path.name != "neff.md":
            assert text.startswith("<!-- Made by `python -m tools.generate_docs`")
            assert text.endswith("\n") and not text.endswith("\n\n")


# The pieces that pages are made of


class Documented:
    """A sentence with 2 * 3 < 7 and `a * b`.

        first = 1

        second = 2

    The end.
    """

    size: int = 1
    """How large
    it is."""
    plain: int = 2


def test_docstring():
    example = "```mlir\nfirst = 1\n\nsecond = 2\n```"
    assert docstring(Documented) == f"A sentence with 2 \\* 3 &lt; 7 and `a * b`.\n\n{example}\n\nThe end."


def test_table():
    assert table(("a", "b"), [("x | y", "`c`\nd")]) == "| a | b |\n| --- | --- |\n| x \\| y | `c` d |"
    assert table(("a",), []) == ""
    assert escaped("a < b `c < d`") == "a &lt; b `c < d`"


def test_field_docstrings():
    assert field_docstrings(Documented) == {"size": "How large it is."}


class ShapeError(Exception):
    """For the check below."""


def check(figure: int) -> None:
    helper(figure, [figure])
    if figure > 3:
        raise ShapeError(f"figure {figure} exceeds {1 + 2} in {list([figure])}")


def helper(figure: int, values: list[int]) -> None:
    if not values:
        raise ShapeError("no values")


# The messages of what is called come too; figures are told by their names.
def test_refusals():
    assert refusals(check, __name__.partition(".")[0]) == ["figure `figure` exceeds … in …", "no values"]
    assert refusals(check, "another_package") == []
