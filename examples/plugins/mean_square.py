"""A new instruction, and a kernel template that uses it: the mean of squares of a row in one pass.

Loading this file needs rms_norm.py beside it, whose kernel it makes shorter.
"""

from __future__ import annotations

import numpy as np
from rms_norm import RmsNormOp, lower_rms_norm

from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.view import View
from neuron_dialects.isa import FieldDef, InstructionDef, OperandDef
from neuron_dialects.isa.definitions import cost_accumulating
from neuron_toolkit import NewInstruction, Plugin
from runtime.semantics import Case, Effect, Numbers, Views
from runtime.semantics import Kernel as Meaning
from runtime.semantics.numerics import reader, writer

ON_CHIP = ("sbuf", "psum")

MEAN_SQUARE = InstructionDef(
    name="mean_square",
    opcode=64,
    engines=("dve",),
    operands=(
        OperandDef("dst", "out", ON_CHIP, shape="column"),
        OperandDef("data", "in", ON_CHIP),
    ),
    fields=(FieldDef("bias", "f32", 0.0, "added to the mean"),),
    summary="dst = mean of the squares of the row + bias",
    source="example",
    cost=cost_accumulating,
)
"""One row of the instruction table: verifier, encoder, assembler and cost model need nothing else."""


def meaning(case: Case) -> Meaning:
    """On numbers: squares and sums in f32, as the vector engine does, rounded once to dst's type."""
    read, write = reader(case.dtypes["data"]), writer(case.dtypes["dst"])
    bias = np.float32(case.field("bias"))

    def kernel(views: Views, numbers: Numbers) -> Effect:
        rows = read(views["data"]).reshape(len(views["data"]), -1)
        result = np.add(np.mean(rows * rows, axis=1, dtype=np.float32), bias)
        return lambda: write(views["dst"], result.reshape(views["dst"].shape))

    return kernel


def mean_square(e: Emitter, dst: View, x: View, epsilon: float) -> None:
    """dst = mean(x * x) + epsilon, in one instruction."""
    e.b.emit("mean_square", {"dst": dst, "data": x}, {"bias": epsilon})


def lower(k: Kernel, op: RmsNormOp) -> None:
    """The kernel of rms_norm.py with the new instruction."""
    lower_rms_norm(k, op, mean_square)


PLUGIN = Plugin(
    instructions=[NewInstruction(MEAN_SQUARE, meaning, tile_op="mean_square")],
    kernels={RmsNormOp: lower},
)
