"""The page of the command lines: every option of every command, as --help has it."""

from __future__ import annotations

from collections.abc import Iterator

from tools.commands import Command, command, command_names
from tools.reference_pages.markdown import code, escaped, page, table


def commands_page() -> str:
    """The page of the commands."""
    commands = [command(name) for name in command_names()]
    return page(
        "Commands",
        "Exit codes: 0 all went well, 1 a mistake in the input (with a code, see [errors](errors.md)), 2 a mistake in"
        ' the command line, 70 a bug of the toolkit, 130 interrupted. `eval "$(neuron-completion bash)"` lets the shell'
        " complete all of this.",
        table(("command", "what it does"), ((f"[`{c.name}`](#{c.name})", escaped(c.summary)) for c in commands)),
        *(block for described in commands for block in _blocks(described, described.name, "##")),
    )


def _blocks(described: Command, title: str, level: str) -> Iterator[str]:
    yield f"{level} {title}"
    yield escaped(described.summary)
    yield table(
        ("option", "meaning"), ((_spelled(o.names, o.value, o.is_argument), escaped(o.help)) for o in described.options)
    )
    for verb in described.verbs:
        yield from _blocks(verb, f"{title} {verb.name}", f"{level}#")


def _spelled(names: tuple[str, ...], value: str, is_argument: bool) -> str:
    if is_argument or not value:
        return ", ".join(code(name) for name in names)
    return ", ".join(code(f"{name} {value}") for name in names)
