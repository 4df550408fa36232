"""Attention as one operator: scores, softmax and context over packed heads."""

from __future__ import annotations

from math import isfinite

from xdsl.dialects.builtin import BoolAttr, FloatAttr, IntegerAttr, TensorType
from xdsl.irdl import irdl_op_definition, operand_def, opt_operand_def, prop_def, result_def, traits_def
from xdsl.traits import Pure

from neuron_dialects.dtypes import F32
from neuron_dialects.graph.assembly import DIRECTIVES
from neuron_dialects.graph.attrs import f32_attr, flag_attr, int_attr
from neuron_dialects.graph.base import (
    GRAPH_OPTIONS,
    ComputeOp,
    TensorSpec,
    Value,
    require_dtype,
    require_same_dtype,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.shapes import ShapeError, text

SCORE_SHIFT = "graph.score_shift"
"""Attribute: see `AttentionOp`."""

SEES_KEYS = "graph.sees_keys"
"""Attribute: see `AttentionOp`."""

LEAST_SEEN = -1e4
"""What a mask adds at least to the score of a key that a query sees."""

HIDDEN = -1e30
"""What is added to the scores of keys that a query is not to see."""


@irdl_op_definition
class AttentionOp(ComputeOp):
    """`graph.attention %q, %k, %v, %mask heads 12 kv_heads 12 scale 0.125 causal`: softmax(scale q k^T + mask) v.

    q: [B, Sq, heads * d]; k: [B, Sk, kv_heads * d]; v: [B, Sk, kv_heads * e]: the heads lie side by side, as
    projections leave them. mask: f32 or q's type, broadcast to [B, heads, Sq, Sk], added to the scaled scores;
    optional. Of a mask of n sequences, n a divisor of B, sequence b sees the one with number b mod n. With `causal`,
    query i sees the keys up to i + Sk - Sq alone. Query head h reads key head h // (heads / kv_heads). result:
    [B, Sq, heads * e], of q's element type, or f32 where that is narrower. Scores and softmax are f32; probabilities
    are rounded to v's type before they are multiplied. An attribute `graph.score_shift = 16.0 : f32` promises that
    powers of scores less this number are as good as those less the greatest score of each query: none overflows, and
    the greatest of each query does not vanish. An attribute `graph.sees_keys` promises that the mask hides no query all
    keys: it adds -1e4 or more to one of its scores at least.
    """

    name = "graph.attention"
    q = operand_def(TensorType)
    k = operand_def(TensorType)
    v = operand_def(TensorType)
    mask = opt_operand_def(TensorType)
    heads = prop_def(IntegerAttr)
    kv_heads = prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    causal = prop_def(BoolAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$q `,` $k `,` $v (`,` $mask^)? custom<Integer>($heads) custom<Integer>($kv_heads) custom<Number>($scale)"
        " custom<Flag>($causal) attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        q: Value,
        k: Value,
        v: Value,
        mask: Value | None = None,
        *,
        heads: int,
        kv_heads: int,
        scale: float,
        causal: bool = False,
        accumulate_f32: bool = False,
    ) -> None:
        operands = [q, k, v, *([] if mask is None else [mask])]
        spec = self.infer([spec_of(value) for value in operands], heads, kv_heads, accumulate_f32)
        super().__init__(
            operands=[q, k, v, mask],
            properties={
                "heads": int_attr(heads),
                "kv_heads": int_attr(kv_heads),
                "scale": f32_attr(scale),
                "causal": flag_attr(causal),
            },
            result_types=[tensor_type(*spec)],
        )

    @staticmethod
    def infer(operands: list[TensorSpec], heads: int, kv_heads: int, accumulate_f32: bool = False) -> TensorSpec:
        """Result of attention over `operands`: q, k, v and possibly the mask. ShapeError where they do not fit."""
        (dtype, q), (_, k), (_, v), *mask = operands
        require_dtype(dtype.is_float, "attention", dtype)
        for other, _ in operands[1:3]:
            require_same_dtype(dtype, other)
        if not len(q) == len(k) == len(v) == 3:
            raise ShapeError(f"attention takes tensors of rank 3, not {text(q)}, {text(k)}, {text(v)}")
        if heads < 1 or kv_heads < 1 or heads % kv_heads:
            raise ShapeError(f"{heads} heads do not share {kv_heads} key heads evenly")
        if q[2] % heads or k[2] % kv_heads or v[2] % kv_heads or q[2] // heads != k[2] // kv_heads:
            raise ShapeError(f"{text(q)}, {text(k)}, {text(v)} are not {heads} and {kv_heads} heads of one size")
        if not q[0] == k[0] == v[0] or k[1] != v[1]:
            raise ShapeError(f"batch or sequence lengths of {text(q)}, {text(k)}, {text(v)} differ")
        for mask_dtype, shape in mask:
            require_dtype(mask_dtype in (dtype, F32), "the mask of attention", mask_dtype)
            wanted = (q[0], heads, q[1], k[1])
            repeats = len(shape) == 4 and shape[0] > 0 and q[0] % shape[0] == 0
            own = (
                zip(shape[1:], wanted[1:], strict=True)
                if repeats
                else zip(shape, wanted[4 - len(shape) :], strict=False)
            )
            if len(shape) > 4 or any(n not in (1, w) for n, w in own):
                raise ShapeError(f"mask {text(shape)} does not broadcast to {text(wanted)}")
        narrow = accumulate_f32 and dtype is not F32
        return (F32 if narrow else dtype), (q[0], q[1], heads * (v[2] // kv_heads))

    def inferred(self) -> TensorSpec:
        operands = [spec_of(value) for value in self.operands]
        return self.infer(operands, self.heads.value.data, self.kv_heads.value.data, spec_of(self.result)[0] is F32)

    @property
    def score_shift(self) -> float | None:
        """What scores may be lowered by instead of by the greatest of each query, if any number is known to do."""
        shift = self.attributes.get(SCORE_SHIFT)
        return float(shift.value.data) if isinstance(shift, FloatAttr) and isfinite(shift.value.data) else None

    @property
    def mask_period(self) -> int:
        """After how many sequences the mask repeats; 1 where it is the same for all, or there is none."""
        shape = () if self.mask is None else spec_of(self.mask)[1]
        return shape[0] if len(shape) == 4 else 1

    @property
    def head_size(self) -> int:
        """Elements of one query or key head."""
        return spec_of(self.q)[1][2] // self.heads.value.data

    @property
    def value_size(self) -> int:
        """Elements of one value head."""
        return spec_of(self.v)[1][2] // self.kv_heads.value.data


def packs_heads(size: int) -> bool:
    """Whether heads of `size` elements lie on partitions so that each starts on a quadrant and no tile cuts one."""
    return size % 128 == 0 or size in (32, 64)


def has_kernel(size: int) -> bool:
    """Whether cores have a kernel for heads of `size` elements: one tile of 128 partitions at most, or whole ones."""
    return size <= 128 or size % 128 == 0
