"""Kernel of products of little matrices, two for each of many samples.

    out[s, m, n] = sum over k of  a[s, m, k] . b[s, k, n]

A product by itself takes the tensor engine no time; bringing its operands and taking its result away, one sample at a
time, takes the DMA a microsecond or two. So 128 samples come together, one to a lane, in rows that hold a whole matrix,
and the tensor engine turns column after column of them: k lies on partitions then, for each of the 128 samples.
Products of neighbouring samples leave through one PSUM bank.

Where the entries of a product are the features that the next layer contracts, they leave PSUM for the lanes that they
have as such: rows of 32 columns, filled up with zeros, one in each quadrant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.relayout import copy_window
from lowering.graph_to_tile.tensors import LANES, DramTensor, ResidentWindow, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.turning import turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import MatMulOp, shape_of, spec_of
from passes.graph.sample_products import FEATURES, SampleFeatures

SAMPLES, ROWS = 0, 1
"""Dimensions of the result: samples, and the rows of their products, which lie on partitions."""


def lower_sample_products(k: Kernel, op: MatMulOp, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a product of [samples, m, k] and [samples, k, n] with the pointwise `ops` behind it."""
    b, (samples, m, n) = k.b, shape_of(op.result)
    epilogue = Epilogue(k, op.result, ops, results, ROWS)
    epilogue.prepare()
    together = _together(k, n)
    same = op.a is op.b and bool(op.transpose_b) != bool(op.transpose_a)

    def tile(start: Affine, size: int) -> None:
        banks = [_bank(k, spec_of(op.a)[0].name, size) for _ in range(2)]
        left = _turned(k, _staged(k, k.tensor(op.a), start, size), bool(op.transpose_a), banks)
        right = left
        if not same:
            right = _turned(k, _staged(k, k.tensor(op.b), start, size), not bool(op.transpose_b), banks)
        evicted = None if ops else b.alloc((m, size, n), spec_of(op.result)[0].name, "sbuf", 2, "products").view()

        def bank(first: Affine, count: int) -> None:
            sums = b.alloc((m, count, n), "f32", "psum", 2, "sum").view()
            with b.loop(count) as sample:
                b.matmul(sums.at(1, sample), left.at(1, first + sample), right.at(1, first + sample), 0)
            if evicted is None:
                epilogue.apply([(0, sums)], {SAMPLES: (start + first, count)})
            else:
                b.copy(evicted.slice(1, first, count), sums)

        b.tiles(size, together, bank)
        if evicted is not None:
            # Rows are short: stores of many of them keep all DMA engines busy.
            _store(k, epilogue.outputs[op.result], evicted, start, size)

    b.tiles(samples, LANES, tile)


def _together(k: Kernel, columns: int) -> int:
    """Samples whose products share a PSUM bank: a power of two."""
    most = int(k.target.psum_bank_bytes) // (4 * columns)
    return 1 << (min(most, LANES).bit_length() - 1)


def _store(k: Kernel, out: Tensor | ResidentWindow, products: View, start: Affine, size: int) -> None:
    """Products of some samples, [m, samples, n], where they belong."""
    if isinstance(out, DramTensor):
        transfer(k.b, k.b.store, out.view({SAMPLES: (start, size)}, (ROWS, SAMPLES, 2)), products)
    else:
        place, _ = out.store(k.b, ROWS, {SAMPLES: (start, size)})
        k.b.copy(place, products)


def lower_sample_features(k: Kernel, features: SampleFeatures) -> None:
    """Lower products of samples whose entries are features, with other features behind them."""
    op, made = features.product, FeatureTiles(k, features)
    left, right = k.tensor(op.a), k.tensor(op.b)

    def tile(start: Affine, size: int) -> None:
        a, b = (_staged(k, tensor, start, size) for tensor in (left, right))
        made.tile(start, size, a, b)

    k.b.tiles(shape_of(op.result)[0], LANES, tile)


