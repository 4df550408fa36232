"""Sums of gathered rows, as recommenders look up their embeddings: which operators make them, as plain recognition.

    sums[s, :] = sum over c of  table[indices[s, c], :]

`gathered_sum` finds the gather, the reduction and the reshapes around them above a value; `joined_sums` finds a
concatenation of such sums. `graph-fuse` makes one kernel of either, `graph-layout` and the kernel ask what it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import (
    ConcatOp,
    ConstantOp,
    FusedOp,
    GatherOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    YieldOp,
    ints,
    shape_of,
    spec_of,
)
from passes.graph.conv_groups import LANES

MOST_BYTES = 16 * 1024
"""Bytes of a lane that the gathered rows of a sample may take."""

MOST_JOINED_BYTES = 48 * 1024
"""Bytes of a lane that the sums of a sample, and what they are joined with, may take."""


@dataclass(frozen=True)
class GatheredSum:
    """Rows of `table` [rows, width] that `indices` (samples * count of them) name, summed over the `count` of a sample.

    `ops`: what computes it, in program order; nothing else reads what is between them.
    """

    table: SSAValue
    indices: SSAValue
    samples: int
    count: int
    width: int
    ops: tuple[Operation, ...]


@dataclass(frozen=True)
class JoinedSums:
    """What a kernel of gathered sums makes, sample by sample: sums and other values [samples, ...], side by side."""

    result: SSAValue
    parts: tuple[GatheredSum | SSAValue, ...]
    ops: tuple[Operation, ...]

    @property
    def samples(self) -> int:
        """Samples, which lie on partitions."""
        return shape_of(self.result)[0]


def gathered_sum(value: SSAValue) -> GatheredSum | None:
    """The sum of gathered rows that `value` [samples, ...] is, whatever reads it; None for anything else."""
    ops: list[Operation] = []
    shape, count = shape_of(value), 1
    rows = _through_reshapes(value, ops)
    if isinstance(reduction := rows.owner, ReduceOp) and (rows is value or rows.has_one_use()):
        reduced = shape_of(reduction.x)
        if reduction.kind.data is not ReduceKind.SUM or ints(reduction.axes) != (1,) or len(reduced) != 3:
            return None
        ops.append(reduction)
        count, rows = reduced[1], _through_reshapes(reduction.x, ops)
    gather = rows.owner
    if not shape or not isinstance(gather, GatherOp) or not (rows is value or rows.has_one_use()):
        return None
    table, samples = shape_of(gather.data), shape[0]
    if len(table) != 2 or gather.axis.value.data != 0 or not spec_of(gather.data)[0].is_float:
        return None
    ops.append(gather)
    indices = _through_reshapes(gather.indices, ops)
    if prod(shape_of(indices)) != samples * count or prod(shape) != samples * table[1]:
        return None
    found = GatheredSum(gather.data, indices, samples, count, table[1], tuple(reversed(ops)))
    return found if _pays(found) else None


def _through_reshapes(value: SSAValue, ops: list[Operation]) -> SSAValue:
    """What `value` is a reshape of, where nothing else reads it; the reshapes are added to `ops`."""
    while isinstance(value.owner, ReshapeOp) and value.has_one_use():
        ops.append(value.owner)
        value = value.owner.x
    return value


def _pays(found: GatheredSum) -> bool:
    """Whether lanes of samples fetch their rows in hardly more transfers than lanes of indices would."""
    row_bytes = found.width * spec_of(found.table)[0].size_bytes
    if isinstance(found.indices.owner, ConstantOp) or found.count * row_bytes > MOST_BYTES:
        return False
    return ceil(found.samples / LANES) * found.count <= 2 * ceil(found.samples * found.count / LANES)


def joined_sums(op: Operation) -> JoinedSums | None:
    """The sums that `op` joins, a concatenation of some or the reduction that makes one; None for anything else."""
    if isinstance(op, ReduceOp):
        found = gathered_sum(op.result)
        return None if found is None else JoinedSums(op.result, (found,), found.ops)
    if not isinstance(op, ConcatOp) or op.axis.value.data != 1:
        return None
    parts = tuple((gathered_sum(x) if x.has_one_use() else None) or x for x in op.xs)
    sums = [part for part in parts if isinstance(part, GatheredSum)]
    dtype, shape = spec_of(op.result)
    if not sums or prod(shape[1:]) * dtype.size_bytes > MOST_JOINED_BYTES:
        return None
    return JoinedSums(op.result, parts, (*(inner for part in sums for inner in part.ops), op))


def sums_of_group(op: FusedOp | Sequence[Operation]) -> JoinedSums | None:
    """What a fused group of gathered sums makes; None for other groups."""
    ops = list(op.body.block.ops) if isinstance(op, FusedOp) else list(op)
    inner = [o for o in ops if not isinstance(o, YieldOp)]
    if not any(isinstance(o, GatherOp) for o in inner):
        return None
    return joined_sums(inner[-1])
