"""Transfers between tensors on chip and DRAM in pieces, so that nobody waits for the whole of a tensor."""

from collections.abc import Sequence
from math import ceil, prod

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.row_pairs import RowPairs, windows_of
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph.layout import ROWS_OF_PAIR

STORE_BYTES = 1 << 19
"""Most bytes that are stored from a resident tensor at once."""

LOAD_BYTES = 1 << 18
"""Most bytes of each half of pairs of rows that are loaded at once."""


def clear_halo(b: KernelBuilder, tensor: SbufTensor) -> None:
    """Write zeros around a resident tensor: the rows, then the columns of what is left, and so on."""
    view = tensor.whole
    for dim, (low, high) in enumerate(tensor.halo, 2):
        size = view.shape[dim]
        for start, count in ((0, low), (size - high, high)):
            if count:
                b.memset(view.slice(dim, start, count), 0.0)
        view = view.slice(dim, low, size - low - high)


def write_out(b: KernelBuilder, tensor: SbufTensor, destination: DramTensor) -> None:
    """Store a resident tensor to DRAM, one tile of 128 after the other."""
    order = [tensor.partition, *(d for d in range(len(tensor.shape)) if d != tensor.partition)]

    def one(start: Affine, size: int) -> None:
        ranges = {tensor.partition: (start, size)}
        store_in_pieces(b, [(destination.view(ranges, order), tensor.view(ranges))])

    b.tiles(tensor.shape[tensor.partition], LANES, one)


def write_pairs(b: KernelBuilder, pairs: RowPairs, destination: DramTensor) -> None:
    """Store a tensor in pairs of rows to DRAM, an image after the other, some rows at a time."""
    windows = windows_of(pairs, destination)
    whole = pairs.whole_pairs
    with b.loop(destination.shape[0]) as image:
        if whole is not None:
            store_beside(b, destination, whole, ROWS_OF_PAIR, image)
            return
        for place, source in windows:
            store_in_pieces(b, [(place.at(1, image), source.at(1, image))])


def store_beside(b: KernelBuilder, place: DramTensor, source: View, beside: int, image: Affine | None = None) -> None:
    """Store rows that lie `beside` each other as channels, [beside * channels, images, rows / beside, columns], to
    [images, channels, rows, columns] in DRAM: all images, or one, in pieces.
    """
    images, channels, rows, columns = place.shape
    image_step, channel_step, row_step, step = place.strides
    images = images if image is None else 1
    first = place.offset + (image or Affine(0)) * image_step

    def piece(start: Affine, size: int) -> None:
        dims = ((row_step, beside), (channel_step, channels), (image_step, images), (row_step * beside, size))
        dram = View(place.buffer, Affine(), 0, first + start * (row_step * beside), (*dims, (step, columns)))
        transfer(b, b.store, dram, source.slice(1, image or 0, images).slice(2, start, size))

    pieces = ceil(images * channels * rows * columns * dtype_by_name(place.dtype).size_bytes / STORE_BYTES)
    size = ceil(rows // beside / min(pieces, rows // beside))
    # The last piece waits for what was computed last, which may not stand in a loop with the rest.
    head = (rows // beside - 1) // size * size
    b.tiles(head, size, piece)
    piece(Affine(head), rows // beside - head)


def store_in_pieces(b: KernelBuilder, pairs: Sequence[tuple[View, View]]) -> None:
    """Store to each DRAM view [lanes, others...] of a list the SBUF view beside it, all of one shape, in pieces.

    A piece begins as soon as its rows have been computed, and what is loaded meanwhile waits for no more than a piece.
    """
    shape, dtype = pairs[0][1].shape, pairs[0][1].buffer.dtype
    pieces = ceil(prod(shape) * len(pairs) * dtype_by_name(dtype).size_bytes / STORE_BYTES)
    cut = next((d for d in range(1, len(shape)) if shape[d] > 1), None)
    if pieces < 2 or cut is None:
        for place, source in pairs:
            transfer(b, b.store, place, source)
        return

    def piece(start: Affine, size: int) -> None:
        store_in_pieces(b, [(place.slice(cut, start, size), source.slice(cut, start, size)) for place, source in pairs])

    size = ceil(shape[cut] / min(pieces, shape[cut]))
    # The last piece waits for what was computed last, which may not stand in a loop with the rest.
    head = (shape[cut] - 1) // size * size
    b.tiles(head, size, piece)
    piece(Affine(head), shape[cut] - head)


def load_pairs(b: KernelBuilder, source: DramTensor, pairs: RowPairs) -> None:
    """Load a tensor from DRAM in pairs of rows, an image after the other, some rows at a time."""
    windows = windows_of(pairs, source)
    with b.loop(source.shape[0]) as image:
        halves = [(place.at(1, image), chip.at(1, image)) for place, chip in windows]
        rows = min(chip.shape[1] for _, chip in halves)
        row_bytes = prod(halves[0][1].shape) // halves[0][1].shape[1] * dtype_by_name(source.dtype).size_bytes

        def piece(start: Affine, size: int, halves: Sequence[tuple[View, View]] = halves) -> None:
            for place, chip in halves:
                transfer(b, b.load, chip.slice(1, start, size), place.slice(1, start, size))

        b.tiles(rows, max(1, min(rows, LOAD_BYTES // row_bytes)), piece)
        for place, chip in halves:
            if (rest := chip.shape[1] - rows) > 0:
                transfer(b, b.load, chip.slice(1, rows, rest), place.slice(1, rows, rest))
