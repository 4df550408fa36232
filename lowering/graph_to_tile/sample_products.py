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
from lowering.graph_to_tile.tensors import LANES, DramTensor, ResidentWindow, Tensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import MatMulOp, shape_of, spec_of

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
        banks = [_bank(k, op.a, size) for _ in range(2)]
        left = _turned(k, op.a, bool(op.transpose_a), start, size, banks)
        right = left if same else _turned(k, op.b, not bool(op.transpose_b), start, size, banks)

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


def _store(k: Kernel, out: Tensor | ResidentWindow, products: View, start: Affine, size: int) -> None:
    """Products of some samples, [m, samples, n], where they belong."""
    if isinstance(out, DramTensor):
        transfer(k.b, k.b.store, out.view({SAMPLES: (start, size)}, (ROWS, SAMPLES, 2)), products)
    else:
        place, _ = out.store(k.b, ROWS, {SAMPLES: (start, size)})
        k.b.copy(place, products)


def _bank(k: Kernel, value: SSAValue, size: int) -> View:
    """A PSUM bank for as many turned columns of `size` samples as it takes, [lanes, columns, samples]."""
    dtype, lanes = k.tensor(value).dtype, min(LANES, int(k.target.pe_columns))
    columns = int(k.target.psum_bank_bytes) // dtype_by_name(dtype).size_bytes // size
    return k.b.alloc((lanes, max(1, columns), size), dtype, "psum", 1, "block").view()


def _turned(k: Kernel, value: SSAValue, depth_first: bool, start: Affine, size: int, banks: Sequence[View]) -> View:
    """The matrices of some samples as [depth, samples, sides]; `depth_first`: whether they are [depth, side].

    Turned columns leave through one bank while others come into the other.
    """
    b, tensor = k.b, k.tensor(value)
    staged = tensor.load(b, SAMPLES, {SAMPLES: (start, size)}, name="samples")
    if depth_first:
        staged = staged.permute((1, 0))
    side, depth = staged.shape[1:]
    turned = b.alloc((depth, size, side), tensor.dtype, "sbuf", 2, "turned").view()
    most = banks[0].shape[1]
    for number, first in enumerate(range(0, side, most)):
        count = min(most, side - first)
        block = banks[number % 2].slice(0, 0, depth).slice(1, 0, count)
        with b.loop(count) as i:
            b.transpose(block.at(1, i), staged.at(1, first + i))
        b.copy(turned.permute((1, 0)).slice(1, first, count), block)
    return turned
