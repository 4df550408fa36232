"""Crash reproducers: one file with a program and the passes that fail on it, in the form that MLIR's tools write.

The passes stand behind the program, in a metadata section, so that the file is a program for every tool:

    builtin.module { ... }
    {-#
      external_resources: {
        mlir_reproducer: {
          pipeline: "builtin.module(graph-fuse,graph-layout)",
          disable_threading: true,
          verify_each: true
        }
      }
    #-}
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from neuron_dialects.errors import NeuronError
from tools.opt.printing import PrintOptions

_SECTION = re.compile(
    r"\{-#\s*external_resources\s*:\s*\{\s*mlir_reproducer\s*:\s*\{(?P<entries>.*?)\}\s*\}\s*#-\}", re.S
)
_ENTRY = re.compile(r'(\w+)\s*:\s*("(?:[^"\\]|\\.)*"|\w+)')
_MODULE = re.compile(r"\s*(?:builtin\.module|any)\s*\((?P<passes>.*)\)\s*", re.S)


def pipeline_text(passes: Sequence[ModulePass]) -> str:
    """The passes with all their options, as -p takes them."""
    return ",".join(str(module_pass.pipeline_pass_spec()) for module_pass in passes)


def without_module(pipeline: str) -> str:
    """`a,b` of MLIR's `builtin.module(a,b)`; other texts as they are."""
    match = _MODULE.fullmatch(pipeline)
    return match["passes"] if match else pipeline


@dataclass(frozen=True)
class Reproducer:
    """What a reproducer says besides the program."""

    pipeline: str
    verify_each: bool = True

    def section(self) -> str:
        """The metadata section."""
        return (
            "{-#\n  external_resources: {\n    mlir_reproducer: {\n"
            f"      pipeline: {json.dumps(f'builtin.module({self.pipeline})')},\n"
            "      disable_threading: true,\n"
            f"      verify_each: {str(self.verify_each).lower()}\n"
            "    }\n  }\n#-}\n"
        )


def split_section(text: str) -> tuple[str, Reproducer | None]:
    """The program of a file, and what the reproducer section behind it says, if there is one.

    The section is replaced by blanks, so that positions in the text stay what they are.
    """
    *_, match = [None, *_SECTION.finditer(text)]
    if match is None:
        return text, None
    entries = {
        key: json.loads(value) if value.startswith('"') else value for key, value in _ENTRY.findall(match["entries"])
    }
    blanks = re.sub(r"[^\n]", " ", match.group())
    program = text[: match.start()] + blanks + text[match.end() :]
    return program, Reproducer(without_module(entries.get("pipeline", "")), entries.get("verify_each") != "false")


class CrashReproducer:
    """Writes a reproducer when a pass fails.

    Args:
        path: of the file.
        passes: all that will run.
        verify_each: whether the program is verified after each pass.
        local: keep the program in front of the failing pass, rather than the one in front of the first.
    """

    def __init__(self, path: Path, passes: Sequence[ModulePass], *, verify_each: bool, local: bool) -> None:
        self._path = path
        self._passes = passes
        self._verify_each = verify_each
        self._local = local
        self._module: ModuleOp | None = None

    def before(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Keep a copy of the program, to be printed only if something fails."""
        if self._module is None or self._local:
            self._module = module.clone()
            self._module.location = module.location

    def after(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Nothing failed."""

    def failed(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Write the file."""
        assert self._module is not None
        _name_weights_from(self._path.parent, self._module)
        pipeline = pipeline_text([module_pass] if self._local else self._passes)
        text = PrintOptions(generic=True, debuginfo=True).text(self._module)
        self._path.write_text(f"{text}\n{Reproducer(pipeline, self._verify_each).section()}", encoding="utf-8")


def _name_weights_from(folder: Path, module: ModuleOp) -> None:
    """Let the module name its weights file as seen from `folder`."""
    from neuron_dialects.neuron import WEIGHTS_ATTRIBUTE, weights_path

    path = weights_path(module)
    if path is not None:
        module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr(os.path.relpath(path, folder))


def required(reproducer: Reproducer | None) -> Reproducer:
    """The reproducer of the input; NeuronError NX-ARG-002 when there is none."""
    if reproducer is None:
        raise NeuronError(
            "NX-ARG-002",
            "--run-reproducer: the input has no mlir_reproducer section",
            help="write one with --mlir-pass-pipeline-crash-reproducer=FILE",
        )
    return reproducer
