"""Sums over feature maps that are taken while the map leaves PSUM.

A network that weighs the channels of a map by what their means give (squeeze and excite) reads all of the map for these
means, and waits for them. The sum of a channel over the pixels of a tile costs next to nothing where the tile is
evicted: the scalar engine has the row sum of what it writes, and where something else writes it, or where an image has
too few pixels in a tile for an instruction of its own, the vector engine adds up the tile that has just been written.
What is left of the mean is one short sum of a number for each tile.
"""

from collections.abc import Sequence
from math import ceil, prod

from xdsl.ir import SSAValue

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.map_sums import CHANNELS, MapSums, takes_sums
from lowering.graph_to_tile.tensors import LANES, SbufTensor
from neuron_dialects.graph import ReduceKind, ReduceOp, shape_of


def collect_sums(k: Kernel, values: Sequence[SSAValue], tile: Sequence[int]) -> dict[SSAValue, MapSums]:
    """Room for the sums of what of `values` is summed; `tile`: images, depth, height and width."""
    found: dict[SSAValue, MapSums] = {}
    for value in values:
        if value in k.summed and isinstance(tensor := k.tensors.get(value), SbufTensor):
            images, channels, *spatial = tensor.shape
            own = (tile[0], *tile[2:3]) if len(spatial) == 1 else (tile[0], *tile[4 - len(spatial) :])
            tiles = tuple(ceil(size / part) for size, part in zip(spatial, own[1:], strict=True))
            shape = (min(LANES, channels), ceil(channels / LANES), images, prod(tiles))
            found[value] = MapSums(k.b.alloc_outer(shape, "f32", "sbuf", "sums").view(), own, tiles)
    k.map_sums |= found
    return found


def finish_sums(k: Kernel, op: ReduceOp) -> bool:
    """Lower a reduction whose sums were taken where its operand left PSUM; False where they were not."""
    sums = k.map_sums.get(op.x)
    # Another reduction of the same map may be a maximum, or one over other axes.
    if sums is None or not takes_sums(op):
        return False
    b, out = k.b, k.output(op.result)
    assert isinstance(out, SbufTensor)
    count = prod(shape_of(op.x)[2:])
    factor = 1.0 / count if op.kind.data is ReduceKind.MEAN else 1.0
    channels = shape_of(op.x)[CHANNELS]
    result = out.single_pixels
    full, rest = divmod(channels, LANES)
    for first, tiles, lanes in ((0, full, LANES), (full, 1 if rest else 0, rest)):
        if not tiles:
            continue
        total = sums.parts.slice(0, 0, lanes).slice(1, first, tiles)
        if total.shape[-1] > 1:
            added = b.alloc(total.shape[:-1], "f32", "sbuf", 1, "total").view()
            b.reduce(added, total, "add")
        else:
            added = total.at(3, 0)
        b.tensor_scalar(result.slice(0, 0, lanes).slice(1, first, tiles), added, "multiply", factor)
    return True
