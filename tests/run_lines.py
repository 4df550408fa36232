"""Runs the `// RUN:` lines of a test in lit's format inside this process: no shell, no new interpreters.

Given a file, `run_file` executes its RUN lines as lit's own shell would, with the console scripts of pyproject.toml and
`filecheck` called as functions, and leaves a record of every command. The lines are split by lit's parser, so that both
runners read them alike; what is not supported here (`env`, other keywords than RUN, other programs) is an error rather
than something quietly left out. One thing is stricter than in lit: a tool that ends with an internal error fails the
test, even behind `not`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lit.ShCommands import Command, Pipeline, Seq
from lit.ShUtil import ShParser

from tools.errors import EXIT_INTERNAL_ERROR
from tools.in_process import Completed, run_in_process

ROOT = Path(__file__).parent.parent

Main = Callable[[Sequence[str]], int | None]

_KEYWORD = re.compile(r"(RUN:|XFAIL:|REQUIRES:|UNSUPPORTED:|ALLOW_RETRIES:|DEFINE:|REDEFINE:|END\.)(.*)")
_SUBSTITUTION = re.compile(r"%(%|\w+|\{[^}]*\})")


class RunLineError(Exception):
    """A RUN line, or a lit keyword, that this runner does not support."""


@dataclass(frozen=True)
class Step:
    """One command that was run."""

    command: str
    exit_code: int
    stdout: str
    stderr: str


@dataclass
class Outcome:
    """How the RUN lines of a file ended: `passed`, and the commands of the last line that was run."""

    passed: bool = True
    steps: list[Step] = field(default_factory=list[Step])


def run_file(path: Path, temporary_folder: Path) -> Outcome:
    """Run the RUN lines of `path` in order until one fails.

    Args:
        path: the test; `%s` in its RUN lines, and its folder `%S`.
        temporary_folder: an existing folder; `%t` names a file in it.
    """
    substitutions = {
        "%": "%",
        "s": str(path),
        "S": str(path.parent),
        "t": str(temporary_folder / f"{path.name}.tmp"),
    }
    run_lines = read_run_lines(path)
    if not run_lines:
        raise RunLineError("the file has no RUN line")
    outcome = Outcome()
    for line in run_lines:
        outcome.steps.clear()
        exit_code = _run(ShParser(line, False, True).parse(), substitutions, outcome)
        if exit_code != 0:
            outcome.passed = False
            break
    return outcome


def read_run_lines(path: Path) -> list[str]:
    """The text behind each `RUN:` of `path`, lines that end in a backslash joined with the next."""
    lines: list[str] = []
    continued = False
    for keyword, text in _KEYWORD.findall(path.read_text(encoding="utf-8")):
        if keyword != "RUN:":
            raise RunLineError(f"lit keyword {keyword} is not supported")
        text = text.strip()
        part = text.removesuffix("\\")
        if continued:
            lines[-1] += part
        else:
            lines.append(part)
        continued = text.endswith("\\")
    return lines


@cache
def commands() -> Mapping[str, str]:
    """The programs that RUN lines may start: name -> "module:function"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {**project["scripts"], "filecheck": f"{__name__}:filecheck"}


def filecheck(argv: Sequence[str]) -> int | None:
    """The command line of the filecheck package, which wants its own name in front of the arguments."""
    from filecheck.main import main

    return main(["filecheck", *argv])


def _run(node: Any, substitutions: Mapping[str, str], outcome: Outcome) -> int:
    """Run a node of lit's syntax tree; returns its exit code."""
    if isinstance(node, Seq):
        exit_code = _run(node.lhs, substitutions, outcome)
        if (node.op == "&&" and exit_code != 0) or (node.op == "||" and exit_code == 0):
            return exit_code
        if node.op == "&":
            raise RunLineError("'&' is not supported")
        return _run(node.rhs, substitutions, outcome)
    assert isinstance(node, Pipeline)
    return _run_pipeline(node.commands, substitutions, outcome)


def _run_pipeline(pipeline: Sequence[Any], substitutions: Mapping[str, str], outcome: Outcome) -> int:
    """Run commands that feed each other; as with `pipefail`, the exit code is that of the last one that failed."""
    exit_code = 0
    data = ""
    for command in pipeline:
        result, data = _run_command(command, data, substitutions, outcome)
        exit_code = result or exit_code
    return exit_code


def _run_command(command: Any, stdin: str, substitutions: Mapping[str, str], outcome: Outcome) -> tuple[int, str]:
    """Run one command, record it, and return its exit code (after `not`) and what goes into the pipe behind it."""
    assert isinstance(command, Command)
    words = [_substituted(word, substitutions) for word in command.args]
    shown = " ".join(words)
    negated = False
    while words and words[0] in ("not", "!"):
        negated = not negated
        words.pop(0)
    if not words:
        raise RunLineError("'not' without a command")
    redirections = {operator: _substituted(target, substitutions) for operator, target in command.redirects}
    merge_stderr = redirections.pop((">&", 2), None) == "1"
    if (source := redirections.pop(("<",), None)) is not None:
        stdin = Path(source).read_text(encoding="utf-8")
    completed = run_in_process(_main(words[0]), words[1:], stdin, merge_stderr=merge_stderr)
    outcome.steps.append(Step(shown, *completed))
    piped = _redirect(completed, redirections)
    if completed.exit_code == EXIT_INTERNAL_ERROR:
        return EXIT_INTERNAL_ERROR, piped
    return (int(completed.exit_code == 0) if negated else completed.exit_code), piped


def _redirect(completed: Completed, redirections: dict[Any, str]) -> str:
    """Write what the redirections send to files; returns what is left for the pipe."""
    stdout, stderr = completed.stdout, completed.stderr
    for operator, target in redirections.items():
        if operator in ((">",), (">", 1)):
            Path(target).write_text(stdout, encoding="utf-8")
            stdout = ""
        elif operator == (">", 2):
            Path(target).write_text(stderr, encoding="utf-8")
        else:
            raise RunLineError(f"redirection {operator} is not supported")
    return stdout


def _main(program: str) -> Main:
    if program not in commands():
        raise RunLineError(f"program '{program}' is not one of {', '.join(sorted(commands()))}")
    module, _, function = commands()[program].partition(":")
    return getattr(import_module(module), function)


def _substituted(word: Any, substitutions: Mapping[str, str]) -> str:
    if not isinstance(word, str):
        raise RunLineError(f"quote {word}: file name patterns are not supported")

    def replacement(match: re.Match[str]) -> str:
        if match[1] not in substitutions:
            raise RunLineError(f"substitution {match[0]} is not supported; write %% for a percent sign")
        return substitutions[match[1]]

    return _SUBSTITUTION.sub(replacement, word)
