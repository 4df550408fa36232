"""How the filters of a convolution are grouped into blocks and packed for the tensor engine.

A block holds the groups that are multiplied together: all of a dense convolution, or as many groups of a grouped one as
fill 128 input channels, with zeros between them (a block-diagonal filter). Packed weights lie as [block, c, tap, o], so
that a row of one input channel is one contiguous run. Constant filters are packed once at emission; computed ones are
read where they lie.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil, prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_phases import Triple
from lowering.graph_to_tile.conv_pixels import Moving
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import DType, dtype_by_name
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
from passes.graph.kernel_layouts import KEEPS_WEIGHTS

WEIGHT_SHARE = 7
"""Weights are loaded in pieces of at most one part of so many of SBUF: while one is read, the next one is loaded."""

Stationary = Callable[[Affine, int, int, Affine, int], View]
"""(channel tile, lanes of it, tap, first output, outputs) -> the weights [lanes, outputs]."""


def from_output(weights: Stationary, first: Affine) -> Stationary:
    """The filters of the outputs from `first` on."""
    return lambda tile, lanes, tap, start, outputs: weights(tile, lanes, tap, start + first, outputs)


def stationary_of(weights: View) -> Stationary:
    """The weights that lie as [c, channel tiles, taps, o] on chip."""

    def at(tile: Affine, lanes: int, tap: int, start: Affine, outputs: int) -> View:
        return weights.slice(0, 0, lanes).at(1, tile).at(1, tap).slice(1, start, outputs)

    return at


def all_tiles(weights: Stationary, count: int, lanes: int, outputs: int) -> View:
    """The weights [lanes, channel tiles, outputs] of the first `count` full tiles of one tap, equally far apart."""
    first = weights(Affine(0), lanes, 0, Affine(0), outputs)
    step = weights(Affine(1), lanes, 0, Affine(0), outputs).offset - first.offset
    return replace(first, dims=((step.constant, count), *first.dims))


def uniform_weights(b: KernelBuilder, value: float, channels: int, outputs: int, dtype: str) -> Stationary:
    """One tile of a number that all weights of a dense convolution are."""
    tile = b.alloc((min(LANES, channels), min(LANES, outputs)), dtype, "sbuf", 1, "weights").view()
    b.memset(tile, value)
    return lambda _tile, lanes, _tap, _start, count: tile.slice(0, 0, lanes).slice(1, 0, count)


def load_taps(b: KernelBuilder, tile: View, source: View, numbers: Sequence[int]) -> None:
    """Load the taps `numbers` of a [c, taps, o] source; runs of equally spaced taps are one DMA."""
    position = 0
    source = source.at(3, 0)
    while position < len(numbers):
        count, step = 1, 1
        if position + 1 < len(numbers):
            step = numbers[position + 1] - numbers[position]
            while position + count < len(numbers) and numbers[position + count] == numbers[position] + count * step:
                count += 1
        if step < 1:
            count, step = 1, 1
        piece = source.slice(1, numbers[position], count, step)
        transfer(b, b.load, tile.slice(1, position, count), piece)
        position += count


def add_taps(
    b: KernelBuilder,
    bank: View,
    weights: Stationary,
    pixels: Moving,
    offsets: Sequence[Triple],
    outputs: tuple[Affine, int],
    channels: int,
) -> None:
    """The products of all taps, which read pixels at `offsets`, and channels for `outputs` (start, size) in `bank`."""
    full, rest = divmod(channels, LANES)
    if full:
        with b.loop(full) as i:
            for t, offset in enumerate(offsets):
                b.matmul(bank, weights(i, LANES, t, *outputs), pixels(i, LANES, offset), i if t == 0 else 1)
    if rest:
        for t, offset in enumerate(offsets):
            left = weights(Affine(full), rest, t, *outputs)
            b.matmul(bank, left, pixels(Affine(full), rest, offset), 1 if full or t else 0)


def is_packable(k: Kernel, weight: SSAValue) -> bool:
    """Whether the filter is a constant, so that it can be rearranged at emission."""
    return k.is_parameter(k.tensor(weight))


class WeightPacking:
    """The filters as [block, c, tap, o], in DRAM."""

    def __init__(self, k: Kernel, weight: SSAValue, groups: ConvGroups, taps: int, transposed: bool):
        self.k, self.weight, self.groups, self.taps, self.transposed = k, weight, groups, taps, transposed

    @cached_property
    def tensor(self) -> DramTensor:
        """All filters; nothing is packed before a kernel asks for them."""
        k, groups, taps, transposed = self.k, self.groups, self.taps, self.transposed
        if is_packable(k, self.weight):
            tensor = k.tensor(self.weight)
            assert isinstance(tensor, DramTensor) and tensor.symbol is not None
            name = f"{tensor.symbol}.packed{groups.per_block}{'t' if transposed else ''}"
            return k.derive(name, [tensor.symbol], lambda v: pack_ops(v[0], groups, taps, transposed))
        tensor = k.dram(self.weight)
        shape = (groups.groups, groups.inputs, groups.outputs, taps)
        if not transposed:
            shape = (groups.groups, groups.outputs, groups.inputs, taps)
        window = tensor.reshape(shape)
        assert window is not None
        return window.transpose((0, 1, 3, 2) if transposed else (0, 2, 3, 1))

    def packed_as(self, form: str, recipe: Callable[[SSAValue], list[Operation]]) -> DramTensor:
        """The constant filters in another form, by the graph ops that make it from [block, c, tap, o]."""
        tensor = self.k.tensor(self.weight)
        assert isinstance(tensor, DramTensor) and tensor.symbol is not None

        def ops(values: list[SSAValue]) -> list[Operation]:
            packed = pack_ops(values[0], self.groups, self.taps, self.transposed)
            return [*packed, *recipe(packed[-1].results[0])]

        return self.k.derive(f"{tensor.symbol}.packed{self.groups.per_block}.{form}", [tensor.symbol], ops)

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

    def outputs_together(self, elements: int, outputs: int, step: int) -> int:
        """How many outputs, a multiple of `step`, have weights on chip together: `elements` of a lane for each."""
        if self.k.pins_weights and self.tensor.symbol is not None:
            return ceil(outputs / step) * step
        budget = int(self.k.target.sbuf_bytes_per_partition) // WEIGHT_SHARE
        return max(1, budget // max(1, elements * dtype_by_name(self.dtype).size_bytes * step)) * step


def kept_weights(
    k: Kernel,
    op: Operation,
    packing: WeightPacking,
    place: tuple[Affine | int, ...] | None,
    load: Callable[[], Stationary | None],
) -> Stationary | None:
    """The weights that `load` brings on chip, or where an earlier kernel has left the same ones.

    `place` says which of them; None where they are laid out for one kernel alone.
    """
    symbol = packing.tensor.symbol
    moves = place is None or any(isinstance(number, Affine) and number.terms for number in place)
    if KEEPS_WEIGHTS not in op.attributes or symbol is None or moves:
        return load()
    key = (symbol, place)
    if key not in k.kept_weights and (made := load()) is not None:
        k.kept_weights[key] = made
    return k.kept_weights.get(key)


def load_filters(
    b: KernelBuilder,
    packing: WeightPacking,
    tile: View,
    block: Affine,
    channels: int,
    outputs: tuple[Affine, int],
    numbers: Sequence[int],
) -> None:
    """Load the taps `numbers` for some outputs into a [c, c tiles, taps, o] tile."""
    full, rest = divmod(channels, LANES)
    if full:
        with b.loop(full) as i:
            source = packing.view(block, 0, LANES, *outputs)
            shifted = View(
                source.buffer, source.partition, 0, source.offset + i * LANES * source.dims[0][0], source.dims
            )
            load_taps(b, tile.at(1, i), shifted, numbers)
    if rest:
        source = packing.view(block, full * LANES, rest, *outputs)
        load_taps(b, tile.slice(0, 0, rest).at(1, full), source, numbers)


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
    ops += identity_ops(dtype, per_block)
    eye = add(ReshapeOp(ops[-1].results[0], shape=(1, per_block, 1, 1, per_block, 1)))
    packed = add(BinaryOp(BinaryKind.MUL, packed, eye))
    add(ReshapeOp(packed, shape=(blocks, per_block * c, taps, per_block * o)))
    return ops


def identity_ops(dtype: DType, size: int) -> list[Operation]:
    """Graph ops that make an identity matrix."""
    ones = ConstantOp(1.0, dtype, (size, 1))
    rows = PadOp(ones.results[0], low=(0, 0), high=(0, size), mode=PadMode.CONSTANT, value=0.0)
    run = ReshapeOp(rows.results[0], shape=(size * (size + 1),))
    cut = SliceOp(run.results[0], starts=(0,), sizes=(size * size,), steps=(1,))
    return [ones, rows, run, cut, ReshapeOp(cut.results[0], shape=(size, size))]


def filter_taps(weight: SSAValue) -> int:
    """Taps of a filter."""
    return prod(shape_of(weight)[2:])
