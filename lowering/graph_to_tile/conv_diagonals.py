"""The filters of a depthwise convolution on chip: for each tap a diagonal matrix, which the tensor engine multiplies.

A diagonal of 128 channels is 128 times as large as the numbers on it. So the filters of a whole layer are brought on
chip before its loops, where memory allows it, which lets them come while earlier layers run; and only some taps are
loaded as diagonals. The others are made on chip, of the bare numbers and an identity matrix, by an engine that has
little else to do. How many are made follows from how fast the target does either.
"""

from math import ceil

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.conv_weights import Stationary, identity_ops, is_packable
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConvOp,
    PadMode,
    PadOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    shape_of,
    spec_of,
)
from neuron_dialects.target import Target
from passes.graph.conv_groups import ConvGroups

SBUF_SHARE = 3
"""The diagonals of a layer take at most this part (one over it) of SBUF."""


def is_depthwise(k: Kernel, op: ConvOp, groups: ConvGroups) -> bool:
    """Whether each output channel is a constant filter of one input channel, of which there are many."""
    single = k.takes("diagonals") and groups.inputs == groups.outputs == 1 and groups.groups >= LANES // 8
    return single and is_packable(k, op.w)


def taps_made(taps: int, element_bytes: int, target: Target) -> int:
    """How many of the taps are made on chip, so that loading and making end together; one at least is loaded."""
    engine = "pool" if "pool" in target.compute_engines else "dve"
    rate = min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns))
    load, make = LANES * LANES * element_bytes / rate, LANES / target.clock_ghz(engine)
    return min(taps - 1, round(taps * load / (load + make)))


class Diagonals:
    """Filters of `op` (one input and one output channel a group) for `count` blocks of 128 channels from `first`."""

    def __init__(self, k: Kernel, op: ConvOp, groups: ConvGroups, first: int, count: int):
        tensor = k.tensor(op.w)
        assert isinstance(tensor, DramTensor) and tensor.symbol is not None
        b, symbol, dtype, taps = k.b, tensor.symbol, tensor.dtype, op_taps(op)
        self.taps, self.loaded = taps, taps - taps_made(taps, dtype_by_name(dtype).size_bytes, k.target)
        lanes = min(LANES, groups.groups)
        numbers = k.derive(f"{symbol}.lanes", [symbol], lambda v: lane_ops(v[0], lanes, groups.blocks, taps))
        name = f"{symbol}.diagonals{self.loaded}"
        diagonals = k.derive(name, [symbol], lambda v: diagonal_ops(v[0], lanes, groups.blocks, taps, self.loaded))
        self.ready = b.alloc((lanes, count, self.loaded, lanes), dtype, "sbuf", 1, "diagonals").view()
        transfer(b, b.load, self.ready, diagonals.view({1: (first, count)}))
        self.made: View | None = None
        if self.loaded == taps:
            return
        ones = k.derive(f"identity.{lanes}.{dtype}", [], lambda _: identity_ops(spec_of(op.w)[0], lanes))
        identity = b.alloc((lanes, lanes), dtype, "sbuf", 1, "identity").view()
        b.load(identity, ones.view())
        bare = b.alloc((lanes, count, taps - self.loaded), dtype, "sbuf", 1, "numbers").view()
        transfer(b, b.load, bare, numbers.view({1: (first, count), 2: (self.loaded, taps - self.loaded)}))
        self.made = b.alloc((lanes, count, taps - self.loaded, lanes), dtype, "sbuf", 1, "diagonals").view()
        with b.loop(count) as i:
            column = bare.at(1, i).insert(1, lanes)
            b.tensor_tensor(self.made.at(1, i), identity.insert(0, taps - self.loaded), column, "multiply")

    def stationary(self, block: Affine) -> Stationary:
        """The diagonals of one block, counted from the first."""

        def at(_tile: Affine, lanes: int, tap: int, start: Affine, outputs: int) -> View:
            if tap < self.loaded:
                view = self.ready.at(1, block).at(1, tap)
            else:
                assert self.made is not None
                view = self.made.at(1, block).at(1, tap - self.loaded)
            return view.slice(0, 0, lanes).slice(1, start, outputs)

        return at


def op_taps(op: ConvOp) -> int:
    """Taps of a filter."""
    taps = 1
    for size in shape_of(op.w)[2:]:
        taps *= size
    return taps


def blocks_at_once(op: ConvOp, groups: ConvGroups, k: Kernel) -> int:
    """Blocks of 128 channels whose diagonals are on chip together; 0 where there is no room for one."""
    row_bytes = op_taps(op) * min(LANES, groups.groups) * spec_of(op.w)[0].size_bytes
    sbuf = int(k.target.sbuf_bytes_per_partition)
    room = min(sbuf // SBUF_SHARE, (sbuf - k.resident_bytes) // 2)
    most = min(groups.blocks, room // row_bytes)
    return ceil(groups.blocks / ceil(groups.blocks / most)) if most else 0


def lane_ops(weight: SSAValue, lanes: int, blocks: int, taps: int) -> list[Operation]:
    """Graph ops from filters [C, 1, taps...] to [lane, block, tap], zeros for channels that there are not."""
    channels = shape_of(weight)[0]
    ops: list[Operation] = [ReshapeOp(weight, shape=(channels, taps))]
    missing = lanes * blocks - channels
    if missing:
        ops.append(PadOp(ops[-1].results[0], low=(0, 0), high=(missing, 0), mode=PadMode.CONSTANT, value=0.0))
    ops.append(ReshapeOp(ops[-1].results[0], shape=(blocks, lanes, taps)))
    ops.append(TransposeOp(ops[-1].results[0], permutation=(1, 0, 2)))
    return ops


def diagonal_ops(weight: SSAValue, lanes: int, blocks: int, taps: int, loaded: int) -> list[Operation]:
    """Graph ops from filters [C, 1, taps...] to [lane, block, tap, output lane] of the first `loaded` taps."""
    ops = lane_ops(weight, lanes, blocks, taps)
    ops.append(SliceOp(ops[-1].results[0], starts=(0, 0, 0), sizes=(lanes, blocks, loaded), steps=(1, 1, 1)))
    ops.append(ReshapeOp(ops[-1].results[0], shape=(lanes, blocks, loaded, 1)))
    numbers = ops[-1].results[0]
    ops += identity_ops(spec_of(weight)[0], lanes)
    ops.append(ReshapeOp(ops[-1].results[0], shape=(lanes, 1, 1, lanes)))
    ops.append(BinaryOp(BinaryKind.MUL, numbers, ops[-1].results[0]))
    return ops
