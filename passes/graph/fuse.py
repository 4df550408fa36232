"""`graph-fuse`: groups of ops that become one kernel.

Four kinds of group: an anchor (matmul, conv, conv_transpose) with the pointwise ops that consume its result, which
ride on the eviction from PSUM; pointwise ops that share a result shape, which become one sweep; sums of gathered
rows with the concatenation that joins them (`gathered_sums`); and little products that are filled up to be features
(`sample_products`). The grouping itself is a plain algorithm on numbered
nodes; the pass only applies it.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConcatOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    MatMulOp,
    ReshapeOp,
    SelectOp,
    UnaryOp,
    WeightOp,
    YieldOp,
    shape_of,
)
from neuron_dialects.neuron import core_functions
from neuron_dialects.remarks import listening, remark
from passes.graph.gathered_sums import joined_sums
from passes.graph.joined import CHANNELS
from passes.graph.part_sums import convolutions_of
from passes.graph.sample_products import sample_features

ANCHORS = (MatMulOp, ConvOp, ConvTransposeOp)
POINTWISE = (UnaryOp, BinaryOp, CompareOp, SelectOp, ClipOp, CastOp)
MAX_GROUP = 24
"""Most ops of a group: each intermediate is a tile in SBUF."""

LEAST_DEPTH = 1024
"""Terms of its sums from which on a product takes the tensor engine longer than passes over its result take others."""


def grow_group(
    seed: int, users: Callable[[int], Sequence[int]], eligible: Callable[[int], bool], limit: int = MAX_GROUP
) -> list[int]:
    """Nodes (numbered in program order) that can join `seed`'s group, in order.

    Users of members join in program order as long as they are eligible; the first user that is not ends the growth. So
    every user of the group that is not in it comes after the group's last member, and the group can stand where that
    member stands.
    """
    members = [seed]
    seen = {seed}
    pending = sorted(set(users(seed)))
    seen.update(pending)
    heapq.heapify(pending)
    while pending and len(members) < limit:
        node = heapq.heappop(pending)
        if not eligible(node):
            break
        members.append(node)
        for user in users(node):
            if user not in seen:
                seen.add(user)
                heapq.heappush(pending, user)
    return members


def split_bias(block: Block) -> None:
    """Turn the bias of every convolution into a pointwise add behind it, so that it can join the eviction."""
    for op in list(block.ops):
        if not isinstance(op, ConvOp | ConvTransposeOp) or op.bias is None:
            continue
        spatial = len(shape_of(op.result)) - 2
        bias = op.bias
        column = ReshapeOp(bias, shape=(*shape_of(bias), *(1,) * spatial))
        made = type(op).create(
            operands=[op.x, op.w],
            properties=_without_bias_segments(op),
            attributes=op.attributes,
            result_types=[op.result.type],
        )
        add = BinaryOp(BinaryKind.ADD, made.result, column.result)
        for new in (made, column, add):
            new.location = op.location
            block.insert_op_before(new, op)
        add.result.name_hint = op.result.name_hint
        op.result.replace_all_uses_with(add.result)
        block.erase_op(op)


def _without_bias_segments(op: ConvOp | ConvTransposeOp) -> dict[str, Attribute]:
    return {k: v for k, v in op.properties.items() if k != "operandSegmentSizes"}


@dataclass(frozen=True)
class GraphFusePass(ModulePass):
    """Outline the groups of core functions into `graph.fused`.

        %0 = graph.conv %x, %w ...
        %1 = graph.unary relu %0

    becomes

        %1 = graph.fused(%x, %w) {
          ^bb0(%a, %b):
            %0 = graph.conv %a, %b ...
            %1 = graph.unary relu %0
            graph.yield %1
        }
    """

    name = "graph-fuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fuse in every core function."""
        for function in core_functions(op):
            fuse_block(function.body.block)


