"""What a core is said to run, and why not."""

from __future__ import annotations

import pytest

from neuron_dialects.graph.support import core_support, fits_i32
from neuron_dialects.target import load_target
from tests.graph_level import main_of, parse


def reason(line: str, arguments: str, target: str = "trn1") -> str | None:
    """Why a core cannot run the first operator that is not a constant of a function of these arguments."""
    function = main_of(parse(f"func.func @main({arguments}) {{\n{line}\nfunc.return\n}}"))
    op = next(op for op in function.body.block.ops if op.name != "graph.constant")
    return core_support(op, load_target(target))


SUPPORTED = [
    ("graph.unary exp %x : (tensor<4xbf16>) -> tensor<4xbf16>", "%x: tensor<4xbf16>"),
    ("graph.binary add %x, %x : (tensor<4xi64>, tensor<4xi64>) -> tensor<4xi64>", "%x: tensor<4xi64>"),
    ("graph.reduce prod %x axes [0] : (tensor<4xf32>) -> tensor<f32>", "%x: tensor<4xf32>"),
    ("graph.pad reflect %x low [1] high [1] value 0.0 : (tensor<4xi1>) -> tensor<6xi1>", "%x: tensor<4xi1>"),
    (
        "graph.gather %x, %i axis 1 : (tensor<4x4xf32>, tensor<2xi64>) -> tensor<4x2xf32>",
        "%x: tensor<4x4xf32>, %i: tensor<2xi64>",
    ),
    (
        """graph.fused (%a = %x) : (tensor<4xf32>) -> tensor<4xf32> {
             %0 = graph.unary exp %a : (tensor<4xf32>) -> tensor<4xf32>
             graph.yield %0 : tensor<4xf32>
           }""",
        "%x: tensor<4xf32>",
    ),
]


@pytest.mark.parametrize(("op", "arguments"), SUPPORTED)
def test_supported(op: str, arguments: str):
    assert reason(f"%r = {op}", arguments) is None


REFUSED = [
    ("graph.unary exp %x : (tensor<4xf64>) -> tensor<4xf64>", "%x: tensor<4xf64>", "cores have no element type f64"),
    (
        "graph.cast %x : (tensor<4xf32>) -> tensor<4xui64>",
        "%x: tensor<4xf32>",
        "cores have no element type ui64",
    ),
    (
        "graph.unary exp %x : (tensor<4x0xf32>) -> tensor<4x0xf32>",
        "%x: tensor<4x0xf32>",
        "a tensor of 4x0 has no elements",
    ),
    (
        "graph.reduce l2 %x axes [0] : (tensor<4xi32>) -> tensor<i32>",
        "%x: tensor<4xi32>",
        "l2 of integers is not exact on a core",
    ),
    (
        'graph.onnx_node "Foo"(%x) domain "com.example" opset 1 node "" : (tensor<4xf32>) -> tensor<4xf32>',
        "%x: tensor<4xf32>",
        "cores have no operator com.example.Foo",
    ),
    (
        """graph.fused (%a = %x) : (tensor<4xf64>) -> tensor<4xf64> {
             %0 = graph.unary exp %a : (tensor<4xf64>) -> tensor<4xf64>
             graph.yield %0 : tensor<4xf64>
           }""",
        "%x: tensor<4xf64>",
        "cores have no element type f64",
    ),
    (
        "builtin.unrealized_conversion_cast %x : tensor<4xf32> to tensor<4xf32>",
        "%x: tensor<4xf32>",
        "builtin.unrealized_conversion_cast is not an operator of the graph level",
    ),
]


@pytest.mark.parametrize(("op", "arguments", "why"), REFUSED)
def test_refused(op: str, arguments: str, why: str):
    assert reason(f"%r = {op}", arguments) == why


