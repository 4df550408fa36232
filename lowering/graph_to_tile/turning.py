"""Turning: rows on partitions become features on partitions, by the tensor engine.

    panel[f, tile, r] = staged[r, tile * 128 + f]

Products contract along partitions, so that what one kernel leaves as rows another may want turned. A turned block
leaves the array through PSUM; as many blocks as fit one bank leave it together.
"""

from collections.abc import Callable

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, SbufTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import CastOp, RelayoutOp, spec_of

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


def lower_turned(k: Kernel, op: CastOp | RelayoutOp) -> None:
    """A matrix [rows, features] with features on partitions, from one with rows there or in DRAM, cast on the way."""
    x, out = k.tensor(op.x), k.output(op.result)
    assert isinstance(out, SbufTensor)
    rows, dtype = spec_of(op.result)[1][0], spec_of(op.result)[0].name

    def tile(start: Affine, count: int) -> None:
        staged = x.load(k.b, 0, {0: (start, count)}, dtype, name="rows")
        turn_rows(k, out.whole.slice(2, start, count), staged, parts=2)

    k.b.tiles(rows, LANES, tile)


def wants_turning(k: Kernel, op: CastOp | RelayoutOp) -> bool:
    """Whether the result is to lie with features on partitions, and the operand does not."""
    if k.residents.get(op.result) != (1, ()) or len(spec_of(op.result)[1]) != 2:
        return False
    x = k.tensor(op.x)
    return not isinstance(x, SbufTensor) or x.partition == 0
