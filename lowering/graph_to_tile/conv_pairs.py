"""Convolutions that read or make pairs of rows (`passes.graph.row_pairs`), as plain ones with other filters.

A pair of rows of the result are two rows' channels beside each other, 2 * outputs columns of the tensor engine. Where
the operand has its rows in pairs too, it has 2 * channels and half as many rows, and the filter of [taps, across] is
one of [pairs, across] between them; else it is a filter of `taps + 1` rows, two rows from one position to the next.
What is not kept in pairs is made a row of each pair at a time, or, on the way to DRAM, both beside each other; with an
even stride, whose rows all begin at a pair of the operand, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from xdsl.ir import Block, Operation, SSAValue

from lowering.graph_to_tile.conv_interleave import interleaved
from lowering.graph_to_tile.conv_phases import Phase, conv_phase, triple
from lowering.graph_to_tile.conv_weights import WeightPacking, identity_ops
from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.row_pairs import RowPairs, clear_rows
from lowering.graph_to_tile.tensors import LANES, DramTensor
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConcatOp,
    ConvOp,
    PadMode,
    PadOp,
    ReshapeOp,
    TransposeOp,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.base import tensor_type
from neuron_dialects.graph.layout import ROWS_OF_PAIR
from passes.graph.conv_groups import ConvGroups, plan_groups
from passes.graph.row_pairs import ROWS, RowHalo, Window, window_of

PlainConvolution = tuple[ConvOp, Epilogue, ConvGroups, WeightPacking, Phase]
"""What the kernel of a plain convolution is given: the operator, which stands in no block, and how it is computed."""


def takes_pairs(k: Kernel, op: ConvOp, results: Sequence[SSAValue]) -> bool:
    """Whether a convolution reads or makes pairs of rows."""
    return op.x in k.pairs or any(value in k.pair_places for value in results)


def in_pairs(
    k: Kernel, op: ConvOp, ops: Sequence[Operation], results: Sequence[SSAValue]
) -> Iterator[PlainConvolution]:
    """The plain convolutions to run, in order; what is left to do is done when the caller comes back for the next."""
    (result,) = results
    makes_pairs = result in k.pair_places
    outputs, rows = shape_of(op.result)[1], shape_of(op.result)[ROWS]
    stored = result not in k.residents and outputs * ROWS_OF_PAIR <= LANES and not rows % ROWS_OF_PAIR
    beside = makes_pairs or stored
    epilogue = Epilogue(k, op.result, ops, results, 1, LANES, beside=ROWS_OF_PAIR if beside else 1)
    epilogue.prepare()
    made = k.pairs[result].rows if makes_pairs else RowHalo(rows)
    window = window_of(op) if beside else window_of(op).alone
    plain = _Plain(k, op, k.pairs.get(op.x), made, window)
    if makes_pairs:
        yield plain.convolution(epilogue, plain.phase, range(ROWS_OF_PAIR))
        clear_rows(k.b, k.pairs[result])
        return
    if window.together == 1:
        yield plain.convolution(epilogue, plain.phase, range(1))
        return
    rows_of = [range(ROWS_OF_PAIR)] if beside else [range(row, row + 1) for row in range(ROWS_OF_PAIR)]
    step = 1 if beside else ROWS_OF_PAIR
    phases = [replace(plain.phase, origin=(0, taken[0], 0), step=(1, step, 1)) for taken in rows_of]
    for phase, here in interleaved(k, epilogue, phases, 2):
        yield plain.convolution(here, phase, rows_of[phase.origin[1] % step])


@dataclass(frozen=True)
class _Plain:
    """A convolution between feature maps of which at least one is in pairs: `pairs` of the operand, `made` rows."""

    k: Kernel
    op: ConvOp
    pairs: RowPairs | None
    made: RowHalo
    window: Window

    @property
    def phase(self) -> Phase:
        """All pairs of the result, or all of its rows where these are made one by one."""
        window, made = self.window, self.made
        first = window.first_row(made)
        taps, stride, above = window.rows_read, window.rows_on, first
        if self.pairs is not None:
            taps, stride = window.pairs_read, window.rows_on // ROWS_OF_PAIR
            above = -((self.pairs.rows.low - first) // ROWS_OF_PAIR)
        kernel, strides = triple((taps, shape_of(self.op.w)[3]), 1), triple((stride, ints(self.op.strides)[1]), 1)
        dilations = triple((1, ints(self.op.dilations)[1]), 1)
        rows = made.rows if window.together == 1 else made.pairs
        sizes = triple((rows, shape_of(self.op.result)[3]), 1)
        return conv_phase(kernel, strides, triple((above, ints(self.op.pads)[1]), 0), dilations, sizes)

    def convolution(self, epilogue: Epilogue, phase: Phase, taken: range) -> PlainConvolution:
        """The convolution that makes the rows `taken` of each pair, as channels beside each other."""
        k, op = self.k, self.op
        x = op.x if self.pairs is None else _stand_in(self.pairs.tensor.dtype, self.pairs.tensor.shape)
        if self.pairs is not None:
            k.tensors[x] = self.pairs.tensor
        weight = self._filter(taken)
        w = _stand_in(weight.dtype, weight.shape)
        k.tensors[w] = weight
        # Padding is what the phase says.
        above, (_, left, _, right) = shape_of(w)[2], ints(op.pads)
        plain = ConvOp(x, w, strides=phase.stride[1:], pads=(above, left, above, right), dilations=ints(op.dilations))
        plain.location = op.location
        groups = plan_groups(shape_of(x)[1], weight.shape[0], 1)
        return plain, epilogue, groups, WeightPacking(k, w, groups, len(phase.taps), False), phase

    def _filter(self, taken: range) -> DramTensor:
        """The filter [rows * outputs, channels, taps, across] between what is read and the rows `taken` of a pair."""
        k, weight = self.k, self.k.tensor(self.op.w)
        assert isinstance(weight, DramTensor) and weight.symbol is not None
        paired = self.pairs is not None
        window = self.window
        form = f"{'pairs' if paired else 'rows'}{taken.start}.{taken.stop}"
        form += f".{window.stride}.{window.together}" if window.stride > 1 else ""
        name, groups = f"{weight.symbol}.{form}", self.op.groups.value.data

        def ops(values: list[SSAValue]) -> list[Operation]:
            dense = dense_ops(values[0], groups)
            return [*dense, *filter_ops(dense[-1].results[0] if dense else values[0], window, taken, paired)]

        tensor = k.derive(name, [weight.symbol], ops)
        k.weight_types[name] = tensor_type(spec_of(self.op.w)[0], tensor.shape)
        return tensor


def _stand_in(dtype: str, shape: Sequence[int]) -> SSAValue:
    """A value of a type, which stands for memory."""
    return Block(arg_types=[tensor_type(dtype_by_name(dtype), shape)]).args[0]


def dense_ops(weight: SSAValue, groups: int) -> list[Operation]:
    """Graph ops from filters [groups * o, c, taps, across] to [groups * o, groups * c, taps, across], with zeros."""
    if groups == 1:
        return []
    dtype, (outputs, channels, *taps) = spec_of(weight)
    identity = identity_ops(dtype, groups)
    eye = ReshapeOp(identity[-1].results[0], shape=(groups, 1, groups, 1, 1))
    split = ReshapeOp(weight, shape=(groups, outputs // groups, 1, channels, prod(taps)))
    spread = BinaryOp(BinaryKind.MUL, split.result, eye.result)
    dense = ReshapeOp(spread.result, shape=(outputs, groups * channels, *taps))
    return [*identity, eye, split, spread, dense]


def filter_ops(weight: SSAValue, window: Window, taken: range, paired: bool) -> list[Operation]:
    """Graph ops from filters [O, C, taps, across] to those that make the rows `taken` of each pair of a result.

    Row r of a pair reads row t of its operand, from the first one that the pair reads, through tap t - r * stride.
    `paired`: these rows lie beside each other too, [rows * O, 2 * C, pairs, across]; else [rows * O, C, rows read,
    across].
    """
    outputs, channels, taps, across = shape_of(weight)
    read = window.pairs_read * ROWS_OF_PAIR if paired else window.rows_read
    ops: list[Operation] = []

    def add(op: Operation) -> SSAValue:
        ops.append(op)
        return op.results[0]

    rows: list[SSAValue] = []
    for row in taken:
        above = row * window.stride
        below = (0, 0, read - taps - above, 0)
        rows.append(add(PadOp(weight, low=(0, 0, above, 0), high=below, mode=PadMode.CONSTANT, value=0.0)))
    made = rows[0] if len(rows) == 1 else add(ConcatOp(rows, 0))
    if paired:
        split = add(ReshapeOp(made, shape=(outputs * len(rows), channels, window.pairs_read, ROWS_OF_PAIR, across)))
        beside = add(TransposeOp(split, permutation=(0, 3, 1, 2, 4)))
        add(ReshapeOp(beside, shape=(outputs * len(rows), ROWS_OF_PAIR * channels, window.pairs_read, across)))
    return ops
