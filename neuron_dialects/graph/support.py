"""What a core can run: the one place that says which operators, on which types and shapes, need the host.

`core_support` is asked about an operator of the graph level and answers None, or the reason as people read it in the
compile report. Everything that is not refused here must have a kernel template.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, Operation

from neuron_dialects.dtypes import F32, I64, DType, dtype_by_name, dtype_of_or_none
from neuron_dialects.graph.attention import AttentionOp, has_kernel
from neuron_dialects.graph.attrs import BinaryKind, OpaqueType, ReduceKind, ints
from neuron_dialects.graph.base import ComputeOp, shape_of, spec_of
from neuron_dialects.graph.elementwise import BinaryOp, CompareOp
from neuron_dialects.graph.linear import ConvOp, ConvTransposeOp, MatMulOp, PoolOp
from neuron_dialects.graph.movement import GatherOp, ScatterOp
from neuron_dialects.graph.recurrent import RecurrentOp
from neuron_dialects.graph.reduction import ReduceOp
from neuron_dialects.graph.shapes import element_count, text, window_extent
from neuron_dialects.graph.source import ConstantOp, WeightOp
from neuron_dialects.graph.structure import FusedOp, OnnxNodeOp, YieldOp
from neuron_dialects.target import Target

HOST_DTYPES = tuple(dtype_by_name(name) for name in ("f64", "ui64", "ui32", "f8e3m4", "f8e4m3", "f8e4m3fn", "f8e5m2"))
"""Element types that no core has. i64 is not among them: cores compute it as i32."""

EXACT_INTEGERS = 2**24
"""Engines add in fp32, which holds every integer up to here."""

I32_LIMITS = (-(2**31), 2**31 - 1)
"""Least and largest number that a core's integers hold."""


def core_support(op: Operation, target: Target) -> str | None:
    """None if a core of `target` can run an operator of the graph level, else why it cannot."""
    match op:
        case FusedOp():
            return next((reason for inner in op.body.block.ops if (reason := core_support(inner, target))), None)
        case OnnxNodeOp():
            return f"cores have no operator {op.domain.data + '.' if op.domain.data else ''}{op.op_type.data}"
        case ConstantOp() | WeightOp() | YieldOp():
            return None
        case ComputeOp():
            for type_ in (*op.operand_types, *op.result_types):
                if (reason := _unsupported_type(type_)) is not None:
                    return reason
            return next((reason for check in CHECKS.get(type(op), ()) if (reason := check(op, target))), None) or (
                _unfit_constant(op)
            )
        case _:
            return f"{op.name} is not an operator of the graph level"


def fits_i32(op: ConstantOp) -> bool:
    """Whether a core's integers hold every element of a constant; true for what is not i64."""
    if spec_of(op.result)[0] is not I64:
        return True
    values = op.array()
    return values.size == 0 or (I32_LIMITS[0] <= values.min() and values.max() <= I32_LIMITS[1])


def saturates_constants(op: Operation) -> bool:
    """Whether a constant beyond 32 bits can be replaced by the nearest one that fits: the operator only compares it."""
    if isinstance(op, BinaryOp):
        return op.kind.data in (BinaryKind.MAX, BinaryKind.MIN)
    return isinstance(op, CompareOp)


def _unsupported_type(type_: Attribute) -> str | None:
    if isinstance(type_, OpaqueType) or not isinstance(type_, TensorType):
        return f"cores have no values of type {type_}"
    dtype = dtype_of_or_none(type_)
    if dtype is None or dtype in HOST_DTYPES:
        element = type_.element_type
        name = element.spelling.data if isinstance(element, OpaqueType) else str(dtype or element)
        return f"cores have no element type {name}"
    shape = type_.get_shape()
    if any(dim < 0 for dim in shape):
        return f"the shape of {type_} is not static"
    if element_count(shape) == 0:
        return f"a tensor of {text(shape)} has no elements"
    return None


