"""How much SBUF a piece of work takes, found by writing it to a builder whose code is thrown away.

The fewer tiles a loop nest holds, the longer they can be. What a group of pointwise operators holds depends on the
recipes, fusions and element types that it meets; rather than estimating that a second time, it is emitted for a sample
row and the buffers are counted. All buffers of a nest count: its iterations overlap, so they are live together.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod

from xdsl.dialects.builtin import MemRefType
from xdsl.ir import Block, Operation, SSAValue
from xdsl.utils.hints import isa

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.emitter import Emitter, Operand
from lowering.graph_to_tile.pointwise import Pointwise
from lowering.graph_to_tile.view import View
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import spec_of
from neuron_dialects.target import Target
from neuron_dialects.tile import AllocOp

SAMPLE_ELEMENTS = 1024
"""Length of the sample row: long enough that columns hardly count."""


def bytes_per_element(target: Target, emit: Callable[[KernelBuilder, int], None]) -> float:
    """SBUF bytes of a partition, per element of a row, that the body of a loop takes.

    `emit(builder, elements)` writes the body for rows of that many elements.
    """
    block = Block()
    b = KernelBuilder(block, target)
    with b.loop(2):
        emit(b, SAMPLE_ELEMENTS)
    tiles = (op for op in block.walk() if isinstance(op, AllocOp) and space_of(op.buffer) == "sbuf")
    return sum(op.copies.value.data * _row_bytes(op.buffer) for op in tiles) / SAMPLE_ELEMENTS


def _row_bytes(buffer: SSAValue) -> int:
    assert isa(buffer.type, MemRefType)
    return prod(buffer.type.get_shape()[1:]) * dtype_by_name(dtype_name_of(buffer)).size_bytes


def group_bytes_per_element(
    target: Target,
    ops: Sequence[Operation],
    results: Sequence[SSAValue],
    numbers: Mapping[SSAValue, float],
    columns: Collection[SSAValue],
) -> float:
    """SBUF bytes per row element of a sweep over pointwise operators, its inputs and results included.

    `numbers` are operands that are known, `columns` inputs with one element per partition; every other operand that no
    op of the group produces is a tile. Inputs and results rotate over two copies.
    """
    produced = {value for op in ops for value in op.results}
    inputs = dict.fromkeys(v for op in ops for v in op.operands if v not in produced and v not in numbers)

    def emit(b: KernelBuilder, elements: int) -> None:
        def tile(value: SSAValue, length: int) -> View:
            return b.alloc((1, length), spec_of(value)[0].name, "sbuf", b.rotation).view()

        targets = {value: tile(value, elements) for value in results}
        like = next(iter(targets.values()))
        operands: dict[SSAValue, Operand] = dict(numbers)
        for value in inputs:
            column = value in columns
            operands[value] = Emitter.repeated(tile(value, 1), like) if column else tile(value, elements)
        Pointwise(b, target).emit_group(ops, operands, targets)

    return bytes_per_element(target, emit)
