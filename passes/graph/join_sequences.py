"""`graph-join-sequences`: attention over many short sequences takes several of them as one.

Given core functions with attentions of many sequences that are much shorter than the partitions are many, such as the
windows of an image, leaves the attentions with as few sequences, as long as fit 128 partitions. A mask hides what is
of another sequence. It is a weight, with what masks the model has for sequences, if these are known: one for all of
them, or some that the batch repeats. The instructions for a tile of queries are then as many as before, for several
sequences at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.transforms.dead_code_elimination import dce

from neuron_dialects.dtypes import BF16, F32
from neuron_dialects.graph import (
    AttentionOp,
    BinaryKind,
    BinaryOp,
    BroadcastOp,
    ConcatOp,
    ConstantOp,
    PadOp,
    ReshapeOp,
    SliceOp,
    WeightOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.attention import HIDDEN
from neuron_dialects.graph.work import MODEL_MACS, model_macs
from neuron_dialects.neuron import core_functions
from passes.graph.conv_groups import LANES
from passes.graph.fold_weights import Recipes
from passes.graph.weight_values import is_known

LEAST_SEQUENCES = 8
"""Fewer sequences are left as they are."""

LEAST_TOGETHER = 4
"""Fewer sequences, joined or not, are worked on one by one."""

MOST_MASK_BYTES = 4 * 1024 * 1024
"""Bytes that the mask of joined sequences may take: each attention stores one."""

LOWEST = -1e28
"""What masks are raised to: a query that its own mask hides all keys from must not see those of other sequences
instead. No score counts beside it, so that such a query sees all its keys alike, as with any lower number."""


@dataclass(frozen=True)
class GraphJoinSequencesPass(ModulePass):
    """Join the short sequences of attentions.

        %0 = graph.attention %q, %k, %v, %m heads 3 kv_heads 3 scale 0.25
          : (tensor<64x49x96xbf16>, ..., tensor<1x3x49x49xbf16>) -> tensor<64x49x96xbf16>

    becomes, where %m is a weight or computed of weights,

        %q2 = graph.reshape %q : (tensor<64x49x96xbf16>) -> tensor<32x98x96xbf16>
        ...
        %m2 = graph.weight @m$concat : tensor<1x3x98x98xbf16>
        %1 = graph.attention %q2, %k2, %v2, %m2 heads 3 kv_heads 3 scale 0.25
          : (tensor<32x98x96xbf16>, ..., tensor<1x3x98x98xbf16>) -> tensor<32x98x96xbf16>
        %0 = graph.reshape %1 : (tensor<32x98x96xbf16>) -> tensor<64x49x96xbf16>
    """

    name = "graph-join-sequences"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Join in every core function."""
        found = [
            (attention, function.body.block)
            for function in core_functions(op)
            for attention in function.body.block.ops
            if isinstance(attention, AttentionOp)
        ]
        if not found:
            return
        recipes = Recipes(op)
        for attention, block in found:
            _join(attention, block, recipes)
        dce(op)


