"""The command lines of the toolkit as data: for the manual's reference, shell completion, and the tests of --help.

What is read is argparse's own description of each command; nothing about an option is said twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

_PARSERS: dict[str, str] = {
    "neuron-as": "tools.neuron_as:_parser",
    "neuron-cc": "tools.neuron_cc:_parser",
    "neuron-completion": "tools.completion:_parser",
    "neuron-lsp": "tools.language_server.server:_parser",
    "neuron-objdump": "tools.neuron_objdump:_parser",
    "neuron-opt": "tools.commands:neuron_opt_parser",
    "neuron-profile": "tools.neuron_profile:_parser",
    "neuron-reduce": "tools.neuron_reduce:_parser",
    "neuron-run": "tools.neuron_run:_parser",
}
"""Command -> "module:function" that makes its parser."""


@dataclass(frozen=True)
class Option:
    """An option or an argument.

    `names`: its spellings, of an argument its name alone; `value`: what stands for its value, empty for a flag;
    `choices`: the allowed values where they are a fixed set; `group`: title of the group that --help shows it in.
    """

    names: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...]
    is_flag: bool
    is_file: bool
    group: str

    @property
    def is_argument(self) -> bool:
        """Whether it is known by its place."""
        return not self.names[0].startswith("-")


@dataclass(frozen=True)
class Command:
    """A command, or a verb of one: what it does, its options, its verbs."""

    name: str
    summary: str
    options: tuple[Option, ...]
    verbs: tuple[Command, ...] = ()


def neuron_opt_parser() -> argparse.ArgumentParser:
    """The parser of neuron-opt, which xDSL's driver else makes."""
    from xdsl.universe import XDSL_UNIVERSE

    from tools.opt.arguments import add_arguments

    parser = argparse.ArgumentParser(description="Read textual IR, run passes over it, print it again.")
    add_arguments(parser, ["mlir"], list(XDSL_UNIVERSE.all_targets))
    parser.add_argument("-v", "--version", action="version", version="", help="print the versions and exit")
    return parser


def command_names() -> tuple[str, ...]:
    """All commands, by name."""
    return tuple(sorted(_PARSERS))


def command(name: str) -> Command:
    """One command as data."""
    module, _, function = _PARSERS[name].partition(":")
    make: Callable[[], argparse.ArgumentParser] = getattr(import_module(module), function)
    return _command(name, make(), "")


def _command(name: str, parser: Any, summary: str) -> Command:
    options: list[Option] = []
    verbs: list[Command] = []
    for group in parser._action_groups:
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
                about = {choice.dest: choice.help or "" for choice in action._choices_actions}
                verbs += [_command(verb, sub, about.get(verb, "")) for verb, sub in action.choices.items()]
            elif action.help is not argparse.SUPPRESS:
                options.append(_option(action, group.title or ""))
    return Command(name, " ".join((parser.description or summary).split()), tuple(options), tuple(verbs))


_FILE_WORDS = ("FILE", "DIR", ".npz", ".neff", ".json", ".nasm", ".py", "MODEL", "SCRIPT", "PATH")


def _option(action: Any, group: str) -> Option:
    is_flag = action.nargs == 0
    metavar = " ".join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar
    choices = tuple(map(str, action.choices)) if action.choices is not None else ()
    value = "" if is_flag else metavar or "|".join(choices) or action.dest.upper()
    names = tuple(action.option_strings) or (metavar or action.dest,)
    is_file = bool(getattr(action.type, "__name__", "") == "Path" or any(word in value for word in _FILE_WORDS))
    text = (action.help or "").replace("%%", "%")
    if "%(" in text:
        text = action.help % {**vars(action), "prog": ""}
    return Option(names, value, " ".join(text.split()), choices, is_flag, is_file and not choices, group)
