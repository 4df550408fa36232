"""Runs the pages of the manual that show commands and IR, and brings them up to date.

A page is a Markdown file with two kinds of blocks that are checked:

- ```` ```console ```` blocks hold commands, each in a line that begins with `$ `, followed by what it prints. One line
  `...` in an output stands for any number of lines.
- ```` ```mlir FILE "from" .. "to" ```` blocks show a part of a file as the commands in front of it left it: from the
  first line that contains one text to the next line that contains the other (a text alone is one line). Further parts
  may follow; `...` stands between them. Common indentation is dropped.

An edit with `sed` must change something: a page that shows the effect of an edit must not go stale unnoticed.

Commands are executed in order, the console scripts of pyproject.toml inside this process, in a folder that holds what
`prepare` puts there. Seconds at the end of a line differ from run to run and are not compared. Usage, from the root of
the repository:

    python -m tests.tutorial_runner            # list the blocks that are out of date
    python -m tests.tutorial_runner --update   # rewrite them
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lit.ShCommands import Command, Pipeline
from lit.ShUtil import ShParser

from tools.errors import EXIT_INTERNAL_ERROR
from tools.in_process import run_in_process

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "tutorial"
QUOTING_PAGES = (ROOT / "docs" / "tutorial.md", ROOT / "docs" / "execution-model.md")
"""Pages whose prose quotes what their blocks show."""

PAGES = (*QUOTING_PAGES, ROOT / "docs" / "profiling.md", ROOT / "docs" / "serving.md")
ELISION = "..."
OTHER_PROGRAMS = ("diff", "grep", "sed")
"""Programs besides the console scripts that a page may use; every system that has make has them."""

_FENCE = re.compile(r"^```(?P<info>\w.*)$")
_SECONDS = re.compile(r"\b\d+\.\d s$")


class PageError(Exception):
    """A block that cannot be run or found; the message says which and why."""


@dataclass(frozen=True)
class Block:
    """A fenced block. `first` .. `last` - 1 are the indices of its lines in the page, without the fences."""

    info: str
    first: int
    last: int

    @property
    def language(self) -> str:
        """The first word of the info string."""
        return self.info.split()[0]

    @property
    def is_checked(self) -> bool:
        """Whether the block is made by running something."""
        return self.language == "console" or len(self.info.split()) > 1


@dataclass(frozen=True)
class Difference:
    """A block of a page that must read otherwise; `line` is where its content begins, counted from 1."""

    line: int
    shown: list[str]
    real: list[str]


def prepare(folder: Path) -> None:
    """Put what the pages start from into an empty folder."""
    for source in sorted(EXAMPLES.iterdir()):
        if source.suffix in (".onnx", ".npz", ".mlir"):
            shutil.copy(source, folder)


def blocks_of(lines: Sequence[str]) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    index = 0
    while index < len(lines):
        if match := _FENCE.match(lines[index]):
            end = next(i for i in range(index + 1, len(lines)) if lines[i] == "```")
            found.append(Block(match["info"], index + 1, end))
            index = end
        index += 1
    return found


def differences(text: str, folder: Path) -> Iterator[Difference]:
    """Run the blocks of a page in `folder` and give those that must read otherwise."""
    lines = text.splitlines()
    for block in blocks_of(lines):
        if not block.is_checked:
            continue
        shown = lines[block.first : block.last]
        try:
            real = _console(shown, folder) if block.language == "console" else _excerpt(block.info, folder)
        except PageError as error:
            raise PageError(f"line {block.first}: {error}") from None
        if normalised(shown) != normalised(real):
            yield Difference(block.first + 1, shown, real)


def normalised(lines: Sequence[str]) -> list[str]:
    """Lines without what differs from run to run: the seconds that a command took."""
    return [_SECONDS.sub("0.0 s", line) for line in lines]


def updated(text: str, folder: Path) -> str:
    """The page as it must read; what is up to date stays as it is."""
    lines = text.splitlines()
    for difference in reversed(list(differences(text, folder))):
        start = difference.line - 1
        lines[start : start + len(difference.shown)] = difference.real
    return "\n".join(lines) + "\n"


# -- console blocks --------------------------------------------------------------------------------------------------


def _console(shown: Sequence[str], folder: Path) -> list[str]:
    """The lines of a console block as they must read."""
    starts = [index for index, line in enumerate(shown) if line.startswith("$ ")]
    if not starts or starts[0] != 0:
        raise PageError("a console block begins with a command")
    real: list[str] = []
    for start, end in zip(starts, [*starts[1:], len(shown)], strict=True):
        printed = run_command(shown[start].removeprefix("$ "), folder)
        real += [shown[start], *_elided(printed, shown[start + 1 : end])]
    return real


def _elided(printed: list[str], shown: Sequence[str]) -> list[str]:
    """What was printed, shortened as the page shortens it: as many lines in front of the elision and behind it."""
    if ELISION not in shown:
        return printed
    head = list(shown).index(ELISION)
    tail = len(shown) - head - 1
    if len(printed) <= head + tail:
        return printed
    return [*printed[:head], ELISION, *printed[len(printed) - tail :]]


def run_command(command: str, folder: Path) -> list[str]:
    """The lines that a command prints on a terminal, run in `folder`: programs joined by pipes, output to a file."""
    parsed: Any = ShParser(command, False, True).parse()
    if not isinstance(parsed, Pipeline):
        raise PageError(f"not one command: {command}")
    data = ""
    for stage in parsed.commands:
        assert isinstance(stage, Command)
        words = [_plain(word, command) for word in stage.args]
        data = _run_program(words, data, folder)
        for redirection, target in stage.redirects:
            if redirection != (">",):
                raise PageError(f"only '>' is supported: {command}")
            (folder / _plain(target, command)).write_text(data, encoding="utf-8")
            data = ""
    return data.splitlines()


def _plain(word: Any, command: str) -> str:
    if not isinstance(word, str):
        raise PageError(f"file name patterns are not supported: {command}")
    return word


def _run_program(words: Sequence[str], stdin: str, folder: Path) -> str:
    """Output and errors of one program."""
    program, *arguments = words
    if program in OTHER_PROGRAMS:
        done = subprocess.run(
            [program, *arguments], cwd=folder, input=stdin, capture_output=True, encoding="utf-8", check=False
        )
        if program == "sed" and done.stdout == (folder / arguments[-1]).read_text(encoding="utf-8"):
            raise PageError(f"this edit changes nothing: {shlex.join(words)}")
        return done.stdout + done.stderr
    if program not in _console_scripts():
        raise PageError(f"program '{program}' is not one that a page may use")
    module, _, function = _console_scripts()[program].partition(":")
    with chdir(folder):
        done = run_in_process(getattr(import_module(module), function), arguments, stdin, merge_stderr=True)
    if done.exit_code == EXIT_INTERNAL_ERROR:
        raise PageError(f"{' '.join(words)}: {done.stdout}")
    return done.stdout


@cache
def _console_scripts() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["scripts"]


# -- excerpts --------------------------------------------------------------------------------------------------------


def _excerpt(info: str, folder: Path) -> list[str]:
    """The parts of a file that an info string asks for."""
    _, name, *items = shlex.split(info)
    path = folder / name
    if not path.is_file():
        raise PageError(f"no command has written {name}")
    lines = path.read_text(encoding="utf-8").splitlines()
    shown: list[str] = []
    position = 0
    for first, last in _parts(items):
        start = _find(lines, first, position, name)
        end = _find(lines, last, start, name) + 1
        if shown and start > position:
            shown.append(_indentation(lines[start]) + ELISION)
        shown += lines[start:end]
        position = end
    return textwrap.dedent("\n".join(shown)).splitlines()


def _parts(items: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`a .. b` as (a, b), and `a` alone as (a, a)."""
    index = 0
    while index < len(items):
        is_range = items[index + 1 : index + 2] == [".."]
        yield items[index], items[index + 2 if is_range else index]
        index += 3 if is_range else 1


def _find(lines: Sequence[str], text: str, start: int, name: str) -> int:
    for index in range(start, len(lines)):
        if text in lines[index]:
            return index
    raise PageError(f"{name} has no line with '{text}' from line {start + 1} on")


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


# -- command line ----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """List or rewrite what is out of date; the exit code is 1 when something was listed."""
    parser = argparse.ArgumentParser(prog="python -m tests.tutorial_runner", description="Check pages of the manual.")
    parser.add_argument("--update", action="store_true", help="rewrite the blocks that are out of date")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, help="default: the pages that tests check")
    options = parser.parse_args(argv)
    # A page shows what compiling prints, not that somebody has compiled the model before.
    os.environ["NEURON_TOOLKIT_CACHE"] = ""
    stale = 0
    for page in options.pages:
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder)
            try:
                if options.update:
                    page.write_text(updated(text, folder), encoding="utf-8")
                    continue
                for difference in differences(text, folder):
                    stale += 1
                    print(f"{page}:{difference.line}: must read", *difference.real, sep="\n")
            except PageError as error:
                stale += 1
                print(f"{page}: {error}", file=sys.stderr)
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