@dataclass
class FeatureTiles:
    """The features of samples, 128 of these at a time."""

    k: Kernel
    features: SampleFeatures
    out: DramTensor | SbufTensor = field(init=False)

    def __post_init__(self) -> None:
        k, features = self.k, self.features
        self.out = k.output(features.result)
        if isinstance(self.out, DramTensor) and features.other is not None:
            starts, shape = (0, features.rows * features.columns), shape_of(features.other)
            copy_window(k, k.dram(features.other), self.out.slice(starts, shape, (1, 1)))

    def tile(self, start: Affine, size: int, a: View, b: View) -> None:
        """Those of the samples (start, size), whose matrices are `a` and `b` [samples, rows, columns]."""
        k, features, out = self.k, self.features, self.out
        op, rows, columns = features.product, features.rows, features.columns
        # What lies on lanes is the matrix that stays where it is in the array.
        resident = isinstance(out, SbufTensor)
        lanes, others = (columns, rows) if resident else (rows, columns)
        same = op.a is op.b and bool(op.transpose_b) != bool(op.transpose_a)
        banks = [_bank(k, a.dtype, size) for _ in range(2)]
        left = _turned(k, a, bool(op.transpose_a), banks, max(rows, columns) if same else rows)
        right = left if same else _turned(k, b, not bool(op.transpose_b), banks, columns)
        left, right = left.slice(2, 0, rows), right.slice(2, 0, columns)
        fixed, moving = (right, left) if resident else (left, right)
        stored = None if resident else k.b.alloc((lanes, size, others), out.dtype, "sbuf", 2, "products").view()

        def bank(first: Affine, count: int) -> None:
            sums = k.b.alloc((lanes, count, others), "f32", "psum", 2, "sum").view()
            with k.b.loop(count) as sample:
                k.b.matmul(sums.at(1, sample), fixed.at(1, first + sample), moving.at(1, first + sample), 0)
            if stored is not None:
                k.b.copy(stored.slice(1, first, count), sums)
            elif isinstance(out, SbufTensor):
                _place(k.b, out, sums, start + first)

        k.b.tiles(size, _together(k, others), bank)
        if stored is not None and isinstance(out, DramTensor):
            samples = out.shape[SAMPLES]
            entries = out.slice((0, 0), (samples, rows * columns), (1, 1)).reshape((samples, rows, columns))
            assert entries is not None, "the entries of a sample are one run"
            transfer(k.b, k.b.store, entries.view({SAMPLES: (start, size)}, (ROWS, SAMPLES, 2)), stored)
        if isinstance(out, SbufTensor) and features.other is not None:
            _join(k, out, k.tensor(features.other), rows * columns // LANES, (start, size))


def _place(b: KernelBuilder, out: SbufTensor, sums: View, start: Affine) -> None:
    """Take sums [columns, samples, rows] of some samples from `start` on to their lanes: row after row."""
    columns, count, rows = sums.shape
    together = LANES // columns
    for number in range(together):
        every = sums.slice(2, number, rows // together, together).permute((1, 0))
        lanes = out.whole.slice(0, number * columns, columns).slice(1, 0, rows // together)
        b.copy(lanes.slice(2, start, count), every)


def _join(k: Kernel, out: SbufTensor, other: Tensor, tile: int, samples: tuple[Affine, int]) -> None:
    """Other features of some samples, from tile `tile` on."""
    panel = out.whole.slice(2, *samples)
    panel = panel.slice(1, tile, out.tiles - tile)
    if isinstance(other, SbufTensor) and other.partition == FEATURES:
        present = other.whole.slice(2, *samples)
        for number in range(other.tiles):
            lanes = min(LANES, other.shape[FEATURES] - number * LANES)
            k.b.copy(panel.slice(0, 0, lanes).at(1, number), present.slice(0, 0, lanes).at(1, number))
        return
    turn_rows(k, panel, other.load(k.b, SAMPLES, {SAMPLES: samples}, out.dtype, name="rows"))


def _staged(k: Kernel, tensor: Tensor, start: Affine, size: int) -> View:
    """The matrices of some samples on chip, [samples, rows, columns]."""
    return tensor.load(k.b, SAMPLES, {SAMPLES: (start, size)}, name="samples")


def _bank(k: Kernel, dtype: str, size: int) -> View:
    """A PSUM bank for as many turned columns of `size` samples as it takes, [lanes, columns, samples]."""
    lanes = min(LANES, int(k.target.pe_columns))
    columns = int(k.target.psum_bank_bytes) // dtype_by_name(dtype).size_bytes // size
    return k.b.alloc((lanes, max(1, columns), size), dtype, "psum", 1, "block").view()


def _turned(k: Kernel, staged: View, depth_first: bool, banks: Sequence[View], sides: int = 0) -> View:
    """The matrices of some samples, [samples, side, depth], as [depth, samples, sides]; `depth_first`: whether they are
    [samples, depth, side], `sides`: up to how many they are filled up with zeros.

    Turned columns leave through one bank while others come into the other.
    """
    b, size = k.b, staged.partitions
    if depth_first:
        staged = staged.permute((1, 0))
    side, depth = staged.shape[1:]
    turned = b.alloc((depth, size, max(side, sides)), staged.dtype, "sbuf", 1 if sides else 2, "turned").view()
    if sides > side:
        b.memset(turned.slice(2, side, sides - side), 0.0)
    most = banks[0].shape[1]
    for number, first in enumerate(range(0, side, most)):
        count = min(most, side - first)
        block = banks[number % 2].slice(0, 0, depth).slice(1, 0, count)
        with b.loop(count) as i:
            b.transpose(block.at(1, i), staged.at(1, first + i))
        b.copy(turned.permute((1, 0)).slice(1, first, count), block)
    return turned
