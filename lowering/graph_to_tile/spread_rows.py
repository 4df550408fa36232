"""Rows of a weight repeated on all partitions by the tensor engine instead of the DMA.

What is the same for every row of a result (a bias, the scale of a residual) is wanted once on each partition. The DMA
brings it there 128 times, and pinned it takes 128 times its size. It is one column for each 128 elements instead, which
takes next to nothing, and turned as often as there are lanes it becomes the row:

    row[lane, tile * 128 + i] = column[i, tile]             for all lanes, through PSUM

Transposing moves 16-bit numbers as they are, infinities too.
"""

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name

WORTH = 4.0
"""How much longer than the tensor engine the DMA must take to repeat a row."""


def is_spread(k: Kernel, window: DramTensor) -> bool:
    """Whether the tensor engine should repeat `window` [rows, elements], which is the same for all rows."""
    elements, size_bytes = window.shape[-1], dtype_by_name(window.dtype).size_bytes
    if len(window.shape) != 2 or window.strides != (0, 1) or window.symbol not in k.weight_types or window.element:
        return False
    fits = elements % LANES == 0 and elements * size_bytes <= int(k.target.psum_bank_bytes)
    dma_ns = LANES * elements * size_bytes / k.target.dma_rate_bytes_per_ns
    return size_bytes == 2 and fits and dma_ns > WORTH * elements / k.target.clock_ghz("pe")


def spread_rows(k: Kernel, window: DramTensor, rows: int) -> View:
    """`window` on chip, [lanes, elements], the same on every partition; `is_spread` holds.

    For one tile of `rows` it stays in PSUM, where one operand of an instruction may lie; more tiles read it from SBUF.
    """
    b, elements = k.b, window.shape[-1]
    tiles, lanes = elements // LANES, min(LANES, rows)
    column = b.alloc_outer((LANES, tiles), window.dtype, "sbuf", "column").view()
    transfer(b, b.load, column, View(window.buffer, Affine(), 0, Affine(window.offset), ((1, LANES), (LANES, tiles))))
    bank = b.alloc((lanes, tiles, LANES), window.dtype, "psum", 1, "spread").view()
    columns = int(k.target.pe_columns)
    for low in range(0, lanes, columns):
        width = min(columns, lanes - low)
        with b.loop(tiles) as tile:
            source = column.at(1, tile).insert(0).broadcast([width])
            b.transpose(bank.slice(0, low, width).at(1, tile), source)
    if rows <= LANES:
        return bank.flat()
    buffer = b.alloc_outer((lanes, elements), window.dtype, "sbuf", "row").view()
    b.copy(buffer, bank.flat())
    return buffer
