"""`neuron-completion`: print a script that lets a shell complete the toolkit's commands with the Tab key.

    eval "$(neuron-completion bash)"        # in ~/.bashrc
    eval "$(neuron-completion zsh)"         # in ~/.zshrc
    neuron-completion fish | source         # in config.fish

The script holds all commands, verbs, options and fixed values, so that completing starts no Python.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

from neuron_dialects.version import VERSION
from tools.diagnostics import add_common_arguments
from tools.errors import EXIT_OK, run_main


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: exit code 0, or as tools/errors.py says."""
    return run_main(_run, argv, "neuron-completion")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("neuron-completion", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="the shell to print a script for")
    add_common_arguments(parser)
    parser.add_argument("--version", action="version", version=f"neuron-completion {VERSION}")
    return parser


def _run(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    print("\n".join(SCRIPTS[options.shell]()))
    return EXIT_OK


def bash_lines() -> Iterator[str]:
    """The script for bash: one function for each command, which looks at the verb and at the option before the word."""
    from tools.commands import command, command_names

    for name in command_names():
        described = command(name)
        function = f"_{name.replace('-', '_')}"
        yield f"{function}() {{"
        yield '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" verb="" values="" words i'
        yield '  case "$before" in "=") before="${COMP_WORDS[COMP_CWORD-2]}";; esac'
        verbs = {verb.name: verb for verb in described.verbs}
        if verbs:
            yield '  for ((i = 1; i < COMP_CWORD; i++)); do case "${COMP_WORDS[i]}" in'
            yield f'    {"|".join(verbs)}) verb="${{COMP_WORDS[i]}}"; break;;'
            yield "  esac; done"
        yield '  case "$verb" in'
        for verb, part in {**verbs, "*": described}.items():
            words = [option_name for option in part.options if not option.is_argument for option_name in option.names]
            words += list(verbs) if verb == "*" else [c for o in part.options if o.is_argument for c in o.choices]
            words += [] if verbs else [c for o in part.options if o.is_argument for c in o.choices]
            yield f"    {verb}) words={shlex.quote(' '.join(dict.fromkeys(words)))}"
            yield '      case "$before" in'
            for option in part.options:
                if option.choices and not option.is_argument:
                    yield f"        {'|'.join(option.names)}) values={shlex.quote(' '.join(option.choices))};;"
            yield "        *) ;;"
            yield "      esac;;"
        yield "  esac"
        yield '  if [[ -n "$values" ]]; then COMPREPLY=($(compgen -W "$values" -- "$word"))'
        yield '  elif [[ "$word" == -* ]]; then COMPREPLY=($(compgen -W "$words" -- "$word"))'
        yield '  else words="$(printf "%s\\n" $words | grep -v "^-")"'
        yield '    COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))'
        yield "  fi"
        yield "}"
        yield f"complete -o filenames -F {function} {name}"


def zsh_lines() -> Iterator[str]:
    """The script for zsh, which understands bash's with its own emulation."""
    yield "autoload -U +X compinit && compinit"
    yield "autoload -U +X bashcompinit && bashcompinit"
    yield from bash_lines()


def fish_lines() -> Iterator[str]:
    """The script for fish: one line for each verb and option."""
    from tools.commands import Command, Option, command, command_names

    def option_line(name: str, option: Option, condition: str) -> str:
        spellings = " ".join(
            f"-l {shlex.quote(n[2:])}" if n.startswith("--") else f"-{'s' if len(n) == 2 else 'o'} {shlex.quote(n[1:])}"
            for n in option.names
        )
        value = "" if option.is_flag else f" -x -a {shlex.quote(' '.join(option.choices))}" if option.choices else " -r"
        return f"complete -c {name}{condition} {spellings}{value} -d {shlex.quote(option.help)}"

    def lines(name: str, part: Command, condition: str) -> Iterator[str]:
        yield from (option_line(name, option, condition) for option in part.options if not option.is_argument)

    for name in command_names():
        described = command(name)
        verbs = " ".join(verb.name for verb in described.verbs)
        for verb in described.verbs:
            first = f" -n 'not __fish_seen_subcommand_from {verbs}'"
            yield f"complete -c {name}{first} -f -a {verb.name} -d {shlex.quote(verb.summary)}"
            yield from lines(name, verb, f" -n '__fish_seen_subcommand_from {verb.name}'")
        yield from lines(name, described, "")


SCRIPTS: dict[str, Callable[[], Iterator[str]]] = {"bash": bash_lines, "zsh": zsh_lines, "fish": fish_lines}
"""Shell -> the lines of its script."""


if __name__ == "__main__":
    sys.exit(main())
