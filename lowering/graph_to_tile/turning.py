"""Turning: rows on partitions become features on partitions, by the tensor engine.

    panel[f, tile, r] = staged[r, tile * 128 + f]

Products contract along partitions, so that what one kernel leaves as rows another may want turned. A turned block
leaves the array through PSUM; as many blocks as fit one bank leave it together.
"""

from collections.abc import Callable

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import CastOp, RelayoutOp, spec_of

ROW_TILES = 4
"""Tiles of short rows that leave PSUM together."""

SHORT_TILES = 3
"""Short rows have at most so many tiles of features; the tiles of longer ones leave PSUM together."""

SHORT_BYTES = 1024
"""Bytes of rows that a lane takes from DRAM with one transfer, where rows are shorter than that."""

Bank = Callable[[tuple[int, ...]], View]
"""Gives a tile of PSUM, of the shape asked for, that turned blocks leave the array through."""


def turn_rows(kernel: Kernel, panel: View, staged: View, parts: int = 1, bank: Bank | None = None) -> None:
    """Fill `panel` [128, tiles, rows] with the turned `staged` [rows <= 128, elements], of one element type.

    `parts`: into how many groups at least the tiles are cut, where there are so many, so that one group leaves PSUM
    while the next is turned. `bank`: where from, for a kernel that shares its banks.
    """
    full, rest = divmod(staged.free_elements, LANES)
    if full:
        group = turned_group(kernel, staged, parts)
        kernel.b.tiles(
            full, group, lambda start, count: turn_blocks(kernel, panel, staged, start, count, LANES, bank=bank)
        )
    if rest:
        turn_blocks(kernel, panel, staged, Affine(full), 1, rest, bank=bank)


def turned_group(kernel: Kernel, staged: View, parts: int) -> int:
    """Whole blocks of `staged` that leave PSUM together, when they are cut into at least `parts` groups."""
    if int(kernel.target.pe_columns) < LANES:
        parts = 1  # A block leaves a narrow array in parts anyway.
    return min(blocks_per_bank(kernel, staged), -(-(staged.free_elements // LANES) // parts))


def blocks_per_bank(kernel: Kernel, staged: View) -> int:
    """Turned blocks of all rows of `staged` that one PSUM bank takes."""
    return max(1, int(kernel.target.psum_bank_bytes) // dtype_by_name(staged.dtype).size_bytes // staged.partitions)


def turn_blocks(
    kernel: Kernel,
    panel: View,
    staged: View,
    start: Affine,
    count: int,
    size: int,
    stride: int = LANES,
    bank: Bank | None = None,
) -> None:
    """Turn `count` blocks of `size` elements, `stride` apart, from block `start` on, into tiles of the panel."""
    b, rows = kernel.b, staged.partitions
    columns = int(kernel.target.pe_columns)
    # An array narrower than a block leaves it in parts, which overlap as copies do; PSUM has few banks.
    copies = 2 if size <= columns else 1
    for low in range(0, size, columns):
        width = min(columns, size - low)
        shape = (width, count, rows)
        turned = bank(shape) if bank else b.alloc(shape, staged.dtype, "psum", copies, "turned").view()
        with b.loop(count) as j:
            block = staged.slice(1, (start + j) * stride + low, width)
            b.transpose(turned.at(1, j), block)
        b.copy(panel.slice(0, low, width).slice(1, start, count), turned)


def turns_together(kernel: Kernel, tensor: Tensor, rows: int) -> bool:
    """Whether a matrix on chip, rows on partitions, has rows so short that several tiles leave PSUM together."""
    short = isinstance(tensor, SbufTensor) and tensor.partition == 0 and len(tensor.shape) == 2 and not tensor.halo
    whole = int(kernel.target.pe_columns) >= LANES and rows > LANES
    return short and whole and tensor.shape[1] <= SHORT_TILES * LANES


def turn_matrix(kernel: Kernel, panel: View, tensor: SbufTensor, start: Affine, rows: int) -> None:
    """Fill `panel` [128, tiles of features, rows] with rows of a matrix from `start` on, some tiles of them at a time.

    `start` is a multiple of 128.
    """
    b, whole, features = kernel.b, tensor.whole, tensor.shape[1]
    elements = int(kernel.target.psum_bank_bytes) // dtype_by_name(tensor.dtype).size_bytes
    first = start.divided(LANES)

    def group(tile: Affine, count: int, lanes: int = LANES) -> None:
        for number, low in enumerate(range(0, features, LANES)):
            size = min(LANES, features - low)
            turned = b.alloc((size, count, lanes), tensor.dtype, "psum", 2, "turned").view()
            with b.loop(count) as j:
                block = whole.slice(0, 0, lanes).at(1, first + tile + j).slice(1, low, size)
                b.transpose(turned.at(1, j), block)
            target = panel.slice(0, 0, size).at(1, number).slice(1, tile * LANES, count * lanes)
            b.copy(target, turned.flat())

    full, rest = divmod(rows, LANES)
    b.tiles(full, min(elements // LANES, ROW_TILES), group)
    if rest:
        group(Affine(full), 1, rest)


def lower_turned(k: Kernel, op: CastOp | RelayoutOp) -> None:
    """A matrix [rows, features] with features on partitions, from one with rows there or in DRAM, cast on the way."""
    x, out = k.tensor(op.x), k.output(op.result)
    assert isinstance(out, SbufTensor)
    rows, dtype = spec_of(op.result)[1][0], spec_of(op.result)[0].name
    if isinstance(x, SbufTensor) and x.dtype == dtype and turns_together(k, x, rows):
        turn_matrix(k, out.whole, x, Affine(0), rows)
        return

    def tile(start: Affine, count: int, staged: View | None = None) -> None:
        staged = staged or x.load(k.b, 0, {0: (start, count)}, dtype, name="rows")
        turn_rows(k, out.whole.slice(2, start, count), staged, parts=2)

    def group(first: Affine, count: int) -> None:
        assert isinstance(x, DramTensor)
        staged = k.b.alloc((LANES, count, x.shape[1]), dtype, "sbuf", 2, "rows").view()
        (stride, _), each = x.view().dims
        dims = ((stride, LANES), (stride * LANES, count), each)
        k.b.load(staged, View(x.buffer, Affine(), 0, first * (LANES * stride) + x.offset, dims))
        with k.b.loop(count) as i:
            tile((first + i) * LANES, LANES, staged.at(1, i))

    together = loaded_together(x)
    if together < 2:
        k.b.tiles(rows, LANES, tile)
        return
    k.b.tiles(rows // LANES, together, group)
    if rows % LANES:
        tile(Affine(rows // LANES * LANES), rows % LANES)


def loaded_together(x: Tensor) -> int:
    """Tiles of rows of a matrix that one transfer brings: of short ones each alone would take longer to start than to
    move.
    """
    if not isinstance(x, DramTensor):
        return 1
    row_bytes = x.shape[1] * dtype_by_name(x.buffer.dtype).size_bytes
    return min(x.shape[0] // LANES, SHORT_BYTES // row_bytes) if row_bytes else 1


def wants_turning(k: Kernel, op: CastOp | RelayoutOp) -> bool:
    """Whether the result is to lie with features on partitions, and the operand does not."""
    if k.residents.get(op.result) != (1, ()) or len(spec_of(op.result)[1]) != 2:
        return False
    x = k.tensor(op.x)
    return not isinstance(x, SbufTensor) or x.partition == 0
