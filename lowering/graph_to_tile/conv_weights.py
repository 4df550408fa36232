"""How the filters of a convolution are grouped into blocks and packed for the tensor engine.

A block holds the groups that are multiplied together: all of a dense convolution, or as many groups of a grouped one as
fill 128 input channels, with zeros between them (a block-diagonal filter). Packed weights lie as [block, c, tap, o], so
that a row of one input channel is one contiguous run. Constant filters are packed once at emission; computed ones are
read where they lie.
"""

from math import prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConstantOp,
    PadMode,
    PadOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    shape_of,
    spec_of,
)
from passes.graph.conv_groups import ConvGroups


def is_packable(k: Kernel, weight: SSAValue) -> bool:
    """Whether the filter is a constant, so that it can be rearranged at emission."""
    tensor = k.tensor(weight)
    return (
        isinstance(tensor, DramTensor)
        and tensor.symbol in k.weight_types
        and tensor.is_dense
        and tensor.shape == tensor.buffer.shape
    )


class WeightPacking:
    """The filters as [block, c, tap, o], in DRAM."""

    def __init__(self, k: Kernel, weight: SSAValue, groups: ConvGroups, taps: int, transposed: bool):
        self.groups, self.taps = groups, taps
        if is_packable(k, weight):
            tensor = k.tensor(weight)
            assert isinstance(tensor, DramTensor) and tensor.symbol is not None
            name = f"{tensor.symbol}.packed{groups.per_block}{'t' if transposed else ''}"
            self.tensor = k.derive(name, [tensor.symbol], lambda v: pack_ops(v[0], groups, taps, transposed))
            return
        tensor = k.dram(weight)
        shape = (groups.groups, groups.inputs, groups.outputs, taps)
        if not transposed:
            shape = (groups.groups, groups.outputs, groups.inputs, taps)
        window = tensor.reshape(shape)
        assert window is not None
        self.tensor = window.transpose((0, 1, 3, 2) if transposed else (0, 2, 3, 1))

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.tensor.dtype

    def view(self, block: Affine, channel: int, channels: int, output: Affine, outputs: int) -> View:
        """[channels, taps, outputs] of one block."""
        return self.tensor.view(
            {0: (block, 1), 1: (channel, channels), 3: (output, outputs)},
            [1, 2, 3, 0],
        )


def pack_ops(weight: SSAValue, groups: ConvGroups, taps: int, transposed: bool) -> list[Operation]:
    """Graph ops from filters [O, C/groups, taps...] (transposed: [C, O/groups, taps...]) to [block, c, tap, o]."""
    g, c, o, per_block = groups.groups, groups.inputs, groups.outputs, groups.per_block
    ops: list[Operation] = []

    def add(op: Operation) -> SSAValue:
        ops.append(op)
        return op.results[0]

    if transposed:
        split = add(ReshapeOp(weight, shape=(g, c, o, taps)))
        packed = add(TransposeOp(split, permutation=(0, 1, 3, 2)))
    else:
        split = add(ReshapeOp(weight, shape=(g, o, c, taps)))
        packed = add(TransposeOp(split, permutation=(0, 2, 3, 1)))
    if per_block == 1:
        return ops
    blocks = groups.blocks
    missing = blocks * per_block - g
    if missing:
        packed = add(PadOp(packed, low=(0, 0, 0, 0), high=(missing, 0, 0, 0), mode=PadMode.CONSTANT, value=0.0))
    packed = add(ReshapeOp(packed, shape=(blocks, per_block, c, taps, o)))
    packed = add(TransposeOp(packed, permutation=(0, 2, 3, 1, 4)))
    packed = add(ReshapeOp(packed, shape=(blocks, 1, c, taps, per_block, o)))
    dtype, _ = spec_of(weight)
    eye = add(ConstantOp(1.0, dtype, (per_block, 1)))
    eye = add(PadOp(eye, low=(0, 0), high=(0, per_block), mode=PadMode.CONSTANT, value=0.0))
    eye = add(ReshapeOp(eye, shape=(per_block * (per_block + 1),)))
    eye = add(SliceOp(eye, starts=(0,), sizes=(per_block * per_block,), steps=(1,)))
    eye = add(ReshapeOp(eye, shape=(1, per_block, 1, 1, per_block, 1)))
    packed = add(BinaryOp(BinaryKind.MUL, packed, eye))
    add(ReshapeOp(packed, shape=(blocks, per_block * c, taps, per_block * o)))
    return ops


def filter_taps(weight: SSAValue) -> int:
    """Taps of a filter."""
    return prod(shape_of(weight)[2:])
