"""Concatenations of channels that stay in SBUF: what is put together is computed in its part of the result.

Given the ops of a core function, `joins` finds concatenations that can share one buffer: a concatenation, and those of
its first operands alone, as the layers of a densely connected block make them. `graph-layout` has a buffer reserved for
those that fit and marks them (`mark`, `parts_in_place`); kernels then leave their results there, and the concatenation
has nothing to do. An operand that cannot be left there is loaded into its part.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

from xdsl.dialects import func
from xdsl.dialects.builtin import DenseArrayBase, i64
from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import ConcatOp, ConstantOp, LayoutAttr, ReshapeOp, WeightOp, shape_of, spec_of
from passes.graph.aliases import kept_partition, readers
from passes.graph.conv_groups import LANES
from passes.graph.kernel_layouts import merge_halo, multiplied, reads, turns, writes
from passes.graph.residence import Halo, Interval, resident_bytes

CHANNELS = 1
"""The dimension that is put together, and that lies on partitions."""

IN_PLACE = "graph.in_place"
"""Attribute of a concatenation whose result stays on chip: for each operand 1 where it is computed there, else 0."""


@dataclass(frozen=True)
class Join:
    """`whole` puts `leaves` together; `shorter` are concatenations of the first of them."""

    whole: ConcatOp
    leaves: tuple[SSAValue, ...]
    shorter: tuple[ConcatOp, ...]

    @property
    def firsts(self) -> list[int]:
        """The first channel of each leaf."""
        return list(accumulate((shape_of(leaf)[CHANNELS] for leaf in self.leaves[:-1]), initial=0))

    @property
    def all(self) -> tuple[ConcatOp, ...]:
        """All concatenations that share the buffer."""
        return (*self.shorter, self.whole)


@dataclass(frozen=True)
class Place:
    """What a join needs and decides: the values that lie in its buffer, as they do there; its kernels; its memory."""

    in_place: tuple[bool, ...]
    layout: LayoutAttr
    values: tuple[SSAValue, ...]
    kernels: tuple[Operation, ...]
    interval: Interval


def leaves_of(op: ConcatOp) -> list[SSAValue]:
    """The operands of a concatenation, with those of one that is the first operand in its place."""
    first = op.xs[0].owner
    if isinstance(first, ConcatOp) and first.axis.value.data == CHANNELS:
        return [*leaves_of(first), *op.xs[1:]]
    return [*op.xs]


def joins(ops: Sequence[Operation]) -> list[Join]:
    """The concatenations of channels, those together that can share a buffer, in program order of the whole ones."""
    starting: dict[SSAValue, list[tuple[ConcatOp, list[SSAValue]]]] = defaultdict(list)
    for op in ops:
        if isinstance(op, ConcatOp) and op.axis.value.data == CHANNELS and len(shape_of(op.result)) > 2:
            leaves = leaves_of(op)
            if len(set(leaves)) == len(leaves):
                starting[leaves[0]].append((op, leaves))
    found: dict[Operation, Join] = {}
    for candidates in starting.values():
        left = sorted(candidates, key=lambda pair: len(pair[1]))
        while left:
            whole, leaves = left.pop()
            shorter = [(op, own) for op, own in left if own == leaves[: len(own)]]
            found[whole] = Join(whole, tuple(leaves), tuple(op for op, _ in shorter))
            left = [pair for pair in left if pair not in shorter]
    return [found[op] for op in ops if op in found]


def source_of(leaf: SSAValue) -> SSAValue:
    """What a kernel makes of which `leaf` is another name, with channels in the same dimension."""
    owner = leaf.owner
    if isinstance(owner, ReshapeOp) and kept_partition(owner, CHANNELS) == CHANNELS:
        return source_of(owner.x)
    return leaf


def lanes_allow(first: int, size: int) -> bool:
    """Whether engines write and read `size` channels from `first` on: whole tiles, or a part of one on a quadrant."""
    lane = first % LANES
    if lane == 0:
        return True
    return (size <= LANES // 4 and lane % (LANES // 4) == 0) or (size <= LANES // 2 and lane == LANES // 2)


def places(join: Join, number: Mapping[Operation, int], partition_of: Mapping[Operation, int]) -> list[Place]:
    """Where and for how long the values of a join could lie, the best choice first: with all leaves that can be
    computed there, or with those alone that nobody else reads.
    """
    alone = {leaf for leaf in join.leaves if all(use.operation in join.all for use in leaf.uses)}
    choices = [plan_place(join, number, partition_of, leaves) for leaves in ({*join.leaves}, alone)]
    return [place for place in choices if place is not None]


def marked_place(join: Join, number: Mapping[Operation, int]) -> Place:
    """The place of a join that has a buffer."""
    place = plan_place(join, number, {}, {leaf for leaf, there in zip(join.leaves, _flags(join), strict=True) if there})
    assert place is not None, "it had a place when it was marked"
    return place


def plan_place(
    join: Join, number: Mapping[Operation, int], partition_of: Mapping[Operation, int], wanted: Set[SSAValue]
) -> Place | None:
    """Where and for how long the values of a join lie, with those leaves in place that are `wanted` and can be; None
    where a reader cannot have them there, or nothing would be computed in place.
    """
    halo: Halo = ()
    kernels: dict[Operation, None] = {}
    last = 0
    inside = set[Operation](join.all)
    for op in join.all:
        for user, operand in readers(op.result, CHANNELS):
            if user in inside:
                continue
            needed = None if isinstance(user, func.ReturnOp) else reads(user, operand, CHANNELS)
            if needed is None or (operand is not op.result and any(any(pair) for pair in needed)):
                return None
            halo, last = merge_halo(halo, needed), max(last, number[user])
            if not multiplied(user, operand) and not turns(user):
                kernels[user] = None
    in_place, values = list[bool](), [op.result for op in join.all]
    start = number[join.shorter[0] if join.shorter else join.whole]
    for leaf, first in zip(join.leaves, join.firsts, strict=True):
        own = _leaf_readers(leaf, first, inside) if leaf in wanted else None
        in_place.append(own is not None)
        if own is None:
            continue
        source = source_of(leaf)
        owner = source.owner
        assert isinstance(owner, Operation)
        kernels[owner], start = None, min(start, number[owner])
        for user, needed in own:
            halo, last = merge_halo(halo, needed), max(last, number[user])
            kernels[user] = None
        values += _names(leaf, source)
    if not any(in_place) or any(partition_of.get(kernel, CHANNELS) != CHANNELS for kernel in kernels):
        return None
    halo = halo if any(any(pair) for pair in halo) else ()
    if halo and any(shape_of(value)[2:] != shape_of(join.whole.result)[2:] for value in values):
        return None
    dtype, shape = spec_of(join.whole.result)
    size = resident_bytes(shape, CHANNELS, halo, dtype.size_bytes)
    layout = LayoutAttr.resident(CHANNELS, halo)
    return Place(tuple(in_place), layout, tuple(values), tuple(kernels), Interval(start, last, size))


def _leaf_readers(leaf: SSAValue, first: int, inside: set[Operation]) -> list[tuple[Operation, Halo]] | None:
    """Who reads a leaf, besides the concatenations, and with which halo; None where it cannot be left in its part."""
    source = source_of(leaf)
    owner = source.owner
    if not isinstance(owner, Operation) or isinstance(owner, WeightOp | ConstantOp | ReshapeOp | ConcatOp):
        return None
    if not lanes_allow(first, shape_of(leaf)[CHANNELS]) or not writes(owner, CHANNELS) or len(owner.results) != 1:
        return None
    found: list[tuple[Operation, Halo]] = []
    for user, operand in readers(source, CHANNELS):
        if user in inside:
            continue
        needed = None if isinstance(user, func.ReturnOp) else reads(user, operand, CHANNELS)
        if needed is None or (source is not leaf and any(any(pair) for pair in needed)):
            return None
        found.append((user, needed))
    return found


def _names(leaf: SSAValue, source: SSAValue) -> list[SSAValue]:
    """`leaf`, `source` and what lies between them."""
    names = [leaf]
    while names[-1] is not source:
        owner = names[-1].owner
        assert isinstance(owner, ReshapeOp)
        names.append(owner.x)
    return names


def mark(join: Join, in_place: Sequence[bool]) -> None:
    """Write down that a join has a buffer, and which of its leaves are computed there."""
    join.whole.attributes[IN_PLACE] = DenseArrayBase.from_list(i64, [int(there) for there in in_place])


def marked(ops: Sequence[Operation]) -> list[Join]:
    """The joins that have a buffer."""
    return [join for join in joins(ops) if IN_PLACE in join.whole.attributes]


def computed_in_place(join: Join) -> list[tuple[SSAValue, int]]:
    """What kernels leave in the buffer of a join that has one, and from which channel on."""
    there = zip(join.leaves, join.firsts, _flags(join), strict=True)
    return [(source_of(leaf), first) for leaf, first, flag in there if flag]


def _flags(join: Join) -> list[bool]:
    flags = join.whole.attributes[IN_PLACE]
    assert isinstance(flags, DenseArrayBase)
    return [bool(flag) for flag in flags.get_values()]