# f32 counts as multiplied everywhere, because it is cast where it is not; no kernel template takes 8-bit floats.
@pytest.mark.parametrize("target", ["inf1", "trn1"])
def test_products_by_target(target: str):
    line = "%r = graph.matmul %x, %x : (tensor<4x4xTYPE>, tensor<4x4xTYPE>) -> tensor<4x4xTYPE>"
    for type_, expected in (("f8E5M2", "cores have no element type f8e5m2"), ("bf16", None), ("f32", None)):
        assert reason(line.replace("TYPE", type_), f"%x: tensor<4x4x{type_}>", target) == expected


LARGE = "%c = graph.constant dense [1, 4294967296] : tensor<2xi64>\n"


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("graph.compare lt %x, %c : (tensor<2xi64>, tensor<2xi64>) -> tensor<2xi1>", None),
        ("graph.binary min %x, %c : (tensor<2xi64>, tensor<2xi64>) -> tensor<2xi64>", None),
        (
            "graph.binary mul %x, %c : (tensor<2xi64>, tensor<2xi64>) -> tensor<2xi64>",
            "the constant 4294967296 does not fit the 32-bit integers of a core",
        ),
    ],
)
def test_large_constants(op: str, why: str | None):
    assert reason(f"{LARGE}%r = {op}", "%x: tensor<2xi64>") == why


def test_constants_that_fit():
    function = main_of(
        parse(
            """
            func.func @main() {
              %a = graph.constant -2147483648 : tensor<4xi64>
              %b = graph.constant 2147483648 : tensor<4xi64>
              %c = graph.constant 4294967295 : tensor<4xui32>
              func.return
            }"""
        )
    )
    fitting = [fits_i32(op) for op in function.body.block.ops if op.name == "graph.constant"]  # pyright: ignore[reportArgumentType]
    assert fitting == [True, False, True]


# Index arithmetic is exact up to 2^24; one index that is known is a window, however many rows there are.
@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("graph.gather %x, %i axis 0 : (tensor<16777217xi8>, tensor<2xi32>) -> tensor<2xi8>", True),
        ("graph.gather %x, %c axis 0 : (tensor<16777217xi8>, tensor<2xi32>) -> tensor<2xi8>", False),
        (
            "graph.scatter %x, %i, %u axis 0"
            " : (tensor<16777217xi8>, tensor<2xi32>, tensor<2xi8>) -> tensor<16777217xi8>",
            True,
        ),
    ],
)
def test_many_rows(op: str, why: bool):
    text = f"%c = graph.constant 7 : tensor<2xi32>\n%r = {op}"
    expected = "16777217 rows exceed the 16777216 that cores count to" if why else None
    assert reason(text, "%x: tensor<16777217xi8>, %i: tensor<2xi32>, %u: tensor<2xi8>") == expected


# The largest constant of max, and the least of min, would be results themselves; the others never are.
@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [("max", 2**40, False), ("max", -(2**40), True), ("min", 2**40, True), ("min", -(2**40), False)],
)
def test_constants_beyond_32_bits_in_extremes(kind: str, value: int, fits: bool):
    line = f"""%c = graph.constant {value} : tensor<i64>
        %r = graph.binary {kind} %x, %c : (tensor<4xi64>, tensor<i64>) -> tensor<4xi64>"""
    found = reason(line, "%x: tensor<4xi64>")
    assert found == (None if fits else f"the constant {value} does not fit the 32-bit integers of a core")


# A weight's bounds are known from the import; one beyond 32 bits keeps every operator that reads it on the host.
@pytest.mark.parametrize("most", [2**31 - 1, 2**31])
def test_weights_beyond_32_bits(most: int):
    function = main_of(
        parse(
            f"""func.func @main(%i: tensor<2xi64>) -> tensor<2xi64> {{
                %w = graph.weight @w {{neuron.range = [-5, {most}]}} : tensor<4xi64>
                %r = graph.gather %w, %i axis 0 : (tensor<4xi64>, tensor<2xi64>) -> tensor<2xi64>
                func.return %r : tensor<2xi64>
            }}"""
        )
    )
    gather = next(op for op in function.body.block.ops if op.name == "graph.gather")
    found = core_support(gather, load_target("inf1"))
    fitting = most < 2**31
    assert found == (None if fitting else f"the weight's value {most} does not fit the 32-bit integers of a core")
