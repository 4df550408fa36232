"""From the text after `-p` to passes, and from the tables of passes to the text of `--list-passes`.

A name in the text is a pass, or one of the pipelines of `lowering.pipeline.PIPELINES`, which stands for the passes in
it. What is wrong with the text is a `NeuronError` that names the nearest known pass, or the options that the pass has.
"""

from __future__ import annotations

import dataclasses
import difflib
import textwrap
from collections.abc import Callable, Iterator, Mapping

from xdsl.passes import ModulePass
from xdsl.utils.arg_spec import ArgSpec, parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError
from xdsl.utils.hints import type_repr

from neuron_dialects.errors import NeuronError
from tools.errors import one_line, spec_problem

PassTable = Mapping[str, Callable[[], type[ModulePass]]]
"""Pass name -> function that imports and returns the pass's class."""


def parse_passes(text: str, available: PassTable) -> tuple[ModulePass, ...]:
    """The passes that `text` asks for, with their options, pipelines expanded; importing only those."""
    return tuple(_make_pass(spec, available) for spec in _expanded(text, available))


def describe_passes(own: PassTable, foreign: PassTable) -> str:
    """The text of `--list-passes`: pipelines, our passes with options and first sentence, then the names of xDSL's."""
    blocks = ["Pipelines:"]
    blocks += [f"  {name}\n{_filled(text.replace(',', ', '))}" for name, text in sorted(_pipelines().items())]
    blocks += ["", "Passes of the toolkit:"]
    for name in sorted(own):
        pass_class = own[name]()
        summary = one_line((pass_class.__doc__ or "").split("\n\n")[0])
        options = "".join(f"\n      {option}" for option in _options(pass_class))
        blocks.append(f"  {name}\n{_filled(summary)}{options}")
    blocks += ["", "Passes of xDSL:", _filled(", ".join(sorted(foreign)))]
    return "\n".join(blocks) + "\n"


def _expanded(text: str, available: PassTable) -> Iterator[ArgSpec]:
    for spec in _parsed(text):
        if spec.name in available:
            yield spec
            continue
        pipelines = _pipelines()
        if spec.name not in pipelines:
            raise _unknown_pass(spec.name, [*available, *pipelines])
        if spec.parameters:
            raise NeuronError("NX-PASS-001", f"pipeline '{spec.name}' takes no options")
        yield from _parsed(pipelines[spec.name])


def _parsed(text: str) -> tuple[ArgSpec, ...]:
    try:
        return tuple(parse_pipeline(text))
    except ArgSpecParseError as error:
        help_ = "write -p 'pass-a,pass-b{option=1 other=2,3}'"
        raise NeuronError("NX-PASS-001", spec_problem(error), help=help_) from None


def _pipelines() -> Mapping[str, str]:
    # Imported when a name is not a pass: most runs name only passes.
    from lowering.pipeline import PIPELINES

    return PIPELINES


def _make_pass(spec: ArgSpec, available: PassTable) -> ModulePass:
    if spec.name not in available:
        raise _unknown_pass(spec.name, available)
    pass_class = available[spec.name]()
    try:
        return pass_class.from_pass_spec(spec)
    except ValueError as error:
        options = ", ".join(_options(pass_class))
        raise NeuronError(
            "NX-PASS-001",
            f"pass '{spec.name}': {one_line(str(error))}",
            help=f"its options are {options}" if options else "it has no options",
        ) from None


def _unknown_pass(name: str, known: Mapping[str, object] | list[str]) -> NeuronError:
    nearest = difflib.get_close_matches(name, known, n=3)
    help_ = f"did you mean {' or '.join(nearest)}?" if nearest else "neuron-opt --list-passes shows all passes"
    return NeuronError("NX-PASS-001", f"unknown pass '{name}'", help=help_)


def _options(pass_class: type[ModulePass]) -> list[str]:
    """Each option as `name: type = default`, in the spelling of the command line."""
    options: list[str] = []
    for field in dataclasses.fields(pass_class):
        # Under `from __future__ import annotations` a field's type is the text of its annotation.
        type_text = field.type if isinstance(field.type, str) else type_repr(field.type)
        default = "" if field.default is dataclasses.MISSING else f" = {str(field.default).lower()}"
        options.append(f"{field.name.replace('_', '-')}: {type_text}{default}")
    return options


def _filled(text: str) -> str:
    return textwrap.fill(text, width=110, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False)
