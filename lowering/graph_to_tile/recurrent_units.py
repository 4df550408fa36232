"""Hidden units of a recurrent layer on partitions: the recurrence weight packed, and transfers of units.

Hidden unit j * lanes + p lies on partition p in tile j; the last tile may be short.
"""

from collections.abc import Callable
from dataclasses import replace

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.recurrent_plan import RecurrentPlan
from lowering.graph_to_tile.tensors import DramTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import PadOp, RecurrentOp, ReshapeOp, TransposeOp

Piece = tuple[Affine, int]
"""(start, size) along a dimension."""


def packed_weight(k: Kernel, op: RecurrentOp, plan: RecurrentPlan) -> DramTensor:
    """r as [D, tiles of m, gates, lanes of k, tiles of k, lanes of m], short tiles filled up with zeros.

    One partition's part of a tile and gate is one run. A weight is packed at emission, anything else now.
    """
    tensor = k.dram(op.r)
    directions, rows, hidden = tensor.shape
    gates = rows // hidden
    padded, shape = plan.tiles * plan.lanes, (plan.tiles, plan.lanes)
    whole = tensor.symbol is not None and tensor.is_dense and tensor.offset == 0 and tensor.shape == tensor.buffer.shape
    if not whole or tensor.symbol not in k.weight_types:
        return _packed_now(k, tensor, gates, plan)

    def recipe(values: list[SSAValue]) -> list[Operation]:
        parts = ReshapeOp(values[0], (directions, gates, hidden, hidden))
        short = padded - hidden
        filled = PadOp(parts, (0, 0, 0, 0), (0, 0, short, short)) if short else None
        split = ReshapeOp(filled or parts, (directions, gates, *shape, *shape))
        ordered = TransposeOp(split, (0, 2, 1, 5, 4, 3))
        return [parts, *([filled] if filled is not None else []), split, ordered]

    return k.derive(f"{tensor.symbol}.recurrence", [str(tensor.symbol)], recipe)


def _packed_now(k: Kernel, tensor: DramTensor, gates: int, plan: RecurrentPlan) -> DramTensor:
    """A packed copy in DRAM of an r that is no weight, one tile and gate after the other."""
    b, (directions, _, hidden) = k.b, tensor.shape
    shape = (directions, plan.tiles, gates, plan.lanes, plan.tiles, plan.lanes)
    packed = DramTensor.dense(b.alloc_outer(shape, tensor.dtype, "dram"))
    source = split_rows(tensor, gates)

    def tile(at: dict[int, Piece], index: Affine, columns: int) -> None:
        staged = b.alloc((plan.lanes, plan.tiles, plan.lanes), tensor.dtype, "sbuf", 2, "packed").view()
        if plan.tiles * plan.lanes > hidden:
            b.memset(staged, 0.0)
        window = source.view({**at, 2: (index * plan.lanes, columns)}, [3, 2])
        move_units(k, b.load, staged.slice(2, 0, columns), window, 0, plan)
        transfer(b, b.store, packed.view({0: at[0], 1: (index, 1), 2: at[1]}, [3, 4, 5]), staged)

    with b.loop(directions) as direction, b.loop(gates) as gate:
        for columns, first, count in unit_parts(hidden, plan):
            with b.loop(count) as i:
                tile({0: (direction, 1), 1: (gate, 1)}, i + first, columns)
    return packed


def split_rows(tensor: DramTensor, parts: int) -> DramTensor:
    """Dimension 1 as two: `parts` runs of rows."""
    rows, stride = tensor.shape[1] // parts, tensor.strides[1]
    return replace(
        tensor,
        shape=(tensor.shape[0], parts, rows, *tensor.shape[2:]),
        strides=(tensor.strides[0], stride * rows, stride, *tensor.strides[2:]),
    )


def unit_parts(hidden: int, plan: RecurrentPlan) -> list[tuple[int, int, int]]:
    """(lanes, first tile, tiles) of the full tiles of hidden units, and of the short one if there is one."""
    short = plan.tiles * plan.lanes - hidden
    full = plan.tiles - (1 if short else 0)
    parts = [(plan.lanes, 0, full), (plan.lanes - short, full, plan.tiles - full)]
    return [part for part in parts if part[2]]


def move_units(
    k: Kernel, move: Callable[[View, View], None], chip: View, dram: View, tile_dim: int, plan: RecurrentPlan
) -> None:
    """Load or store hidden units: `dram` has them as its first dimension, `chip` on partitions and in tiles.

    `tile_dim` is the free dimension of `chip` that counts tiles; the other dimensions of both are equal.
    """
    stride, hidden = dram.dims[0]
    for lanes, first, count in unit_parts(hidden, plan):
        dims = list(dram.dims)
        dims[0] = (stride, lanes)
        dims.insert(1 + tile_dim, (stride * plan.lanes, count))
        outside = replace(dram, offset=dram.offset + first * plan.lanes * stride, dims=tuple(dims))
        inside = chip.slice(0, 0, lanes).slice(1 + tile_dim, first, count)
        transfer(k.b, move, *((inside, outside) if move == k.b.load else (outside, inside)))
