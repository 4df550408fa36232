"""Attentions whose scores the weights bound: the bound itself, and which attentions are marked."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin
from xdsl.dialects.func import Func
from xdsl.parser import Parser

from lowering.bounded_scores import GraphBoundScoresPass, Projection, WeighedBoundScores, score_bound, with_weights
from neuron_dialects.graph import AttentionOp, Graph
from neuron_dialects.graph.attention import BOUNDED_SCORES
from neuron_dialects.neuron import Neuron
from neuron_dialects.weights import WeightStore
from tests.lowering.graph_to_tile.core_kernel import Array

WIDTH, LENGTH, SEQUENCES = 24, 6, 16

TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<48x2x24xf32>, %free: tensor<1x1x6x6xf32>) -> tensor<16x6x24xf32> attributes {neuron.executor = #neuron.executor<core>} {
    NORM
    %turned = graph.transpose %n permutation [1, 0, 2] : (tensor<48x2x24xf32>) -> tensor<2x48x24xf32>
    %rows = graph.reshape %turned : (tensor<2x48x24xf32>) -> tensor<16x6x24xf32>
    %wq = graph.weight @q : tensor<24x24xf32>
    %wk = graph.weight @k : tensor<24x24xf32>
    %bk = graph.weight @b : tensor<24xf32>
    %m = graph.weight @mask : tensor<1x1x6x6xf32>
    %q = graph.matmul %rows, %wq : (tensor<16x6x24xf32>, tensor<24x24xf32>) -> tensor<16x6x24xf32>
    %p = graph.matmul %rows, %wk : (tensor<16x6x24xf32>, tensor<24x24xf32>) -> tensor<16x6x24xf32>
    %k = graph.binary add %bk, %p : (tensor<24xf32>, tensor<16x6x24xf32>) -> tensor<16x6x24xf32>
    %y = graph.attention %q, %k, %k, MASK heads 2 kv_heads 2 scale 0.25 : (tensor<16x6x24xf32>, tensor<16x6x24xf32>, tensor<16x6x24xf32>, tensor<1x1x6x6xf32>) -> tensor<16x6x24xf32>
    func.return %y : tensor<16x6x24xf32>
  }
}
"""  # noqa: E501

NORM = "%n = graph.layer_norm %x axis 2 epsilon 1.0e-05 : (tensor<48x2x24xf32>) -> tensor<48x2x24xf32>"
OTHER_AXES = NORM.replace("axis 2", "axis 1")
NO_NORM = "%n = graph.unary tanh %x : (tensor<48x2x24xf32>) -> tensor<48x2x24xf32>"


def weights_of(gain: float, **others: Array) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    made: dict[str, Array] = {name: gain * rng.standard_normal((24, 24)) / sqrt(24) for name in "qk"}
    made |= {"b": rng.standard_normal(24), "mask": np.zeros((1, 1, 6, 6))}
    return {name: array.astype(np.float32) for name, array in (made | others).items()}


def is_marked(weights: dict[str, Array], norm: str = NORM, mask: str = "%m") -> bool:
    store = WeightStore()
    for name, array in weights.items():
        store.add(name, array)
    context = Context()
    for dialect in (Builtin, Func, Graph, Neuron):
        context.load_dialect(dialect)
    module = Parser(context, TEXT.replace("NORM", norm).replace("MASK", mask)).parse_module()
    (step,) = with_weights([GraphBoundScoresPass.name], store)
    assert isinstance(step, WeighedBoundScores)
    step.apply(context, module)
    module.verify()
    (attention,) = (op for op in module.walk() if isinstance(op, AttentionOp))
    return BOUNDED_SCORES in attention.attributes


def hidden(*places: tuple[int, int], value: float = -np.inf) -> Array:
    mask = np.zeros((1, 1, 6, 6))
    for query, key in places:
        mask[..., query, key] = value
    return mask


def test_small_weights_bound_the_scores() -> None:
    assert is_marked(weights_of(1.0))
    assert not is_marked(weights_of(6.0))


# Keys may be hidden, but not all of a query's; what is added may not be large.
def test_masks_count() -> None:
    assert is_marked(weights_of(1.0, mask=hidden((0, 1), (3, 2), (3, 3))))
    assert not is_marked(weights_of(1.0, mask=hidden(*((2, key) for key in range(6)))))
    assert not is_marked(weights_of(1.0, mask=hidden(*((2, key) for key in range(6)), value=-100.0)))
    assert not is_marked(weights_of(1.0, mask=hidden((1, 1), value=85.0)))
    assert not is_marked(weights_of(1.0, mask=hidden((1, 1), value=np.nan)))
    assert not is_marked(weights_of(1.0), mask="%free")


# Values that overflow where powers do not; weights that are no numbers.
def test_numbers_out_of_range() -> None:
    assert not is_marked(weights_of(1.0, b=np.full(24, 1e36)))
    assert not is_marked(weights_of(1.0, b=np.full(24, np.nan)))
    assert not is_marked(weights_of(np.inf))


@pytest.mark.parametrize("norm", [OTHER_AXES, NO_NORM])
def test_rows_have_to_be_normalised(norm: str) -> None:
    assert not is_marked(weights_of(0.1), norm)


def normalised(rows: Array) -> Array:
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(("width", "size"), [(24, 8), (5, 16), (96, 32), (3, 1)])
def test_no_score_exceeds_the_bound(width: int, size: int) -> None:
    rng = np.random.default_rng(width)
    a, b = (Projection(rng.standard_normal((width, size)), rng.standard_normal(size)) for _ in range(2))
    bound = score_bound(a, b)
    # Rows that scores are greatest for, and any others.
    left, _, right = np.linalg.svd(a.weight @ b.weight.T)
    rows: Any = np.concatenate([left.T, right, -left.T, rng.standard_normal((200, width))])
    q, k = (normalised(rows) @ p.weight + p.bias for p in (a, b))
    assert np.abs(q @ k.T).max() <= bound
    # A bound by the norms of queries and keys alone is not below it.
    assert bound <= 1.1 * np.prod([sqrt(width) * np.linalg.norm(p.weight, 2) + np.linalg.norm(p.bias) for p in (a, b)])


# The text alone proves nothing.
def test_without_weights_nothing_is_marked() -> None:
    assert with_weights(["graph-fuse"], WeightStore()) == ["graph-fuse"]
    context = Context()
    for dialect in (Builtin, Func, Graph, Neuron):
        context.load_dialect(dialect)
    module = Parser(context, TEXT.replace("NORM", NORM).replace("MASK", "%m")).parse_module()
    before = str(module)
    GraphBoundScoresPass().apply(context, module)
    assert str(module) == before