def sequences_together(length: int, sequences: int, period: int) -> int:
    """How many of `sequences` sequences of `length` positions are taken as one, if masks repeat after `period`."""
    shared = gcd(sequences, period) if period > 1 else sequences
    return max(n for n in range(1, max(1, LANES // length) + 1) if shared % n == 0)


def _join(op: AttentionOp, block: Block, recipes: Recipes) -> None:
    (sequences, length, _), keys, dtype = spec_of(op.q)[1], shape_of(op.k)[1], spec_of(op.q)[0]
    if not length or length != keys or sequences < LEAST_SEQUENCES or op.causal or dtype not in (F32, BF16):
        return
    made: list[Operation] = []
    mask = _mask(op, made)
    together = 1 if mask is None else _together(op, mask)
    if mask is None or together == 1:
        for unused in reversed(made):
            unused.erase()
        return
    if op.mask is not None:
        lowest = _added(made, ConstantOp(LOWEST, spec_of(mask)[0], (1, 1, 1, 1)))
        mask = _added(made, BinaryOp(BinaryKind.MAX, mask, lowest))
    root = _beside(made, mask, together)
    _insert(block, made, op)
    weight = WeightOp(recipes.add_of(root), root.results[0].type)
    q, k, v = (_reshaped(x, (sequences // together, together * length, shape_of(x)[2])) for x in (op.q, op.k, op.v))
    new = AttentionOp(
        q.result, k.result, v.result, weight.result, heads=op.heads.value.data, kv_heads=op.kv_heads.value.data,
        scale=op.scale.value.data, accumulate_f32=spec_of(op.result)[0] is not dtype,
    )  # fmt: skip
    new.attributes |= {**op.attributes, MODEL_MACS: IntegerAttr(model_macs(op), i64)}
    apart = ReshapeOp(new.result, shape_of(op.result))
    _insert(block, [weight, q, k, v, new, apart], op)
    apart.result.name_hint = op.result.name_hint
    op.result.replace_all_uses_with(apart.result)
    block.erase_op(op)


def _mask(op: AttentionOp, made: list[Operation]) -> SSAValue | None:
    """The mask of the sequences, or of as many as it is known to repeat after, as [n, heads or 1, length, length]; None
    where it is not known. New operators: `made`.
    """
    length = shape_of(op.q)[1]
    if op.mask is None:
        return _added(made, ConstantOp(0.0, spec_of(op.q)[0], (1, 1, length, length)))
    short = _repeated_part(op.mask, made)
    return None if short is None or not is_known(short) else _whole(made, short, length)


def _together(op: AttentionOp, mask: SSAValue) -> int:
    """How many sequences of an attention are taken as one; 1 where their mask would be too large."""
    sequences, length, _ = shape_of(op.q)
    dtype, (period, heads, *_) = spec_of(mask)
    together = sequences_together(length, sequences, period)
    joined = max(1, period // together) * heads * (together * length) ** 2 * dtype.size_bytes
    return 1 if sequences % period or joined > MOST_MASK_BYTES else together


def _repeated_part(mask: SSAValue, made: list[Operation]) -> SSAValue | None:
    """What a mask [B, ...] repeats along its first dimension; None where that cannot be told. New operators: `made`."""
    owner = mask.owner
    if len(shape_of(mask)) < 4 or shape_of(mask)[0] == 1:
        return mask
    if isinstance(owner, BinaryOp) and owner.kind.data is BinaryKind.ADD:
        a, b = _repeated_part(owner.a, made), _repeated_part(owner.b, made)
        if a is None or b is None:
            return None
        lengths = {shape_of(x)[0] for x in (a, b) if len(shape_of(x)) == 4} - {1}
        return _added(made, BinaryOp(BinaryKind.ADD, a, b)) if len(lengths) < 2 else None
    if isinstance(owner, ReshapeOp) and isinstance(repeated := owner.x.owner, BroadcastOp):
        before, after = shape_of(repeated.x), shape_of(owner.x)
        if before[:1] == (1,) and after[1:] == before[1:] and shape_of(mask)[1:] == before[2:]:
            return _added(made, ReshapeOp(repeated.x, before[1:]))
    return mask


def _whole(made: list[Operation], mask: SSAValue, length: int) -> SSAValue:
    """`mask` as [n, heads or 1, length, length]."""
    shape = shape_of(mask)
    shape = (*(1 for _ in range(4 - len(shape))), *shape)
    value = mask if shape == shape_of(mask) else _added(made, ReshapeOp(mask, shape))
    full = (*shape[:2], length, length)
    return value if shape == full else _added(made, BroadcastOp(value, full))


def _beside(made: list[Operation], mask: SSAValue, together: int) -> Operation:
    """Masks [n, heads, s, s] of `together` sequences as one [n / together, heads, together * s, together * s]."""
    period, heads, length, _ = shape_of(mask)
    groups = max(1, period // together)
    rows: list[SSAValue] = []
    for number in range(together):
        part = mask
        if period > 1:
            grouped = _added(made, ReshapeOp(mask, (groups, together, heads, length, length)))
            cut = SliceOp(grouped, (0, number, 0, 0, 0), (groups, 1, heads, length, length), (1,) * 5)
            part = _added(made, ReshapeOp(_added(made, cut), (groups, heads, length, length)))
        low, high = (0, 0, 0, number * length), (0, 0, 0, (together - 1 - number) * length)
        rows.append(_added(made, PadOp(part, low, high, value=HIDDEN)))
    made.append(root := ConcatOp(rows, 2))
    return root


def _added(made: list[Operation], op: Operation) -> SSAValue:
    """The result of `op`, which joins `made`."""
    made.append(op)
    return op.results[0]


def _reshaped(value: SSAValue, shape: tuple[int, ...]) -> ReshapeOp:
    """`value` in another shape, past reshapes that it comes from."""
    while isinstance(owner := value.owner, ReshapeOp):
        value = owner.x
    assert prod(shape_of(value)) == prod(shape)
    return ReshapeOp(value, shape)


def _insert(block: Block, made: Sequence[Operation], before: Operation) -> None:
    for op in made:
        op.location = before.location
        block.insert_op_before(op, before)
