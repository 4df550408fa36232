"""Attentions whose scores the weights bound: which are marked."""

from __future__ import annotations

from math import sqrt

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context

from lowering.bounded_scores import GraphBoundScoresPass, WeighedBoundScores, with_weights
from neuron_dialects.graph import AttentionOp
from neuron_dialects.graph.attention import SEES_KEYS
from neuron_dialects.weights import WeightStore
from tests.graph_level import parse
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


def is_marked(weights: dict[str, Array], norm: str = NORM, mask: str = "%m", text: str = TEXT) -> bool:
    return marked(weights, norm, mask, text).score_shift is not None


def marked(weights: dict[str, Array], norm: str = NORM, mask: str = "%m", text: str = TEXT) -> AttentionOp:
    store = WeightStore()
    for name, array in weights.items():
        store.add(name, array)
    module = parse(text.replace("NORM", norm).replace("MASK", mask))
    (step,) = with_weights([GraphBoundScoresPass.name], store)
    assert isinstance(step, WeighedBoundScores)
    step.apply(Context(), module)
    module.verify()
    (attention,) = (op for op in module.walk() if isinstance(op, AttentionOp))
    return attention


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


# With a negative one rows are as long as they like; with none, where a variance loses its digits.
@pytest.mark.parametrize("epsilon", ["-0.5", "0.0"])
def test_epsilon_has_to_be_positive(epsilon: str) -> None:
    assert not is_marked(weights_of(0.1), NORM.replace("1.0e-05", epsilon))


def behind_queries(*steps: str) -> str:
    """The text with operators between %q and the attention, the last of which makes %r; Q is their type."""
    return TEXT.replace("    %y = graph.attention %q,", "\n".join([*steps, "    %y = graph.attention %r,"])).replace(
        "Q", "tensor<16x6x24xbf16>"
    )


# Other types than those of the core's arithmetic leave no small relative error.
@pytest.mark.parametrize(("dtype", "marked"), [("i1", False), ("i32", False), ("f16", False), ("f32", True)])
def test_casts_of_projections(dtype: str, marked: bool) -> None:
    other = f"tensor<16x6x24x{dtype}>"
    text = behind_queries(f"%c = graph.cast %q : (Q) -> {other}", f"%r = graph.cast %c : ({other}) -> Q")
    assert is_marked(weights_of(0.1), text=text) == marked


# Two numbers cancel, what rounding left of the first sum does not.
def test_no_two_numbers_are_added() -> None:
    text = behind_queries(
        "%up = graph.weight @up : tensor<24xbf16>",
        "%down = graph.weight @down : tensor<24xbf16>",
        "%c = graph.binary add %q, %up : (Q, tensor<24xbf16>) -> Q",
        "%r = graph.binary add %c, %down : (Q, tensor<24xbf16>) -> Q",
    )
    assert not is_marked(weights_of(0.1, up=np.full(24, 1e6), down=np.full(24, -1e6)), text=text)


def test_factors_out_of_range() -> None:
    steps = ["%f = graph.weight @f : tensor<24xbf16>"]
    for source, result in zip("qabc", "abcr", strict=True):
        steps.append(f"%{result} = graph.binary mul %{source}, %f : (Q, tensor<24xbf16>) -> Q")
    assert is_marked(weights_of(1.0, f=np.full(24, 1.0)), text=behind_queries(*steps))
    assert not is_marked(weights_of(1.0, f=np.full(24, 3e38)), text=behind_queries(*steps))
    assert not is_marked(
        weights_of(1.0, f=np.full(24, 1e-38)) | {"q": np.full((24, 24), np.inf).astype(ml_dtypes.bfloat16)},
        text=behind_queries(*steps),
    )


def test_weights_of_other_shapes_or_types_prove_nothing() -> None:
    for name, shape in {"q": (10, 10), "b": (7,), "mask": (1, 1, 5, 5)}.items():
        assert not is_marked(weights_of(0.1, **{name: np.zeros(shape)}))
    assert not is_marked(weights_of(0.1) | {"q": np.zeros((24, 24), np.float32)})


def test_no_features_and_no_keys() -> None:
    none = TEXT.replace("%x: tensor<48x2x24xbf16>", "%x: tensor<48x2x0xbf16>").replace("48x2x24", "48x2x0")
    none = none.replace("2x48x24", "2x48x0").replace("tensor<24x24xbf16>", "tensor<0x24xbf16>")
    none = none.replace("-> tensor<16x6x24xbf16>\n    %wq", "-> tensor<16x6x0xbf16>\n    %wq")
    none = none.replace("%rows, %wq : (tensor<16x6x24", "%rows, %wq : (tensor<16x6x0")
    none = none.replace("%rows, %wk : (tensor<16x6x24", "%rows, %wk : (tensor<16x6x0")
    empty = np.zeros((0, 24))
    assert not is_marked(weights_of(0.1, q=empty, k=empty), NORM.replace("48x2x24", "48x2x0"), text=none)
    few = TEXT.replace(
        "    %y = graph.attention %q, %k, %k, MASK",
        "%e = graph.slice %k starts [0, 0, 0] sizes [16, 0, 24] steps [1, 1, 1] :"
        " (tensor<16x6x24xbf16>) -> tensor<16x0x24xbf16>\n    %y = graph.attention %q, %e, %e",
    ).replace(
        "(tensor<16x6x24xbf16>, tensor<16x6x24xbf16>, tensor<16x6x24xbf16>, tensor<1x1x6x6xbf16>)",
        "(tensor<16x6x24xbf16>, tensor<16x0x24xbf16>, tensor<16x0x24xbf16>)",
    )
    assert not is_marked(weights_of(0.1), text=few)


# A file name that no file can have is no weights either.
def test_a_path_that_is_too_long() -> None:
    named = TEXT.replace("attributes {neuron.target", f'attributes {{neuron.weights = "{"w" * 300}", neuron.target', 1)
    module = parse(named.replace("NORM", NORM).replace("MASK", "%m"))
    before = str(module)
    GraphBoundScoresPass().apply(Context(), module)
    assert str(module) == before


# The text alone proves nothing.
def test_without_weights_nothing_is_marked() -> None:
    assert with_weights(["graph-fuse"], WeightStore()) == ["graph-fuse"]
    module = parse(TEXT.replace("NORM", NORM).replace("MASK", "%m"))
    before = str(module)
    GraphBoundScoresPass().apply(Context(), module)
    assert str(module) == before


# Queries see a key each; one of them sees none, or nothing is known of what it sees.
@pytest.mark.parametrize(("hidden", "sees"), [(0.0, True), (-1e9, False), (-np.inf, False), (np.nan, False)])
def test_masks_that_hide_all_keys(hidden: float, sees: bool) -> None:
    mask = np.where(np.eye(6) > 0, 0.0, -np.inf)
    mask[3] += hidden
    weights = weights_of(1.0, mask=mask.reshape(1, 1, 6, 6))
    assert (SEES_KEYS in marked(weights).attributes) is sees
