"""The page of the passes and conversions, in the order of the default pipeline."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

from xdsl.passes import ModulePass
from xdsl.utils.hints import type_repr

from lowering.pipeline import PHASES
from neuron_dialects.universe import NEURON_UNIVERSE
from tools.reference_pages.markdown import code, docstring, escaped, page, summary, table
from tools.reference_pages.source_text import field_docstrings


def passes_page() -> str:
    """The page of the passes."""
    passes = _passes()
    return page(
        "Passes",
        "Passes rewrite a program within one level, conversions take it from one level to the next. `neuron-opt FILE"
        " -p 'PASS,PASS{option=value}'` runs them one after the other; a program can be executed after any of them.",
        "## The default pipeline",
        "`neuron-cc` runs these, and `neuron-opt -p default` does the same.",
        table(
            ("level", "passes", "what they do"),
            ((phase.level, "<br>".join(map(_linked, phase.passes)), escaped(phase.summary)) for phase in PHASES),
        ),
        "## All passes",
        table(
            ("pass", "what it does"),
            ((f"[`{name}`](#{name})", summary(pass_class)) for name, pass_class in passes.items()),
        ),
        *(_section(name, pass_class) for name, pass_class in passes.items()),
    )


def _linked(spec: str) -> str:
    """A pass of a pipeline, with a link to its section; its options are left out."""
    name = _name(spec)
    return f"[`{name}`](#{name})"


def _name(spec: str) -> str:
    return spec.partition("{")[0]


def _passes() -> dict[str, type[ModulePass]]:
    """Our passes by name: those of the default pipeline in its order, then the others.

    A pass that cannot be imported is left out, with a warning: one that is half written must not stop all pages.
    """
    known = NEURON_UNIVERSE.all_passes
    ordered = [_name(spec) for phase in PHASES for spec in phase.passes]
    names = dict.fromkeys([*(name for name in ordered if name in known), *sorted(known)])
    found: dict[str, type[ModulePass]] = {}
    for name in names:
        try:
            found[name] = known[name]()
        except (ImportError, AttributeError) as error:
            print(f"warning: pass {name} is left out: {error}", file=sys.stderr)
    return found


def _section(name: str, pass_class: type[ModulePass]) -> str:
    parts = [
        f"## {name}",
        docstring(pass_class),
        summary(pass_class.apply),
        table(("option", "type", "default", "meaning"), _options(pass_class)),
    ]
    return "\n\n".join(part for part in parts if part)


def _options(pass_class: type[ModulePass]) -> Iterator[tuple[str, str, str, str]]:
    """The options of a pass, in the spelling of the command line."""
    meanings = field_docstrings(pass_class)
    for field in dataclasses.fields(pass_class):
        # Under `from __future__ import annotations` a field's type is the text of its annotation.
        type_text = field.type if isinstance(field.type, str) else type_repr(field.type)
        default = "" if field.default is dataclasses.MISSING else str(field.default).lower()
        yield code(field.name.replace("_", "-")), code(type_text), code(default), escaped(meanings.get(field.name, ""))