def _unfit_constant(op: Operation) -> str | None:
    """A constant or weight among the operands that 32 bits do not hold, where that makes a difference."""
    for operand in op.operands:
        owner = operand.owner
        if isinstance(owner, WeightOp) and owner.bounds is not None and spec_of(owner.result)[0] is I64:
            what, bounds = "weight's value", owner.bounds
        elif isinstance(owner, ConstantOp) and not fits_i32(owner):
            values = owner.array()
            what, bounds = "constant", (int(values.min()), int(values.max()))
            if _indifferent(op, *bounds):
                continue
        else:
            continue
        wrong = next((bound for bound in bounds if not I32_LIMITS[0] <= bound <= I32_LIMITS[1]), None)
        if wrong is not None:
            return f"the {what} {wrong} does not fit the 32-bit integers of a core"
    return None


def _indifferent(op: Operation, low: int, high: int) -> bool:
    """Whether an operator gives the same with the nearest numbers of 32 bits: no result may be the number itself."""
    if isinstance(op, BinaryOp) and op.kind.data is BinaryKind.MAX:
        return high <= I32_LIMITS[1]
    if isinstance(op, BinaryOp) and op.kind.data is BinaryKind.MIN:
        return low >= I32_LIMITS[0]
    return isinstance(op, CompareOp)


def _multiplied(op: Any, target: Target) -> str | None:
    return _product_of(spec_of(op.operands[0])[0], target)


def _recurrence(op: Any, target: Target) -> str | None:
    """The state is cast to the type of r."""
    return _product_of(spec_of(op.r)[0], target)


def _product_of(dtype: DType, target: Target) -> str | None:
    """Floats narrower than f32 are multiplied as they are; f32 is cast where a target does not multiply it."""
    if dtype is F32 or not dtype.is_float or dtype.name in target.matmul_dtypes:
        return None
    return f"{target.name} does not multiply {dtype}"


def pool_window_limit(target: Target) -> int:
    """Most input positions that a pool window spans: a partition of SBUF holds four tiles of f32.

    These are the input, twice, and what two passes leave.
    """
    return int(target.sbuf_bytes_per_partition) // 4 // 4


def _windowed(op: Any, target: Target) -> str | None:
    window = prod(
        window_extent(size, dilation) for size, dilation in zip(ints(op.kernel), ints(op.dilations), strict=True)
    )
    limit = pool_window_limit(target)
    return f"a pool window spans {window} elements, limit {limit}" if window > limit else None


def _reduced(op: Any, _: Target) -> str | None:
    kind = op.kind.data
    dtype = spec_of(op.result)[0]
    return f"{kind} of integers is not exact on a core" if kind is ReduceKind.L2 and dtype.is_integer else None


def _indexed(op: Any, _: Target) -> str | None:
    owner = op.indices.owner
    if isinstance(owner, ConstantOp) and owner.is_splat:
        return None
    rows = shape_of(op.data)[op.axis.value.data]
    return f"{rows} rows exceed the {EXACT_INTEGERS} that cores count to" if rows > EXACT_INTEGERS else None


def attention_key_limit(target: Target) -> int:
    """Most keys of an attention: a partition of SBUF holds rows of f32 scores and of probabilities, twice each."""
    return int(target.sbuf_bytes_per_partition) // 2 // 16


def _attended(op: Any, target: Target) -> str | None:
    keys, limit = spec_of(op.k)[1][1], attention_key_limit(target)
    if keys > limit:
        return f"attention over {keys} keys, limit {limit}"
    sizes = [size for size in (op.head_size,) if not has_kernel(size)]
    return f"heads of {sizes[0]} elements are neither at most 128 nor a multiple of it" if sizes else None


CHECKS: dict[type[Operation], tuple[Callable[[Any, Target], str | None], ...]] = {
    MatMulOp: (_multiplied,),
    AttentionOp: (_multiplied, _attended),
    ConvOp: (_multiplied,),
    ConvTransposeOp: (_multiplied,),
    PoolOp: (_windowed,),
    RecurrentOp: (_recurrence,),
    ReduceOp: (_reduced,),
    GatherOp: (_indexed,),
    ScatterOp: (_indexed,),
}
"""Operator -> what else can be wrong with it, beyond its types."""
