"""Operations on views: fields in normal form, text that reads back, and a verifier that trusts no text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects import test
from xdsl.dialects.builtin import IndexType, MemRefType, ModuleOp, StringAttr
from xdsl.ir import Attribute, Block, SSAValue
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError, VerifyException

from lowering.graph_to_tile.builder import buffer_type
from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.access_ops import (
    AccessAttr,
    AccessOp,
    FieldsAttr,
    buffer_shape,
    dtype_name_of,
    space_of,
    verify_allocation,
)
from neuron_dialects.access_syntax import field_value, read_value, value_kind, value_text
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa.model import ENUMS, FieldDef
from neuron_dialects.nisa import NISA_OPS, NisaOp, Sync
from neuron_dialects.nisa import AllocOp as NisaAlloc
from neuron_dialects.tile import TILE_OPS, AllocOp
from tools.module_file import make_context

ValueOp = test.TestOp
ValueOp.__test__ = False  # pyright: ignore[reportAttributeAccessIssue]
"""Gives values of any types; it is no test."""


def buffers(*spaces: str, dtype: str = "f32") -> list[SSAValue]:
    """A buffer of 128 x 4096 in each memory."""
    return [AllocOp(buffer_type((128, 4096), dtype, space), name=f"b{i}").buffer for i, space in enumerate(spaces)]


def on_chip(offset: Affine | int = 0, partitions: int = 128, size: int = 8) -> AccessPattern:
    start = offset if isinstance(offset, Affine) else Affine(offset)
    return AccessPattern(Affine(), partitions, start, ((1, size),))


# -- fields -----------------------------------------------------------------------------------------------------------


def test_fields_are_in_order_of_definition_and_of_its_kinds() -> None:
    scalar = TILE_OPS["tensor_scalar"]
    given_fields = {"scalar1": 2, "op1": "add", "op0": "multiply", "scalar0": 3}
    assert scalar.normal_fields(given_fields) == (
        ("op0", "multiply"),
        ("scalar0", 3.0),
        ("op1", "add"),
        ("scalar1", 2.0),
    )


def test_defaults_are_left_out_and_given_back() -> None:
    (a, b) = buffers("sbuf", "sbuf")
    op = TILE_OPS["activation"].make(
        [("dst", a, on_chip()), ("data", b, on_chip())], fields={"func": "exp", "scale": 1.0}
    )
    assert op.fields.data == (("func", "exp"),)
    assert (op.values["func"], op.values["scale"], op.values["alpha"]) == ("exp", 1.0, 0.0)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(KeyError, match=r"tile.activation has no field colour"):
        TILE_OPS["activation"].normal_fields({"colour": 1})
    with pytest.raises(ValueError, match=r"func = expo is none of"):
        TILE_OPS["activation"].normal_fields({"func": "expo"})


# An integer where an affine expression is wanted is a constant one.
def test_numbers_become_affine_expressions() -> None:
    definition = FieldDef("accumulate", "affine")
    assert field_value(definition, 3) == Affine(3)
    assert field_value(definition, Affine.variable(2)) == Affine.variable(2)


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.sampled_from(ENUMS["alu"]),
    st.builds(Affine.of, st.integers(-9, 9), st.dictionaries(st.integers(0, 3), st.integers(-9, 9))),
)


@given(VALUES)
def test_text_of_a_field_reads_back(value: Any) -> None:
    again = read_value(value_kind(value), value_text(value))
    assert (type(again), again) == (type(value), value)
    assert not isinstance(value, float) or math.copysign(1, again) == math.copysign(1, value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("bool", "yes"), ("i32", "1.5"), ("f32", "one"), ("affine", "2*"), ("affine", "x"), ("colour", "red"), ("", "")],
)
def test_text_that_is_no_value_is_refused(kind: str, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_value(kind, text)


# -- text -------------------------------------------------------------------------------------------------------------

AFFINE = st.builds(
    lambda c, t: Affine.of(c, t),
    st.integers(0, 500),
    st.dictionaries(st.integers(0, 2), st.integers(-3, 64), max_size=2),
)
DIMS = st.lists(st.tuples(st.integers(-4, 600), st.integers(1, 9)), min_size=1, max_size=4).map(tuple)
FIELD_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "f32": st.one_of(st.floats(width=32), st.sampled_from((math.inf, -math.inf, 1e-7, 1e20, -2.5))),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "bool": st.booleans(),
    "affine": AFFINE,
    **{name: st.sampled_from(members) for name, members in ENUMS.items()},
}


def draw_op(draw: Callable[..., Any]) -> tuple[ModuleOp, AccessOp]:
    """A module of buffers, three index values and one op of the tile or nisa dialect that uses them."""
    kind = draw(st.sampled_from([*TILE_OPS.values(), *NISA_OPS.values()]))
    roles = [role for role in kind.ROLES if not role.optional or draw(st.booleans())]
    spaces = [draw(st.sampled_from(role.spaces)) for role in roles]
    made = [AllocOp(buffer_type((128, 4096), "f32", s), draw(st.integers(1, 3)), f"b{i}") for i, s in enumerate(spaces)]
    numbers = ValueOp(result_types=[IndexType()] * 3)
    for i, value in enumerate(numbers.results):
        value.name_hint = "ijk"[i]
    patterns = [
        AccessPattern(Affine(), 0, draw(AFFINE), draw(DIMS))
        if space == "dram"
        else AccessPattern(Affine(32 * draw(st.integers(0, 1))), draw(st.integers(1, 64)), draw(AFFINE), draw(DIMS))
        for space in spaces
    ]
    fields = {f.name: draw(FIELD_VALUES[f.kind]) for f in kind.FIELDS if draw(st.booleans())}
    operands = [(role.name, alloc.buffer, p) for role, alloc, p in zip(roles, made, patterns, strict=True)]
    extra: dict[str, Attribute] = {}
    if issubclass(kind, NisaOp):
        extra["engine"] = StringAttr("pe")
        if kind.DEFINITION.is_dma:
            extra["ring"] = StringAttr("q0")
    op = kind.make(operands, list(numbers.results), fields, extra)
    return ModuleOp([*made, numbers, op]), op


def text_of(module: ModuleOp, generic: bool) -> str:
    output = StringIO()
    Printer(output, print_generic_format=generic).print_op(module)
    return output.getvalue()


def meaning(op: AccessOp) -> list[Any]:
    """What an op says, with the names of buffers and loop variables in place of positions."""

    def named(value: Any) -> Any:
        if isinstance(value, Affine):
            return value.constant, {(op.indices[v].name_hint, c) for v, c in value.terms}
        return repr(value)

    views = [
        (role, buffer.name_hint, named(p.partition), p.partitions, named(p.offset), p.dims)
        for role, (buffer, p) in op.views.items()
    ]
    return [*views, {name: named(value) for name, value in op.fields.data}]


# Whatever an op holds, its text gives it back: the same patterns, fields and operands, in custom and in generic form.
@given(st.data(), st.booleans())
def test_text_of_an_op_reads_back(data: st.DataObject, generic: bool) -> None:
    module, op = draw_op(data.draw)
    text = text_of(module, generic)
    again = Parser(make_context(), text).parse_module()
    (copy,) = [o for o in again.walk() if isinstance(o, AccessOp)]
    assert type(copy) is type(op)
    assert meaning(copy) == meaning(op)
    # Loop variables are numbered anew, in order of appearance; from then on the text stays as it is.
    text = text_of(again, generic)
    assert text_of(Parser(make_context(), text).parse_module(), generic) == text


# Once registers are allocated there are no index operands: variables are registers of the queue's engine.
def test_registers_have_names_of_their_own() -> None:
    text = """
    %a = nisa.alloc : memref<128x64xf32, #neuron.space<sbuf>>
    nisa.memset on dve dst %a[0:128][8*r3 + 1 : 8] {value = -0.5} wait(act >= r12 + 1, load0 >= 7) signal(dve)"""
    (op,) = [o for o in Parser(make_context(), text).parse_module().walk() if isinstance(o, NisaOp)]
    assert len(op.indices) == 0
    assert op.views["dst"][1].offset == Affine.of(1, {3: 8})
    assert op.sync is not None
    assert op.sync.data == Sync((("act", Affine.of(1, {12: 1})), ("load0", Affine(7))), "dve")
    assert str(op) == "nisa.memset " + text.strip().partition("nisa.memset ")[2]


# A variable that is met twice is one operand, and the order of operands is that of appearance.
def test_loop_variables_become_operands_in_order() -> None:
    text = """
    %i, %j = "test.op"() : () -> (index, index)
    %a = tile.alloc : memref<128x4096xf32, #neuron.space<sbuf>>
    tile.copy dst %a[0:128][%j - 2*%i + 40 : 8] data %a[0:128][%i : 2 step 4, 4]"""
    (op,) = [o for o in Parser(make_context(), text).parse_module().walk() if isinstance(o, AccessOp)]
    assert [value.name_hint for value in op.indices] == ["j", "i"]
    assert op.views["dst"][1].offset == Affine.of(40, {0: 1, 1: -2})
    assert op.views["data"][1] == AccessPattern(Affine(), 128, Affine.variable(1), ((4, 2), (1, 4)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile.memset dst %b[0:128][0 : 8]", "buffer %b is not defined before its use"),
        ("tile.memset dst %a[0:128][0 : 8] {colour = 1}", "tile.memset has no field colour"),
        ("tile.memset dst %a[0:128][0 : 8] {value = red}", "integer or float literal expected"),
        ("tile.activation dst %a[0:128][0 : 8] {func = expo}", "func = expo is none of"),
        ("tile.memset dst %a[0:128][0 8]", "Expected"),
        ("tile.memset dst %a[0:128][0 : -8]", "Expected"),
        ("tile.memset dst %a[0:128][x : 8]", "expected a loop variable or a register, not 'x'"),
        ("tile.memset dst %a[0:128][4* : 8]", "expected a loop variable after"),
        ("nisa.memset dst %a[0:128][0 : 8]", "Expected"),
        ("nisa.memset on dve dst %a[0:128][0 : 8] wait(act > 3)", "Expected"),
        ('"tile.memset"(%a) <{access = #tile.access<"dst [0:128">}> : (!buffer) -> ()', "expected ] at column 6"),
        ('"tile.memset"(%a) <{fields = #tile.fields<"value f32 red">}> : (!buffer) -> ()', "could not convert"),
    ],
)
def test_text_that_is_no_op_is_refused(text: str, message: str) -> None:
    alloc = "%a = tile.alloc : !buffer\n"
    alias = "!buffer = memref<128x64xf32, #neuron.space<sbuf>>\n"
    with pytest.raises(ParseError, match=re.escape(message)):
        Parser(make_context(), alias + alloc + text).parse_module()


# -- verifier ---------------------------------------------------------------------------------------------------------


def copy(a: AccessPattern, b: AccessPattern, indices: int = 0, fields: tuple[tuple[str, Any], ...] = ()) -> AccessOp:
    """tile.activation of two buffers in SBUF, its properties set without any check."""
    (dst, data) = buffers("sbuf", "sbuf")
    numbers = ValueOp(result_types=[IndexType()] * indices).results
    op = TILE_OPS["activation"].make([("dst", dst, a), ("data", data, b)], numbers)
    op.properties["fields"] = FieldsAttr(fields)
    return op


def test_a_valid_op_verifies() -> None:
    copy(on_chip(Affine.variable(0, 8)), on_chip(), 1, (("func", "exp"), ("scale", 2.0))).verify()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((("colour", 1),), "unknown field colour"),
        ((("func", "expo"),), "field func cannot be expo"),
        ((("scale", 2),), "field scale cannot be 2"),
        ((("scale", True),), "field scale cannot be true"),
        ((("func", Affine(1)),), "field func cannot be 1"),
    ],
)
def test_fields_must_be_those_of_the_table(fields: tuple[tuple[str, Any], ...], message: str) -> None:
    with pytest.raises(VerifyException, match=message):
        copy(on_chip(), on_chip(), 0, fields).verify()


def test_loop_variables_must_exist() -> None:
    with pytest.raises(VerifyException, match="operand data uses an unknown loop variable"):
        copy(on_chip(), on_chip(Affine.variable(1)), 1).verify()
    (p, w, x) = buffers("psum", "sbuf", "sbuf")
    indices = ValueOp(result_types=[IndexType()]).results
    operands = [("dst", p, on_chip()), ("stationary", w, on_chip()), ("moving", x, on_chip())]
    matmul = TILE_OPS["matmul"].make(operands, indices, {"accumulate": Affine.variable(1)})
    with pytest.raises(VerifyException, match="field accumulate uses an unknown loop variable"):
        matmul.verify()


def test_operands_must_be_those_of_the_table() -> None:
    (a, b, d) = buffers("sbuf", "sbuf", "dram")
    activation = TILE_OPS["activation"]
    cases = [
        ([("dst", a, on_chip())], "operand data is missing"),
        ([("dst", a, on_chip()), ("dst", a, on_chip()), ("data", b, on_chip())], "an operand is given twice"),
        ([("dst", a, on_chip()), ("data", b, on_chip()), ("colour", b, on_chip())], "unknown operand colour"),
        ([("dst", a, on_chip()), ("data", d, on_chip(partitions=0))], "operand data lies in dram"),
        ([("dst", a, on_chip(partitions=0)), ("data", b, on_chip())], "operand dst in sbuf has 0 partitions"),
    ]
    for operands, message in cases:
        with pytest.raises(VerifyException, match=message):
            activation.make(operands).verify()


def test_every_buffer_has_a_view() -> None:
    op = copy(on_chip(), on_chip())
    op.properties["access"] = AccessAttr((("dst", on_chip()),))
    with pytest.raises(VerifyException, match="1 views for 2 buffers"):
        op.verify()


# -- buffers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["sbuf", "psum", "dram"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "ui8", "tf32"])
def test_what_is_known_of_a_buffer(space: str, dtype: str) -> None:
    (buffer,) = buffers(space, dtype=dtype)
    assert (space_of(buffer), dtype_name_of(buffer), buffer_shape(buffer)) == (space, dtype, (128, 4096))


def test_a_memref_without_space_lies_in_dram() -> None:
    block = Block(arg_types=[MemRefType(dtype_by_name("f32").type, [4])])
    assert space_of(block.args[0]) == "dram"


@pytest.mark.parametrize(
    ("shape", "space", "copies", "message"),
    [
        ((129, 4), "sbuf", 1, "129 partitions exceed 128"),
        ((), "psum", 1, "has no partition dimension"),
        ((4, -1), "dram", 1, "has a dynamic dimension"),
        ((4, 4), "sbuf", 0, "0 copies, there must be at least 1"),
    ],
)
@pytest.mark.parametrize("kind", [AllocOp, NisaAlloc])
def test_allocations_are_checked(
    kind: type[AllocOp | NisaAlloc], shape: tuple[int, ...], space: str, copies: int, message: str
) -> None:
    with pytest.raises(VerifyException, match=message):
        kind(buffer_type(shape, "f32", space), copies).verify()


def test_allocations_of_any_size_in_dram_are_fine() -> None:
    for shape in ((), (1000, 4), (0,)):
        verify_allocation(AllocOp(buffer_type(shape, "f32", "dram")).buffer, 1)
