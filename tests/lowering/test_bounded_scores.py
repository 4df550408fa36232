"""Attentions whose scores the weights bound: which are marked."""

from __future__ import annotations

from math import sqrt

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin
from xdsl.dialects.func import Func
from xdsl.parser import Parser

from lowering.bounded_scores import GraphBoundScoresPass, WeighedBoundScores, with_weights
from neuron_dialects.graph import AttentionOp, Graph
from neuron_dialects.neuron import Neuron
from neuron_dialects.weights import WeightStore
from tests.lowering.graph_to_tile.core_kernel import Array

WIDTH, LENGTH, SEQUENCES = 24, 6, 16

TEXT = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<48x2x24xbf16>, %free: tensor<1x1x6x6xbf16>) -> tensor<16x6x24xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    NORM
    %turned = graph.transpose %n permutation [1, 0, 2] : (tensor<48x2x24xbf16>) -> tensor<2x48x24xbf16>
    %rows = graph.reshape %turned : (tensor<2x48x24xbf16>) -> tensor<16x6x24xbf16>
    %wq = graph.weight @q : tensor<24x24xbf16>
    %wk = graph.weight @k : tensor<24x24xbf16>
    %bk = graph.weight @b : tensor<24xbf16>
    %m = graph.weight @mask : tensor<1x1x6x6xbf16>
    %q = graph.matmul %rows, %wq : (tensor<16x6x24xbf16>, tensor<24x24xbf16>) -> tensor<16x6x24xbf16>
    %p = graph.matmul %rows, %wk : (tensor<16x6x24xbf16>, tensor<24x24xbf16>) -> tensor<16x6x24xbf16>
    %k = graph.binary add %bk, %p : (tensor<24xbf16>, tensor<16x6x24xbf16>) -> tensor<16x6x24xbf16>
    %y = graph.attention %q, %k, %k, MASK heads 2 kv_heads 2 scale 0.25 : (tensor<16x6x24xbf16>, tensor<16x6x24xbf16>, tensor<16x6x24xbf16>, tensor<1x1x6x6xbf16>) -> tensor<16x6x24xbf16>
    func.return %y : tensor<16x6x24xbf16>
  }
}
"""  # noqa: E501

NORM = "%n = graph.layer_norm %x axis 2 epsilon 1.0e-05 : (tensor<48x2x24xbf16>) -> tensor<48x2x24xbf16>"
OTHER_AXES = NORM.replace("axis 2", "axis 1")
NO_NORM = "%n = graph.unary tanh %x : (tensor<48x2x24xbf16>) -> tensor<48x2x24xbf16>"


def weights_of(gain: float, **others: Array) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    made: dict[str, Array] = {name: gain * rng.standard_normal((24, 24)) / sqrt(24) for name in "qk"}
    made |= {"b": rng.standard_normal(24), "mask": np.zeros((1, 1, 6, 6))}
    return {name: array.astype(ml_dtypes.bfloat16) for name, array in (made | others).items()}


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
    return attention.score_shift is not None


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
    assert not is_marked(weights_of(1.0, mask=hidden(*((2, key) for key in range(6)), value=-200.0)))
    assert not is_marked(weights_of(1.0, mask=hidden((1, 1), value=185.0)))
    assert not is_marked(weights_of(1.0, mask=hidden((1, 1), value=np.nan)))
    assert not is_marked(weights_of(1.0), mask="%free")


# Values that overflow where powers do not; weights that are no numbers.
def test_numbers_out_of_range() -> None:
    assert is_marked(weights_of(2.5))
    assert not is_marked(weights_of(2.5, b=np.full(24, 1e36)))
    assert not is_marked(weights_of(1.0, b=np.full(24, np.nan)))
    assert not is_marked(weights_of(np.inf))


@pytest.mark.parametrize("norm", [OTHER_AXES, NO_NORM])
def test_rows_have_to_be_normalised(norm: str) -> None:
    assert not is_marked(weights_of(0.1), norm)


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