def fuse_block(block: Block) -> None:
    """Fuse the groups of one block."""
    split_bias(block)
    ops = list(block.ops)
    number = {op: i for i, op in enumerate(ops)}
    taken: set[int] = set()

    def users(node: int) -> list[int]:
        return [number[use.operation] for result in ops[node].results for use in result.uses]

    groups: list[list[int]] = []
    for recognised in (sample_features, joined_sums):
        for op in reversed(ops):
            found = recognised(op)
            if found is not None and not taken & {number[member] for member in found.ops}:
                groups.append(sorted(number[member] for member in found.ops))
                taken.update(groups[-1])
    summed = {number[run[0]]: [number[member] for member in run[1:]] for run in _part_sums(ops)}
    taken_by_sums = {member for run in summed.values() for member in run}
    for kinds in (ANCHORS, POINTWISE):
        for seed, op in enumerate(ops):
            if not isinstance(op, kinds) or seed in taken or seed in taken_by_sums:
                continue
            shape = shape_of(op.results[0])

            def eligible(node: int, seed: int = seed, shape: tuple[int, ...] = shape) -> bool:
                candidate = ops[node]
                return (
                    node not in taken
                    and not any(number[product] > seed for product in _awaited_products(candidate))
                    and isinstance(candidate, POINTWISE)
                    and shape_of(candidate.results[0]) == shape
                    and _joinable(candidate)
                )

            if not _joinable(op):
                continue
            run = summed.get(seed, [])
            members = grow_group(run[-1] if run else seed, users, eligible)
            if run:
                members = [seed, *run[:-1], *members]
            if isinstance(op, ConvOp | ConvTransposeOp) and not run:
                members = members[: _joined_member([ops[i] for i in members]) + 1]
            if len(members) > 1 and kinds is ANCHORS and not run:
                absorbed = [number[made] for made in _absorbed([ops[i] for i in members]) if number[made] not in taken]
                members = [seed, *absorbed, *members[1:]]
            if len(members) > 1:
                groups.append(members)
                taken.update(members)
    if listening():
        for members in groups:
            kinds = ", ".join(ops[i].name for i in members)
            remark("passed", "fuse", f"{kinds} become one kernel", op=ops[members[0]], operators=len(members))
        for node, op in enumerate(ops):
            # A cast rides on the load of the layer that reads it.
            if isinstance(op, (*ANCHORS, *POINTWISE)) and not isinstance(op, CastOp) and node not in taken:
                _tell_unfused(op)
    for members in groups:
        outline(block, [ops[i] for i in members])


def _joined_member(members: Sequence[Operation]) -> int:
    """The first member whose result is put together with other channels, or the last one.

    What a kernel makes alone can lie where the whole does (`joined.py`); in a group with more it would be moved there.
    """
    for number, op in enumerate(members):
        users = [use.operation for use in op.results[0].uses]
        if any(isinstance(user, ConcatOp) and user.axis.value.data == CHANNELS for user in users):
            return number
    return len(members) - 1


def _part_sums(ops: Sequence[Operation]) -> list[list[Operation]]:
    """The convolutions and additions of each sum that is one kernel."""
    runs = [run for op in ops if (run := convolutions_of(op)) is not None]
    inside = {member for run in runs for member in run[:-1]}
    return [run for run in runs if run[-1] not in inside]


def _tell_unfused(op: Operation) -> None:
    """Say why nothing rides on an operator, and it on nothing."""
    shape = shape_of(op.results[0])
    users = [use.operation for use in op.results[0].uses]
    others = next((user for user in users if not isinstance(user, POINTWISE)), None)
    suggestion = None
    if not _joinable(op):
        reason = "it is a scalar, or has no elements"
    elif others is not None:
        reason = f"{others.name} reads it, which is not pointwise"
    elif users and shape_of(users[0].results[0]) != shape:
        reason = f"{users[0].name} makes shape {shape_of(users[0].results[0])} of its shape {shape}"
        suggestion = "broadcast behind the pointwise operators"
    else:
        reason = f"groups around it are full ({MAX_GROUP} operators), or end in front of it"
    message = f"{op.name} stays a kernel of its own"
    remark("missed", "fuse", message, op=op, reason=reason, suggestion=suggestion)


def _absorbed(members: Sequence[Operation]) -> list[Operation]:
    """Products with a row of weights, as a residual is scaled, that only a sum behind the anchor reads.

    They need a pass over the tensor either way; in the group no tensor of them is kept. A short product would wait for
    that pass: there it is made behind what makes the residual.
    """
    inside, found = set(members), list[Operation]()
    anchor = members[0]
    short = isinstance(anchor, MatMulOp) and shape_of(anchor.a)[-1] < LEAST_DEPTH
    for op in members[1:]:
        for operand in op.operands:
            owner = operand.owner
            if not isinstance(owner, BinaryOp) or owner.kind.data != BinaryKind.MUL or owner in inside:
                continue
            rows = [isinstance(value.owner, WeightOp) and len(shape_of(value)) == 1 for value in owner.operands]
            if sum(rows) != 1 or not operand.has_one_use() or shape_of(operand) != shape_of(op.results[0]):
                continue
            if short:
                _make_early(owner, owner.operands[rows.index(True)], owner.operands[rows.index(False)])
            else:
                found.append(owner)
    return found


