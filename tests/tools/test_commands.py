"""The command lines described as data: complete help, completion that works in a shell, and a page that has it all."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import completion
from tools.commands import Command, command, command_names
from tools.in_process import run_in_process

ROOT = Path(__file__).parents[2]


def parts(described: Command) -> Iterator[Command]:
    """A command and its verbs."""
    yield described
    for verb in described.verbs:
        yield from parts(verb)


def test_every_installed_command_is_described() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert tuple(sorted(project["project"]["scripts"])) == command_names()


# Each option says what it is for, each command what it does, and --help can be asked of all of them.
@pytest.mark.parametrize("name", command_names())
def test_help_is_complete(name: str) -> None:
    for part in parts(command(name)):
        assert part.summary, f"{name} {part.name} says nothing"
        assert [option.names for option in part.options if not option.help] == []
        spellings = [spelling for option in part.options for spelling in option.names]
        assert "--help" in spellings


def complete(script: str, *words: str) -> list[str]:
    """What bash offers for the last word of a command line."""
    line = " ".join(f"'{word}'" for word in words)
    function = f"_{words[0].replace('-', '_')}"
    code = (
        f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; {function}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def bash_script() -> str:
    return run_in_process(completion.main, ["bash"]).stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("neuron-cc", "comp"), ["compile"]),
        (("neuron-cc", "compile", "--no-c"), ["--no-cache"]),
        (("neuron-cc", "analyze", "--graph"), ["--graph-only"]),
        (("neuron-run", "m.neff", "--mode", "t"), ["timing"]),
        (("neuron-run", "m.neff", "--mode", "=", "t"), ["timing"]),
        (("neuron-objdump", "--disas"), ["--disassemble"]),
        (("neuron-as", "examples/kernels/sof"), ["examples/kernels/softmax.nasm"]),
        (("neuron-opt", "--load-pass"), ["--load-pass-plugin"]),
        (("neuron-completion", "f"), ["fish"]),
    ],
)
def test_bash_completes(bash_script: str, words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(bash_script, *words) == offered


def test_other_shells() -> None:
    zsh, fish = (run_in_process(completion.main, [shell]).stdout for shell in ("zsh", "fish"))
    assert "bashcompinit" in zsh
    assert "complete -o filenames -F _neuron_cc neuron-cc" in zsh
    assert "complete -c neuron-cc -n '__fish_seen_subcommand_from compile' -l no-cache -d " in fish
    assert "complete -c neuron-run -l mode -x -a 'functional timing both'" in fish
    if shutil.which("fish"):
        subprocess.run(["fish", "--no-config", "-c", fish], check=True, capture_output=True)


def test_the_page_has_every_option() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    for name in command_names():
        for part in parts(command(name)):
            missing = [o.names for o in part.options for n in o.names if f"`{n}" not in page]
            assert missing == []
