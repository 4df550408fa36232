"""Canonicalised programs compute what they computed before."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.dtypes import DTYPES, DType
from neuron_dialects.graph import BinaryOp, BroadcastOp, CastOp, PadOp, SliceOp, TransposeOp, UnaryOp
from passes.graph.canonicalize import GraphCanonicalizePass
from passes.graph.elementwise_identities import holds_all_values_of
from passes.graph.movement_identities import is_identity, swaps_last_two
from runtime.graph_interpreter.numerics import converted
from tests.graph_level import check_same_results, interpret, main_of, parse
from tests.run_lines import ROOT

FILECHECK = ROOT / "tests" / "filecheck" / "passes" / "graph-canonicalize.mlir"


def programs() -> list[str]:
    """Each function of the regression test as a program of its own, but the one that draws random numbers."""
    functions = FILECHECK.read_text(encoding="utf-8").split("\nfunc.func @")[1:]
    return ["main" + text[text.index("(") :].partition("\n}")[0] + "\n}" for text in functions if "random" not in text]


# The same cases that the regression test shows.
@pytest.mark.parametrize("text", programs())
def test_shown_cases_keep_their_results(text: str):
    module = parse(f"func.func @{text}")
    before = sum(1 for _ in module.walk())
    check_same_results(module, GraphCanonicalizePass())
    assert sum(1 for _ in module.walk()) <= before


# A rotary embedding: (-x2, x1) * sin. The sign goes into the weight, which is multiplied when weights are laid out.
def test_signs_of_parts_go_into_a_weight():
    module = parse(
        """
        func.func @main(%x: tensor<3x4xf32>) -> tensor<3x4xf32> {
          %sin = graph.weight @sin : tensor<3x4xf32>
          %a = graph.slice %x starts [0, 0] sizes [3, 2] steps [1, 1] : (tensor<3x4xf32>) -> tensor<3x2xf32>
          %b = graph.slice %x starts [0, 2] sizes [3, 2] steps [1, 1] : (tensor<3x4xf32>) -> tensor<3x2xf32>
          %n = graph.unary neg %b : (tensor<3x2xf32>) -> tensor<3x2xf32>
          %c = graph.concat %n, %a axis 1 : (tensor<3x2xf32>, tensor<3x2xf32>) -> tensor<3x4xf32>
          %y = graph.binary mul %c, %sin : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
          func.return %y : tensor<3x4xf32>
        }"""
    )
    check_same_results(module, GraphCanonicalizePass(), tolerance=0.0)
    assert not any(isinstance(op, UnaryOp) for op in module.walk())


def function(argument: str, result: str, lines: list[str], value: str) -> str:
    """The text of a @main that takes %x."""
    body = "\n".join([*lines, f"func.return {value} : {result}"])
    return f"func.func @main(%x: {argument}) -> {result} {{\n{body}\n}}"


def canonical(text: str) -> ModuleOp:
    """The module after the pass, which must leave its results as they are."""
    module = parse(text)
    check_same_results(module, GraphCanonicalizePass())
    return module


# Slices of slices with random strides, forwards and backwards.
@pytest.mark.parametrize("seed", range(8))
def test_slices_compose(seed: int):
    rng = np.random.default_rng(seed)
    size, lines, value = 24, [], "%x"
    for number in range(4):
        step = int(rng.choice([1, 2, -1, -2]))
        count = max(1, size // abs(step) - 1)
        start = int(rng.integers(0, size - (count - 1) * abs(step)))
        start = start if step > 0 else start + (count - 1) * abs(step)
        lines.append(
            f"%{number} = graph.slice {value} starts [{start}] sizes [{count}] steps [{step}]"
            f" : (tensor<{size}xf32>) -> tensor<{count}xf32>"
        )
        size, value = count, f"%{number}"
    module = canonical(function("tensor<24xf32>", f"tensor<{size}xf32>", lines, value))
    assert [type(op) for op in main_of(module).body.block.ops][:-1] in ([SliceOp], [])


@pytest.mark.parametrize("seed", range(8))
def test_transposes_compose(seed: int):
    rng = np.random.default_rng(seed)
    shape, value, lines = [2, 5, 3, 4], "%x", []
    for number in range(3):
        permutation = [int(axis) for axis in rng.permutation(4)]
        after = [shape[axis] for axis in permutation]
        before_type, after_type = ("x".join(map(str, dims)) for dims in (shape, after))
        lines.append(
            f"%{number} = graph.transpose {value} permutation {permutation}"
            f" : (tensor<{before_type}xf32>) -> tensor<{after_type}xf32>"
        )
        shape, value = after, f"%{number}"
    result = f"tensor<{'x'.join(map(str, shape))}xf32>"
    module = canonical(function("tensor<2x5x3x4xf32>", result, lines, value))
    assert [type(op) for op in main_of(module).body.block.ops][:-1] in ([TransposeOp], [])


# A type that is said to hold all values of another one does: converting there and back changes nothing.
@pytest.mark.parametrize(
    ("narrow", "wide"),
    [(n, w) for n, w in product(DTYPES, DTYPES) if holds_all_values_of(w, n) and n.size_bytes <= 2 and n.name != "i1"],
    ids=str,
)
def test_holds_all_values_of(narrow: DType, wide: DType):
    bits = np.arange(2 ** (8 * narrow.size_bytes), dtype=np.uint32)
    values = bits.astype(f"u{narrow.size_bytes}").view(narrow.numpy)
    with np.errstate(all="ignore"):
        there = converted(values, narrow, wide)
        wider = values.astype(np.float64) if narrow.is_float else values.astype(np.int64)
        finite = np.isfinite(wider) if narrow.is_float else np.ones(values.shape, bool)
        np.testing.assert_array_equal(there.astype(wider.dtype)[finite], wider[finite])


def test_types_that_do_not_hold_each_other():
    by_name = {dtype.name: dtype for dtype in DTYPES}
    for wide, narrow in [
        ("bf16", "f16"),
        ("f16", "bf16"),
        ("f16", "f32"),
        ("ui8", "i8"),
        ("f32", "i32"),
        ("i8", "ui8"),
    ]:
        assert not holds_all_values_of(by_name[wide], by_name[narrow])


def test_permutations():
    assert is_identity([0, 1, 2])
    assert not is_identity([0, 2, 1])
    assert swaps_last_two([0, 1, 3, 2])
    assert not swaps_last_two([1, 0, 2])
    assert not swaps_last_two([0])


# A slope that broadcasts over a repeated operand cannot be applied before repeating it.
def test_prelu_keeps_its_broadcast_operand():
    module = canonical(
        """
        func.func @main(%x: tensor<1x4xf32>, %s: tensor<3x4xf32>) -> tensor<3x4xf32> {
          %0 = graph.broadcast %x : (tensor<1x4xf32>) -> tensor<3x4xf32>
          %1 = graph.binary prelu %0, %s : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
          func.return %1 : tensor<3x4xf32>
        }"""
    )
    (prelu,) = (op for op in module.walk() if isinstance(op, BinaryOp))
    assert isinstance(prelu.a.owner, BroadcastOp)


# A constant beyond the range of the type it is cast to becomes infinite, without a warning.
def test_cast_of_a_large_constant():
    module = canonical(
        """
        func.func @main(%x: tensor<2xf16>) -> tensor<2xf16> {
          %c = graph.constant -1.0e9 : tensor<f32>
          %0 = graph.cast %c : (tensor<f32>) -> tensor<f16>
          %1 = graph.binary min %x, %0 : (tensor<2xf16>, tensor<f16>) -> tensor<2xf16>
          func.return %1 : tensor<2xf16>
        }"""
    )
    assert not any(isinstance(op, CastOp) for op in module.walk())


# Programs grow linearly: a thousand pairs of transposes vanish in a moment.
def test_long_programs():
    lines = ["%x1 = graph.pad constant %x low [0, 0] high [0, 0] value 0.0 : (tensor<4x3xf32>) -> tensor<4x3xf32>"]
    for number in range(1, 1001):
        shapes = ("4x3", "3x4") if number % 2 else ("3x4", "4x3")
        lines.append(
            f"%x{number + 1} = graph.transpose %x{number} permutation [1, 0]"
            f" : (tensor<{shapes[0]}xf32>) -> tensor<{shapes[1]}xf32>"
        )
    module = canonical(function("tensor<4x3xf32>", "tensor<4x3xf32>", lines, "%x1001"))
    assert not any(isinstance(op, TransposeOp | PadOp) for op in module.walk())


def test_interpreting_a_cast_is_what_the_rule_assumes():
    x = np.array([1.5, -2.5], np.float16)
    by_name = {dtype.name: dtype for dtype in DTYPES}
    twice = interpret(lambda x: CastOp(CastOp(x, by_name["f32"]), by_name["i32"]), x)
    np.testing.assert_array_equal(twice, interpret(lambda x: CastOp(x, by_name["i32"]), x))