def _make_early(op: Operation, weight: SSAValue, scaled: SSAValue) -> None:
    """Move a product with a row of weights behind what makes its other operand, where no group will do that."""
    block, made, row = op.parent_block(), scaled.owner, weight.owner
    if not isinstance(made, Operation) or isinstance(made, (*ANCHORS, *POINTWISE)):
        return
    assert block is not None
    assert isinstance(row, Operation)
    op.detach()
    block.insert_op_after(op, made)
    if row is not (first := block.first_op) and first is not None:
        row.detach()
        block.insert_op_before(row, first)


def sink_broadcast_adds(block: Block) -> None:
    """(x + b) + r  ->  (x + r) + b, where b is broadcast and r is not, and nobody else reads x + b.

    The two streams of x + r are then read from PSUM and SBUF, which costs half of reading both from SBUF, and b ends up
    beside an activation, which adds it for nothing.
    """
    for outer in list(block.ops):
        if not isinstance(outer, BinaryOp) or outer.kind.data != BinaryKind.ADD:
            continue
        for inner_value, other in ((outer.a, outer.b), (outer.b, outer.a)):
            inner = inner_value.owner
            if not isinstance(inner, BinaryOp) or inner.kind.data != BinaryKind.ADD or not inner_value.has_one_use():
                continue
            full, broadcast = (inner.a, inner.b) if shape_of(inner.a) == shape_of(inner.result) else (inner.b, inner.a)
            if shape_of(broadcast) == shape_of(inner.result) or shape_of(other) != shape_of(outer.result):
                continue
            first = BinaryOp(BinaryKind.ADD, full, other)
            second = BinaryOp(BinaryKind.ADD, first.result, broadcast)
            first.location, second.location = outer.location, inner.location
            block.insert_op_before(first, outer)
            block.insert_op_before(second, outer)
            outer.result.replace_all_uses_with(second.result)
            block.erase_op(outer)
            block.erase_op(inner)
            break


def _awaited_products(op: Operation) -> list[Operation]:
    """The products of matrices that a sum adds and nothing else reads: the sum rides on the last of them.

    What was added before is on chip then, and the earlier products need not wait.
    """
    if not isinstance(op, BinaryOp) or op.kind.data != BinaryKind.ADD:
        return []
    owners = [value.owner for value in op.operands if value.has_one_use()]
    return [owner for owner in owners if isinstance(owner, MatMulOp) and len(shape_of(owner.result)) == 2]


def _joinable(op: Operation) -> bool:
    """Scalars and empty tensors stay outside groups: there is nothing to sweep."""
    shape = shape_of(op.results[0])
    return len(shape) > 0 and all(shape)


def outline(block: Block, members: list[Operation]) -> None:
    """Move `members` into a `graph.fused` at the place of the last one."""
    inside = set(members)
    inputs = list(
        dict.fromkeys(
            v for op in members for v in op.operands if not isinstance(v.owner, Operation) or v.owner not in inside
        )
    )
    outputs = [r for op in members for r in op.results if any(use.operation not in inside for use in r.uses)]
    body = Block(arg_types=[v.type for v in inputs])
    mapping: dict[SSAValue, SSAValue] = dict(zip(inputs, body.args, strict=True))
    for argument, value in zip(body.args, inputs, strict=True):
        argument.name_hint = value.name_hint
    for op in members:
        clone = op.clone(mapping)
        clone.location = op.location
        body.add_op(clone)
    terminator = YieldOp(*(mapping[v] for v in outputs))
    terminator.location = members[-1].location
    body.add_op(terminator)
    sink_broadcast_adds(body)
    fused = FusedOp(inputs, [v.type for v in outputs], Region(body))
    fused.location = members[0].location
    block.insert_op_after(fused, members[-1])
    for old, new in zip(outputs, fused.results, strict=True):
        new.name_hint = old.name_hint
        old.replace_uses_with_if(new, lambda use: use.operation is not fused and use.operation not in inside)
    for op in reversed(members):
        block.erase_op(op, safe_erase=True)
