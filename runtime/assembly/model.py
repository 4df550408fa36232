"""From assembled programs to a `Neff`: a kernel by itself, or new programs for the core segments of a compiled model.

A text holds programs only. What else a model consists of (parameters, host models, the graph between segments, the
report) comes from a compiled file, the base. Without one the model is the single program: its DRAM variables of kind
input and output are the model's inputs and outputs, and parameters are given as arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram, DramVariable
from runtime.assembly.assembler import Assembly
from runtime.neff import CORE, CoreImage, GraphNode, Neff, Parameter, TensorSpec

Arrays = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


def assembled_model(
    assembly: Assembly, *, base: Neff | None = None, parameters: Arrays | None = None, name: str = "kernel"
) -> Neff:
    """The model of assembled programs.

    Args:
        assembly: the programs.
        base: the compiled model whose core programs they replace, one by one in order.
        parameters: values of variables of kind `file` by their names; they come before those of the base.
        name: the model's name where neither the text nor the base has one.

    Raises:
        NeuronError: NX-ASM-002, the programs are not as many as the base's, or no base is given for several.
    """
    given = dict(parameters or {})
    if base is not None:
        if len(assembly.programs) != len(base.subgraphs):
            have = f"the text has {len(assembly.programs)} programs, the base {len(base.subgraphs)}"
            raise NeuronError("NX-ASM-002", have)
        images = [
            CoreImage(program, _parameters(program, {**image.parameters, **given}))
            for program, image in zip(assembly.programs, base.subgraphs, strict=True)
        ]
        return replace(base, name=assembly.name or base.name, subgraphs=images)
    if len(assembly.programs) != 1:
        problem = f"the text has {len(assembly.programs)} programs, and nothing says how they are connected"
        raise NeuronError("NX-ASM-002", problem, help="give the compiled model that they belong to: --base FILE.neff")
    program = assembly.programs[0]
    inputs, outputs = ([_spec(v) for v in program.variables if v.kind == kind] for kind in ("input", "output"))
    node = GraphNode(CORE, 0, tuple(s.name for s in inputs), tuple(s.name for s in outputs), "kernel")
    image = CoreImage(program, _parameters(program, given))
    return Neff(assembly.name or name, program.target, [image], [], [node], inputs, outputs)


def _parameters(program: CoreProgram, values: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The values of a program's parameters; NX-ASM-002 where one is missing."""
    names = [variable.name for variable in program.variables if variable.kind == "file"]
    missing = [name for name in names if name not in values]
    if missing:
        raise NeuronError(
            "NX-ASM-002", f"parameter '{missing[0]}' has no values", help="give them by name: --parameters FILE.npz"
        )
    return {name: values[name] for name in names}


def _spec(variable: DramVariable) -> TensorSpec:
    return TensorSpec(variable.name, variable.shape, variable.dtype, variable.dtype)
