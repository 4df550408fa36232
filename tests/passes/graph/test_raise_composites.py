"""Formulas are recognised in the spellings of exporters, give the same numbers, and near misses stay as they are."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.graph import AttentionOp, LayerNormOp, UnaryKind, UnaryOp
from passes.graph.raise_composites import GraphRaiseCompositesPass
from tests.graph_level import check_same_results, parse

X = "tensor<2x6x8xf32>"


def elementwise(body: str) -> ModuleOp:
    """A function of %x with constants %half, %one, %two and so on, whose result is %y."""
    numbers = {
        "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "root2": 1.4142135, "iroot2": 0.70710677, "c": 0.044715,
        "rpi": 0.7978846,
    }  # fmt: skip
    constants = "\n".join(f"%{name} = graph.constant {value!r} : tensor<f32>" for name, value in numbers.items())
    lines: list[str] = []
    for line in body.strip().splitlines():
        result, _, expression = (part.strip() for part in line.partition("="))
        kind, *operands = expression.replace(",", " ").split()
        if len(operands) == 1:
            lines.append(f"{result} = graph.unary {kind} {operands[0]} : ({X}) -> {X}")
        else:
            types = ", ".join("tensor<f32>" if name[1:] in numbers else X for name in operands)
            lines.append(f"{result} = graph.binary {kind} {', '.join(operands)} : ({types}) -> {X}")
    return parse(f"func.func @main(%x: {X}) -> {X} {{ {constants} {' '.join(lines)} func.return %y : {X} }}")


ERF = "%a = div %x, %root2\n%b = erf %a\n%t = add %b, %one\n"
ACTIVATIONS = {
    "gelu, half last": (ERF + "%m = mul %x, %t\n%y = mul %m, %half", UnaryKind.GELU),
    "gelu, half first": (ERF + "%m = mul %x, %half\n%y = mul %m, %t", UnaryKind.GELU),
    "gelu, half inside": (ERF + "%m = mul %half, %t\n%y = mul %x, %m", UnaryKind.GELU),
    "gelu, halved by division": (ERF + "%m = mul %t, %x\n%y = div %m, %two", UnaryKind.GELU),
    "gelu, multiplied": (
        "%a = mul %x, %iroot2\n%b = erf %a\n%t = add %one, %b\n%m = mul %x, %t\n%y = mul %half, %m",
        UnaryKind.GELU,
    ),
    "gelu_tanh, power": (
        "%p = pow %x, %three\n%q = mul %c, %p\n%s = add %x, %q\n%u = mul %rpi, %s\n%h = tanh %u\n%t = add %one, %h\n"
        "%m = mul %x, %half\n%y = mul %m, %t",
        UnaryKind.GELU_TANH,
    ),
    "gelu_tanh, products": (
        "%p = mul %x, %x\n%q = mul %p, %x\n%r = mul %q, %c\n%s = add %r, %x\n%u = mul %s, %rpi\n%h = tanh %u\n"
        "%t = add %h, %one\n%m = mul %half, %x\n%y = mul %m, %t",
        UnaryKind.GELU_TANH,
    ),
    "gelu_tanh, factored": (
        "%p = mul %x, %x\n%q = mul %p, %c\n%s = add %q, %one\n%v = mul %x, %s\n%u = mul %v, %rpi\n%h = tanh %u\n"
        "%t = add %h, %one\n%m = mul %half, %x\n%y = mul %m, %t",
        UnaryKind.GELU_TANH,
    ),
    "silu": ("%s = sigmoid %x\n%y = mul %s, %x", UnaryKind.SILU),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations(case: str) -> None:
    body, kind = ACTIVATIONS[case]
    module = elementwise(body)
    check_same_results(module, GraphRaiseCompositesPass(), tolerance=2e-6)
    assert [op.kind.data for op in module.walk() if isinstance(op, UnaryOp)] == [kind]


NEAR_MISSES = {
    "another constant": "%a = mul %x, %half\n%b = erf %a\n%t = add %b, %one\n%m = mul %x, %t\n%y = mul %m, %half",
    "another factor": ERF + "%m = mul %x, %t\n%y = mul %m, %two",
    "another argument": "%z = neg %x\n%a = div %z, %root2\n%b = erf %a\n%t = add %b, %one\n%m = mul %x, %t\n"
    "%y = mul %m, %half",
    "sigmoid of another": "%z = neg %x\n%s = sigmoid %z\n%y = mul %s, %x",
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_stay(case: str) -> None:
    module = elementwise(NEAR_MISSES[case])
    check_same_results(module, GraphRaiseCompositesPass(), tolerance=0)
    kinds = {op.kind.data for op in module.walk() if isinstance(op, UnaryOp)}
    assert not kinds & {UnaryKind.GELU, UnaryKind.GELU_TANH, UnaryKind.SILU}


SQUARES = {
    "pow": "graph.binary pow %d, %two : (tensor<2x6x8xf32>, tensor<f32>) -> tensor<2x6x8xf32>",
    "product": "graph.binary mul %d, %d : (tensor<2x6x8xf32>, tensor<2x6x8xf32>) -> tensor<2x6x8xf32>",
    "square": "graph.unary square %d : (tensor<2x6x8xf32>) -> tensor<2x6x8xf32>",
}
ROOTS = {
    "div sqrt": "%r = graph.unary sqrt %e : (tensor<2x6x1xf32>) -> tensor<2x6x1xf32>"
    " %n = graph.binary div %d, %r : (tensor<2x6x8xf32>, tensor<2x6x1xf32>) -> tensor<2x6x8xf32>",
    "mul rsqrt": "%r = graph.unary rsqrt %e : (tensor<2x6x1xf32>) -> tensor<2x6x1xf32>"
    " %n = graph.binary mul %r, %d : (tensor<2x6x1xf32>, tensor<2x6x8xf32>) -> tensor<2x6x8xf32>",
    "mul reciprocal": "%s = graph.unary sqrt %e : (tensor<2x6x1xf32>) -> tensor<2x6x1xf32>"
    " %r = graph.unary reciprocal %s : (tensor<2x6x1xf32>) -> tensor<2x6x1xf32>"
    " %n = graph.binary mul %d, %r : (tensor<2x6x8xf32>, tensor<2x6x1xf32>) -> tensor<2x6x8xf32>",
}


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("root", ROOTS)
def test_layer_norm_with_its_parameters(square: str, root: str) -> None:
    module = parse(
        f"""
        func.func @main(%x: {X}, %scale: tensor<8xf32>, %bias: tensor<1x1x8xf32>) -> {X} {{
          %two = graph.constant 2.0 : tensor<f32>
          %eps = graph.constant 1.0e-05 : tensor<f32>
          %m = graph.reduce mean %x axes [2] keep_dims : ({X}) -> tensor<2x6x1xf32>
          %d = graph.binary sub %x, %m : ({X}, tensor<2x6x1xf32>) -> {X}
          %q = {SQUARES[square]}
          %v = graph.reduce mean %q axes [2] keep_dims : ({X}) -> tensor<2x6x1xf32>
          %e = graph.binary add %v, %eps : (tensor<2x6x1xf32>, tensor<f32>) -> tensor<2x6x1xf32>
          {ROOTS[root]}
          %t = graph.binary mul %n, %scale : ({X}, tensor<8xf32>) -> {X}
          %y = graph.binary add %bias, %t : (tensor<1x1x8xf32>, {X}) -> {X}
          func.return %y : {X}
        }}"""
    )
    check_same_results(module, GraphRaiseCompositesPass(), tolerance=2e-6)
    (norm,) = [op for op in module.walk() if isinstance(op, LayerNormOp)]
    assert norm.scale is not None
    assert norm.bias is not None


# Without the mean taken off: root mean square normalisation.
@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("root", ROOTS)
def test_root_mean_square_normalisation(square: str, root: str) -> None:
    module = parse(
        f"""
        func.func @main(%d: {X}, %scale: tensor<8xf32>) -> {X} {{
          %two = graph.constant 2.0 : tensor<f32>
          %eps = graph.constant 1.0e-05 : tensor<f32>
          %q = {SQUARES[square]}
          %v = graph.reduce mean %q axes [2] keep_dims : ({X}) -> tensor<2x6x1xf32>
          %e = graph.binary add %v, %eps : (tensor<2x6x1xf32>, tensor<f32>) -> tensor<2x6x1xf32>
          {ROOTS[root]}
          %y = graph.binary mul %scale, %n : (tensor<8xf32>, {X}) -> {X}
          func.return %y : {X}
        }}"""
    )
    check_same_results(module, GraphRaiseCompositesPass(), tolerance=2e-6)
    (norm,) = [op for op in module.walk() if isinstance(op, LayerNormOp)]
    assert norm.uncentred
    assert norm.scale is not None


# The deviation of another tensor: not a normalisation.
def test_variance_of_another_tensor_stays() -> None:
    module = parse(
        f"""
        func.func @main(%x: {X}, %z: {X}) -> {X} {{
          %eps = graph.constant 1.0e-05 : tensor<f32>
          %m = graph.reduce mean %x axes [2] keep_dims : ({X}) -> tensor<2x6x1xf32>
          %d = graph.binary sub %x, %m : ({X}, tensor<2x6x1xf32>) -> {X}
          %q = graph.binary mul %d, %z : ({X}, {X}) -> {X}
          %v = graph.reduce mean %q axes [2] keep_dims : ({X}) -> tensor<2x6x1xf32>
          %a = graph.unary abs %v : (tensor<2x6x1xf32>) -> tensor<2x6x1xf32>
          %e = graph.binary add %a, %eps : (tensor<2x6x1xf32>, tensor<f32>) -> tensor<2x6x1xf32>
          %r = graph.unary sqrt %e : (tensor<2x6x1xf32>) -> tensor<2x6x1xf32>
          %y = graph.binary div %d, %r : ({X}, tensor<2x6x1xf32>) -> {X}
          func.return %y : {X}
        }}"""
    )
    check_same_results(module, GraphRaiseCompositesPass(), tolerance=0)
    assert not any(isinstance(op, LayerNormOp) for op in module.walk())


HEADS = "tensor<2x3x20x8xf32>"
SCORES = "tensor<2x3x20x20xf32>"
LOW = "%low = graph.constant -1.0e+30 : tensor<f32>"
BEFORE_SOFTMAX = {
    "plain": "%t = graph.binary mul %s, %four : (tensor<2x3x20x20xf32>, tensor<f32>) -> tensor<2x3x20x20xf32>",
    "divided": "%t = graph.binary div %s, %four : (tensor<2x3x20x20xf32>, tensor<f32>) -> tensor<2x3x20x20xf32>",
    "mask": "%u = graph.binary mul %four, %s : (tensor<f32>, tensor<2x3x20x20xf32>) -> tensor<2x3x20x20xf32>"
    " %t = graph.binary add %bias, %u : (tensor<1x3x20x20xf32>, tensor<2x3x20x20xf32>) -> tensor<2x3x20x20xf32>",
    "two masks": "%u = graph.binary add %s, %bias : (tensor<2x3x20x20xf32>, tensor<1x3x20x20xf32>)"
    " -> tensor<2x3x20x20xf32> %t = graph.binary add %u, %keys : (tensor<2x3x20x20xf32>, tensor<1x1x1x20xf32>)"
    " -> tensor<2x3x20x20xf32>",
    "select": "%t = graph.select %seen, %s, %low : (tensor<20x20xi1>, tensor<2x3x20x20xf32>, tensor<f32>)"
    " -> tensor<2x3x20x20xf32>",
}


def attention_module(before_softmax: str, query_type: str = HEADS) -> ModuleOp:
    return parse(
        f"""
        func.func @main(%q: {query_type}, %k: {HEADS}, %v: {HEADS}, %bias: tensor<1x3x20x20xf32>,
                        %keys: tensor<1x1x1x20xf32>) -> {HEADS} {{
          %zero = graph.constant 0.0 : tensor<f32>
          %four = graph.constant 0.25 : tensor<f32>
          {LOW}
          %seen = graph.compare ge %bias, %keys : (tensor<1x3x20x20xf32>, tensor<1x1x1x20xf32>) -> tensor<1x3x20x20xi1>
          %s = graph.matmul %q, %k transpose_b : ({HEADS}, {HEADS}) -> {SCORES}
          {before_softmax.replace("tensor<20x20xi1>", "tensor<1x3x20x20xi1>")}
          %p = graph.softmax %t axis 3 : ({SCORES}) -> {SCORES}
          %y = graph.matmul %p, %v : ({SCORES}, {HEADS}) -> {HEADS}
          func.return %y : {HEADS}
        }}"""
    )


@pytest.mark.parametrize("case", BEFORE_SOFTMAX)
def test_attention(case: str) -> None:
    module = attention_module(BEFORE_SOFTMAX[case])
    check_same_results(module, GraphRaiseCompositesPass(), tolerance=2e-6)
    (attention,) = [op for op in module.walk() if isinstance(op, AttentionOp)]
    assert (attention.mask is not None) == (case not in ("plain", "divided"))


# A score that is merely made small still counts: not a mask.
def test_small_scores_are_no_mask() -> None:
    module = attention_module(BEFORE_SOFTMAX["select"].replace("%low", "%zero"))
    check_same_results(module, GraphRaiseCompositesPass(), tolerance=0)
    assert not any(isinstance(op, AttentionOp) for op in module.walk())


# Two query heads read each key head: the repetition goes away.
def test_shared_key_heads() -> None:
    repeat = """
          %{0}1 = graph.reshape %{0} : (tensor<2x2x20x8xf32>) -> tensor<2x2x1x20x8xf32>
          %{0}2 = graph.broadcast %{0}1 : (tensor<2x2x1x20x8xf32>) -> tensor<2x2x2x20x8xf32>
          %{0}3 = graph.reshape %{0}2 : (tensor<2x2x2x20x8xf32>) -> tensor<2x4x20x8xf32>"""
    module = parse(
        f"""
        func.func @main(%q: tensor<2x4x20x8xf32>, %k: tensor<2x2x20x8xf32>, %v: tensor<2x2x20x8xf32>)
            -> tensor<2x4x20x8xf32> {{
          {repeat.format("k")}
          {repeat.format("v")}
          %s = graph.matmul %q, %k3 transpose_b
            : (tensor<2x4x20x8xf32>, tensor<2x4x20x8xf32>) -> tensor<2x4x20x20xf32>
          %p = graph.softmax %s axis 3 : (tensor<2x4x20x20xf32>) -> tensor<2x4x20x20xf32>
          %y = graph.matmul %p, %v3 : (tensor<2x4x20x20xf32>, tensor<2x4x20x8xf32>) -> tensor<2x4x20x8xf32>
          func.return %y : tensor<2x4x20x8xf32>
        }}"""
    )
    check_same_results(module, GraphRaiseCompositesPass(), tolerance=2e-6)
    (attention,) = [op for op in module.walk() if isinstance(op, AttentionOp)]
    assert (attention.heads.value.data, attention.kv_heads.value.data) == (4, 2)
