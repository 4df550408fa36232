"""DRAM bytes that any program for a function must move: the roofline's memory side.

Inputs, parameters and outputs once each; a table that is only gathered from counts for the rows that are fetched.
"""

from math import prod
from typing import Any, cast

from xdsl.dialects import func, scf
from xdsl.dialects.builtin import MemRefType
from xdsl.ir import Block, SSAValue

from neuron_dialects import nisa
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.loops import trip_count


def buffer_bytes(value: SSAValue) -> int:
    """Bytes of a buffer."""
    shape = cast("MemRefType[Any]", value.type).get_shape()
    return prod(shape) * dtype_by_name(dtype_name_of(value)).size_bytes


def compulsory_bytes(function: func.FuncOp) -> int:
    """Compulsory DRAM bytes of a core function in program order."""
    whole: set[SSAValue] = set()
    gathered: dict[SSAValue, int] = {}

    def visit(block: Block, executions: int) -> None:
        for op in block.ops:
            if isinstance(op, scf.ForOp):
                visit(op.body.block, executions * trip_count(op))
            elif isinstance(op, nisa.NisaOp):
                for role, (buffer, _) in op.views.items():
                    if space_of(buffer) != "dram" or isinstance(buffer.owner, nisa.AllocOp):
                        continue
                    if role == "table" and op.DEFINITION.name == "dma_gather":
                        destination, pattern = op.views["dst"]
                        size = dtype_by_name(dtype_name_of(destination)).size_bytes
                        gathered[buffer] = gathered.get(buffer, 0) + pattern.elements * size * executions
                    else:
                        whole.add(buffer)

    visit(function.body.block, 1)
    rows = sum(min(count, buffer_bytes(buffer)) for buffer, count in gathered.items() if buffer not in whole)
    return rows + sum(buffer_bytes(buffer) for buffer in whole)
