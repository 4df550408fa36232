"""Kernel of products of little matrices, two for each of many samples.

    out[s, m, n] = sum over k of  a[s, m, k] . b[s, k, n]

A product by itself takes the tensor engine no time; bringing its operands and taking its result away, one sample at a
time, takes the DMA a microsecond or two. So 128 samples come together, one to a lane, in rows that hold a whole matrix,
and the tensor engine turns column after column of them: k lies on partitions then, for each of the 128 samples.
Products of neighbouring samples leave through one PSUM bank.
"""

from collections.abc import Sequence

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import MatMulOp, shape_of

SAMPLES, ROWS = 0, 1
"""Dimensions of the result: samples, and the rows of their products, which lie on partitions."""


def lower_sample_products(k: Kernel, op: MatMulOp, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a product of [samples, m, k] and [samples, k, n] with the pointwise `ops` behind it."""
    b, (samples, m, n) = k.b, shape_of(op.result)
    epilogue = Epilogue(k, op.result, ops, results, ROWS)
    epilogue.prepare()
    together = int(k.target.psum_bank_bytes) // (4 * n)
    together = 1 << (min(together, LANES).bit_length() - 1)
    same = op.a is op.b and bool(op.transpose_b) != bool(op.transpose_a)

    def tile(start: Affine, size: int) -> None:
        left = _turned(k, op.a, bool(op.transpose_a), start, size)
        right = left if same else _turned(k, op.b, not bool(op.transpose_b), start, size)

        def bank(first: Affine, count: int) -> None:
            sums = b.alloc((m, count, n), "f32", "psum", 2, "sum").view()
            with b.loop(count) as sample:
                b.matmul(sums.at(1, sample), left.at(1, first + sample), right.at(1, first + sample), 0)
            epilogue.apply([(0, sums)], {SAMPLES: (start + first, count)})

        b.tiles(size, together, bank)

    b.tiles(samples, LANES, tile)


def _turned(k: Kernel, value: SSAValue, depth_first: bool, start: Affine, size: int) -> View:
    """The matrices of some samples as [depth, samples, sides]; `depth_first`: whether they are [depth, side]."""
    b, tensor = k.b, k.tensor(value)
    staged = tensor.load(b, SAMPLES, {SAMPLES: (start, size)}, name="samples")
    if depth_first:
        staged = staged.permute((1, 0))
    side, depth = staged.shape[1:]
    turned = b.alloc((depth, size, side), tensor.dtype, "sbuf", 2, "turned").view().permute((1, 0))
    most = max(1, int(k.target.psum_bank_bytes) // dtype_by_name(tensor.dtype).size_bytes // size)

    def group(first: Affine, count: int) -> None:
        block = b.alloc((depth, count, size), tensor.dtype, "psum", 2, "block").view()
        with b.loop(count) as i:
            b.transpose(block.at(1, i), staged.at(1, first + i))
        b.copy(turned.slice(1, first, count), block)

    b.tiles(side, min(most, side), group)
    return turned.permute((1, 0))
