"""`nisa-verify`: every instruction can be executed by the module's target.

The verifier of an operation knows no target. This pass checks what depends on it: the limits of the instruction table,
the engines that trigger DMAs, the number of DMA rings; and that no access leaves its buffer. It changes nothing, and
takes a program of any form (what a register holds is not known, so accesses through one are checked by the machine
only).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from xdsl.context import Context
from xdsl.dialects.builtin import MemRefType, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Attribute, BlockArgument, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.access import AccessPattern
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.isa import verify_instruction
from neuron_dialects.neuron import location_name, target_of
from neuron_dialects.nisa import AllocOp, NisaOp, SlotOp
from neuron_dialects.target import Target
from passes.nisa.program_tree import nisa_functions, trip_count


@dataclass(frozen=True)
class NisaVerifyPass(ModulePass):
    """Refuse a program that the target could not execute; NX-ISA-001 names node, figure and limit.

        nisa.nc_matmul on pe dst %p[0:128][0 : 512] stationary %w[0:128][0 : 128] moving %x[0:128][0 : 512]

    is accepted on trn1 (128 columns) and refused on inf1: "nc_matmul: M = 128, limit 64".
    """

    name = "nisa-verify"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Check every function at the nisa level."""
        for function in nisa_functions(op):
            with in_segment(function.sym_name.data):
                verify_function(function, target_of(op))


def verify_function(function: FuncOp, target: Target) -> None:
    """Check one function; raises NeuronError NX-ISA-001 for the first violation."""
    rings: dict[str, None] = {}
    for op in function.walk():
        if not isinstance(op, NisaOp):
            continue
        node = location_name(op.location)
        for problem in _limit_problems(op, target):
            help_ = f"tile within the limits of {target.name}, or compile for the target that this is meant for"
            raise NeuronError("NX-ISA-001", problem, node=node, help=help_)
        for problem in _bounds_problems(op):
            raise NeuronError("NX-ISA-001", problem, node=node, help="an access must stay inside of its buffer")
        if op.is_dma and op.ring is not None:
            rings[op.ring.data] = None
        if len(rings) > target.dma_rings:
            raise NeuronError(
                "NX-ISA-001",
                f"function @{function.sym_name.data} uses {len(rings)} DMA rings, limit {target.dma_rings}",
                node=location_name(op.location),
                help="let several DMAs share a ring",
            )


def _limit_problems(op: NisaOp, target: Target) -> Iterator[str]:
    """What the target cannot execute."""
    yield from verify_instruction(op.instruction(), target)
    if op.engine.data not in target.engines:
        yield f"{op.name}: target {target.name} has no engine {op.engine.data}; it has {', '.join(target.engines)}"


def _bounds_problems(op: NisaOp) -> Iterator[str]:
    """Operands that leave their buffers."""
    # An index operand that is no loop variable, or a register: its values are not known here.
    counts = [_values(value) for value in op.indices]
    for (role, pattern), buffer in zip(op.access.data, op.buffers, strict=True):
        known = all(variable < len(counts) and counts[variable] for variable in pattern.variables())
        problem = _out_of_bounds(op, role, pattern, buffer, counts) if known else None
        if problem:
            yield f"{op.DEFINITION.name}: operand {role} {problem}"


def _values(index: SSAValue) -> int:
    """How many values a loop variable or a slot runs through; 0 when that is not known."""
    if isinstance(index, BlockArgument):
        loop = index.block.parent_op()
        return trip_count(loop) if isinstance(loop, ForOp) else 0
    return index.owner.copies.value.data if isinstance(index.owner, SlotOp) else 0


def _out_of_bounds(op: NisaOp, role: str, pattern: AccessPattern, buffer: SSAValue, counts: list[int]) -> str | None:
    """What part of the access lies outside of the buffer."""
    shape = cast("MemRefType[Attribute]", buffer.type).get_shape()
    in_dram = space_of(buffer) == "dram"
    elements = 1
    for size in shape if in_dram else shape[1:]:
        elements *= size
    owner = buffer.owner
    if isinstance(owner, AllocOp) and owner.copy_bytes is not None:
        copy_elements = owner.copy_bytes.value.data // dtype_by_name(dtype_name_of(buffer)).size_bytes
        elements += copy_elements * (owner.copies.value.data - 1)
    first, last = pattern.offset.bounds(dict(enumerate(counts)))
    low, high = pattern.extent
    if role == "table":
        reach = int(op.values["row_stride"]) * (int(op.values["rows"]) - 1)
        low, high = low + min(0, reach), high + max(0, reach)
    if first + low < 0 or last + high >= elements:
        return f"touches elements {first + low} to {last + high} of {elements}"
    if not in_dram and pattern.partition.constant + pattern.partitions > shape[0]:
        return f"touches partition {pattern.partition.constant + pattern.partitions - 1} of {shape[0]}"
    return None
