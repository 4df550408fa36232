"""Operands that vary along the partitions alone: all of a column on chip, [lanes, tiles], by one transfer.

A kernel that goes over several tiles of lanes would wait for a small transfer in front of each otherwise.
"""

from dataclasses import replace
from math import prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import ReshapeOp, TransposeOp


def load_column(k: Kernel, tensor: DramTensor, size: int, stride: int, lanes: int = LANES) -> View:
    """The `size` elements of a tensor that lie `stride` apart from its first one as f32, [lanes, tiles of `lanes`]."""
    full, rest = divmod(size, lanes)
    b = k.b
    buffer = b.alloc_outer((min(lanes, size), full + bool(rest)), "f32", "sbuf", "column").view()
    if (packed := _packed_column(k, tensor, size, lanes)) is not None:
        transfer(b, b.load, buffer, packed)
        return buffer
    if full:
        view = View(tensor.buffer, Affine(), 0, Affine(tensor.offset), ((stride, lanes), (stride * lanes, full)))
        transfer(b, b.load, buffer.slice(1, 0, full), view)
    if rest:
        offset = Affine(tensor.offset + full * lanes * stride)
        view = View(tensor.buffer, Affine(), 0, offset, ((stride, rest), (0, 1)))
        b.load(buffer.slice(0, 0, rest).slice(1, full, 1), view)
    return buffer


def resident_column(k: Kernel, tensor: DramTensor, dimension: int) -> SbufTensor:
    """A tensor that varies along one dimension alone on chip, with that one on the partitions."""
    size, stride = tensor.shape[dimension], tensor.strides[dimension]
    buffer = load_column(k, tensor, size, stride).buffer
    shape = tuple(size if d == dimension else 1 for d in range(len(tensor.shape)))
    whole = (*buffer.shape[:2], *(1 for _ in shape[1:]))
    return SbufTensor(replace(buffer, shape=whole), shape, dimension)


def _packed_column(k: Kernel, tensor: DramTensor, size: int, lanes: int) -> View | None:
    """A long column of a weight as [lanes, tiles], packed so that a lane's elements are one run.

    Where elements lie one after the other each is a descriptor of the DMA, which is what loading it costs then.
    """
    tiles = size // lanes
    scattered_ns = size / int(k.target.dma_engines) * k.target.dma_descriptor_ns
    start_ns = int(k.target.dma_engines) * k.target.dma_stagger_ns
    plain = tensor.symbol in k.weight_types and tensor.is_dense and tensor.offset == 0 and not tensor.element
    if not plain or tensor.symbol is None or size % lanes or prod(tensor.shape) != size or scattered_ns <= start_ns:
        return None

    def pack(values: list[SSAValue]) -> list[Operation]:
        matrix = ReshapeOp(values[0], (tiles, lanes))
        return [matrix, TransposeOp(matrix.result, permutation=(1, 0))]

    return k.derive(f"{tensor.symbol}.lanes{lanes}", [tensor.symbol], pack).view()
