"""The graph dialect from Python: constructors infer result types, constants keep values, text keeps everything."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp, NameLoc, NoneAttr, StringAttr, TensorType
from xdsl.dialects.func import Func
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import MemoryEffect, is_side_effect_free
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.test_value import create_ssa_value

from neuron_dialects.dtypes import BF16, DTYPES, F32, F64, I1, I32, I64, DType, dtype_by_name, dtype_of
from neuron_dialects.graph import (
    BatchNormOp,
    BinaryKind,
    BinaryOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    DerivedWeightOp,
    FusedOp,
    GatherOp,
    Graph,
    LayerNormOp,
    MatMulOp,
    OnnxNodeOp,
    PadMode,
    PadOp,
    PoolKind,
    PoolOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    ScatterOp,
    SelectOp,
    ShapeError,
    SliceOp,
    SoftmaxOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    WeightOp,
    YieldOp,
    spec_of,
    tensor_type,
)


def value(dtype: DType, *shape: int) -> SSAValue:
    return create_ssa_value(tensor_type(dtype, shape))


X = value(F32, 2, 4, 8)
IMAGE = value(F32, 1, 4, 9, 9)

CONSTRUCTED: list[tuple[Callable[[], Operation], DType, tuple[int, ...]]] = [
    (lambda: UnaryOp(UnaryKind.RELU, X), F32, (2, 4, 8)),
    (lambda: UnaryOp(UnaryKind.ELU, X, alpha=1.0), F32, (2, 4, 8)),
    (lambda: UnaryOp(UnaryKind.IS_NAN, X), I1, (2, 4, 8)),
    (lambda: ClipOp(X, minimum=0.0), F32, (2, 4, 8)),
    (lambda: BinaryOp(BinaryKind.MUL, X, value(F32, 4, 1)), F32, (2, 4, 8)),
    (lambda: CompareOp(CompareKind.GE, X, value(F32)), I1, (2, 4, 8)),
    (lambda: SelectOp(value(I1, 8), X, value(F32, 5, 1, 1, 1)), F32, (5, 2, 4, 8)),
    (lambda: CastOp(X, BF16), BF16, (2, 4, 8)),
    (lambda: ReduceOp(ReduceKind.SUM, X, (0, 2), keep_dims=True), F32, (1, 4, 1)),
    (lambda: ReduceOp(ReduceKind.SUM, X, (0, 2), keep_dims=False), F32, (4,)),
    (lambda: SoftmaxOp(X, 1, log=True), F32, (2, 4, 8)),
    (lambda: LayerNormOp(X, None, value(F32, 4, 8), axis=1, epsilon=1e-5), F32, (2, 4, 8)),
    (lambda: BatchNormOp(X, *(value(F32, 4) for _ in range(4)), epsilon=1e-5), F32, (2, 4, 8)),
    (lambda: MatMulOp(X, value(F32, 5, 8), transpose_b=True), F32, (2, 4, 5)),
    (
        lambda: ConvOp(IMAGE, value(F32, 6, 2, 3, 3), strides=(2, 2), pads=(1,) * 4, dilations=(1, 1), groups=2),
        F32,
        (1, 6, 5, 5),
    ),
    (
        lambda: ConvTransposeOp(
            IMAGE, value(F32, 4, 3, 2, 2), strides=(2, 2), pads=(0,) * 4, dilations=(1, 1), output_padding=(0, 0)
        ),
        F32,
        (1, 3, 18, 18),
    ),
    (
        lambda: PoolOp(
            PoolKind.MAX, IMAGE, kernel=(2, 2), strides=(2, 2), pads=(0,) * 4, dilations=(1, 1), ceil_mode=True
        ),
        F32,
        (1, 4, 5, 5),
    ),
    (lambda: TransposeOp(X, (2, 0, 1)), F32, (8, 2, 4)),
    (lambda: ReshapeOp(X, (8, 8)), F32, (8, 8)),
    (lambda: BroadcastOp(X, (3, 2, 4, 8)), F32, (3, 2, 4, 8)),
    (lambda: ConcatOp([X, X], 1), F32, (2, 8, 8)),
    (lambda: SliceOp(X, (0, 3, 0), (2, 2, 4), (1, -2, 2)), F32, (2, 2, 4)),
    (lambda: PadOp(X, (0, 0, 1), (0, 0, 2), mode=PadMode.EDGE), F32, (2, 4, 11)),
    (lambda: GatherOp(X, value(I32, 3, 3), 1), F32, (2, 3, 3, 8)),
    (lambda: ScatterOp(X, value(I32, 3, 3), value(F32, 2, 3, 3, 8), 1), F32, (2, 4, 8)),
]


# Each constructor infers the result type, and what it builds verifies.
@pytest.mark.parametrize(("make", "dtype", "shape"), CONSTRUCTED)
def test_constructors_infer_result_types(make: Callable[[], Operation], dtype: DType, shape: tuple[int, ...]) -> None:
    op = make()
    op.verify()
    assert spec_of(op.results[0]) == (dtype, shape)


# A malformed operator is refused before it exists: the operands have no new use.
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: UnaryOp(UnaryKind.RELU, x, alpha=1.0), "relu takes no parameter, not alpha"),
        (lambda x: UnaryOp(UnaryKind.NOT, x), "not is not defined on f32"),
        (lambda x: MatMulOp(x, x), "inner dimensions 8 and 4 differ"),
        (lambda x: ReshapeOp(x, (7,)), "2x4x8 has 64 elements but 7 has 7"),
        (lambda x: ConcatOp([x], 3), r"axis 3 is outside \[0, 3\)"),
    ],
)
def test_constructors_refuse_contradictions(make: Callable[[SSAValue], Operation], message: str) -> None:
    x = value(F32, 2, 4, 8)
    with pytest.raises(ShapeError, match=message):
        make(x)
    assert not x.uses


# The encoding of a tensor type (its layout) is no part of what an operator infers.
def test_encodings_do_not_matter_to_verifiers() -> None:
    op = UnaryOp(UnaryKind.RELU, value(F32, 4))
    encoded = TensorType(F32.type, [4], StringAttr("sbuf"))
    copy = UnaryOp.create(operands=op.operands, properties=op.properties, result_types=[encoded])
    copy.verify()


# Every operator says what effects it has; only an ONNX node that draws random numbers has any.
def test_effects() -> None:
    for op_type in Graph.operations:
        if op_type is not DerivedWeightOp:
            assert any(isinstance(trait, MemoryEffect) for trait in op_type.traits), op_type.name

    def node(random: bool) -> OnnxNodeOp:
        return OnnxNodeOp([], op_type="X", domain="", node=b"", opset=13, result_types=[], random=random)

    assert is_side_effect_free(node(random=False))
    assert not is_side_effect_free(node(random=True))


def test_operators_have_docstrings() -> None:
    for op_type in Graph.operations:
        assert (op_type.__doc__ or "").startswith(f"`{op_type.name}"), op_type.name


# Constants


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constants_of_every_element_type(dtype: DType) -> None:
    numbers = np.array([1, 0, 1, 1] if dtype is I1 else [1, 2, 3, 0]).astype(dtype.numpy)
    dense, splat = ConstantOp(numbers, dtype), ConstantOp(1, dtype, (3,))
    for op, expected in ((dense, numbers), (splat, np.ones(3).astype(dtype.numpy))):
        op.verify()
        assert dtype_of(op.result.type) is dtype
        assert op.array().dtype == dtype.numpy
        np.testing.assert_array_equal(op.array(), expected)
    assert splat.is_splat
    assert not dense.is_splat


@given(st.floats(width=32))
def test_constants_keep_every_f32(number: float) -> None:
    op = reparsed(ConstantOp(np.float32(number)))
    assert op.array().tobytes() == np.float32(number).tobytes() or np.isnan(number)
    assert np.isnan(op.array()) == np.isnan(number)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=5))
def test_dense_constants_keep_every_f64(numbers: list[float]) -> None:
    op = reparsed(ConstantOp(numbers, F64))
    assert op.array().tobytes() == np.array(numbers).tobytes()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=5))
def test_dense_constants_keep_every_i64(numbers: list[int]) -> None:
    np.testing.assert_array_equal(reparsed(ConstantOp(numbers, I64)).array(), numbers)


# Values are rounded to the element type when the constant is made, so that text and memory agree.
def test_constants_are_rounded() -> None:
    op = ConstantOp(0.1, BF16)
    assert op.array() == ml_dtypes.bfloat16(0.1)
    assert reparsed(op).is_structurally_equivalent(op)
    assert ConstantOp(2**64 - 1, dtype_by_name("ui64")).array() == np.uint64(2**64 - 1)


def test_constants_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        ConstantOp([1, 2], I64).array()[0] = 3


# 257 f32 are 1028 bytes, over the limit of 1024; a splat of any size is not.
def test_large_constants_are_refused() -> None:
    ConstantOp(np.arange(256, dtype=np.float32)).verify()
    ConstantOp(np.float32(1), shape=(1000, 1000)).verify()
    with pytest.raises(VerifyException, match="1028 bytes exceed 1024; use graph"):
        ConstantOp(np.arange(257, dtype=np.float32)).verify()


# Text


def context() -> Context:
    result = Context()
    for dialect in (Builtin, Func, Graph):
        result.load_dialect(dialect)
    return result


def reparsed(op: Any) -> Any:
    """The operator after printing and parsing."""
    module = Parser(context(), str(ModuleOp([op.clone()]))).parse_module()
    module.verify()
    (result,) = module.ops
    return result


def printed(module: ModuleOp, *, generic: bool) -> str:
    stream = io.StringIO()
    Printer(stream, print_generic_format=generic, print_debuginfo=True).print_op(module)
    return stream.getvalue()


def every_op_module() -> ModuleOp:
    """A module holding the operators of CONSTRUCTED and the grouping ones, each with a location."""
    inner = Block(arg_types=[X.type])
    relu = UnaryOp(UnaryKind.RELU, inner.args[0])
    inner.add_ops([relu, YieldOp(relu)])
    recipe = Block()
    weight = WeightOp("a/b:0", tensor_type(F32, (3,)))
    recipe.add_ops([weight, YieldOp(weight)])
    made = [make() for make, _, _ in CONSTRUCTED]
    made.append(FusedOp([X], [X.type], Region(inner)))
    made.append(
        OnnxNodeOp(
            [X], op_type="T", domain="d", node=b"\1", opset=1, result_types=[X.type], captures=["x"], random=True
        )
    )
    sources = {operand: ConstantOp(0, *spec_of(operand)) for op in made for operand in op.operands}
    for op in made:
        op.operands = [sources[operand].result for operand in op.operands]
    module = ModuleOp([DerivedWeightOp("w.t", tensor_type(F32, (3,)), Region(recipe)), *sources.values(), *made])
    for index, op in enumerate(module.walk()):
        op.location = NameLoc(StringAttr(f"/node {index}"), NoneAttr())
    return module


# Whatever is printed, in either form, parses back to the same module, with every location in its place.
@pytest.mark.parametrize("generic", [False, True])
def test_text_round_trip_keeps_locations(generic: bool) -> None:
    module = every_op_module()
    module.verify()
    text = printed(module, generic=generic)
    again = Parser(context(), text).parse_module()
    again.verify()
    assert again.is_structurally_equivalent(module)
    assert [op.location for op in again.walk()] == [op.location for op in module.walk()]
    assert printed(again, generic=generic) == text


# A clone shares nothing that a pass could change, and is equal.
def test_clone() -> None:
    module = every_op_module()
    assert module.clone().is_structurally_equivalent(module)
