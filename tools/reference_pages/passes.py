"""The page of the passes and conversions, in the order of the default pipeline."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator

from xdsl.passes import ModulePass
from xdsl.utils.hints import type_repr

from lowering.pipeline import PHASES
from neuron_dialects.universe import NEURON_UNIVERSE
from tools.reference_pages.markdown import code, docstring, escaped, page, summary, table


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
    """A pass of a pipeline, with a link to its section; options stay as they are written."""
    name, _, options = spec.partition("{")
    return f"[`{name}`](#{name}){' ' + code('{' + options.replace('{{', '{').replace('}}', '}').lstrip('{')) if options else ''}"


def _passes() -> dict[str, type[ModulePass]]:
    """Our passes by name: those of the default pipeline in its order, then the others. What cannot be imported is told."""
    ordered = [spec.partition("{")[0] for phase in PHASES for spec in phase.passes]
    names = dict.fromkeys([*(name for name in ordered if name in NEURON_UNIVERSE.all_passes), *sorted(NEURON_UNIVERSE.all_passes)])
    found: dict[str, type[ModulePass]] = {}
    for name in names:
        try:
            found[name] = NEURON_UNIVERSE.all_passes[name]()
        except (ImportError, AttributeError) as error:
            print(f"warning: pass {name} is left out: {error}", file=sys.stderr)
    return found


def _section(name: str, pass_class: type[ModulePass]) -> str:
    parts = [
        f"## {name}",
        docstring(pass_class),
        table(("option", "type", "default", "meaning"), _options(pass_class)),
    ]
    return "\n\n".join(part for part in parts if part)


def _options(pass_class: type[ModulePass]) -> Iterator[tuple[str, str, str, str]]:
    """The options of a pass, in the spelling of the command line."""
    meanings = _field_docstrings(pass_class)
    for field in dataclasses.fields(pass_class):
        # Under `from __future__ import annotations` a field's type is the text of its annotation.
        type_text = field.type if isinstance(field.type, str) else type_repr(field.type)
        default = "" if field.default is dataclasses.MISSING else str(field.default).lower()
        yield code(field.name.replace("_", "-")), code(type_text), code(default), escaped(meanings.get(field.name, ""))


def _field_docstrings(pass_class: type[ModulePass]) -> dict[str, str]:
    """The string behind each field of a class, which Python itself does not keep."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(pass_class))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = text
            case _:
                pass
    return found
