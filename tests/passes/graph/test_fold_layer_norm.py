"""Parameters of a normalisation in convolutions of its result turned to images: the same numbers, and what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.ir import Block, SSAValue

from neuron_dialects.graph import ConvOp, LayerNormOp, TransposeOp, UnaryKind, UnaryOp
from neuron_dialects.ssa_order import check_ssa_order
from passes.graph.fold_layer_norm import GraphFoldLayerNormPass
from runtime.graph_interpreter import run_graph
from tests.core_kernels import core_function, core_module, random_inputs

ROWS = ("f32", (2, 4, 6, 8))
"""[N, H, W, C]."""

WEIGHTS = {"scale": (8,), "bias": (8,), "w": (5, 8, 2, 2), "b": (5,), "grouped": (4, 4, 2, 2), "narrow": (3, 8, 1, 1)}


def folded(
    names: Sequence[str],
    convs: Sequence[tuple[str, str | None, int, int]],
    *,
    read_beside: bool = False,
    returns_images: bool = False,
) -> bool:
    """Whether the parameters `names` of a normalisation go into the convolutions (weights, bias, pad, groups) behind
    it; checks that the numbers stay what they are. `read_beside`: something else reads the images.
    """
    random = np.random.default_rng(1)
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in WEIGHTS.items()}

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> list[SSAValue]:
        given = [values[name] if name in names else None for name in ("scale", "bias")]
        norm = LayerNormOp(arguments[0], *given, axis=3, epsilon=1e-5)
        images = TransposeOp(norm.result, (0, 3, 1, 2))
        block.add_ops([norm, images])
        results: list[SSAValue] = [images.result] if returns_images else []
        for w, bias, pad, groups in convs:
            conv = ConvOp(
                images.result,
                values[w],
                None if bias is None else values[bias],
                strides=(2, 2),
                pads=(pad,) * 4,
                dilations=(1, 1),
                groups=groups,
            )
            block.add_op(conv)
            results.append(conv.result)
        if read_beside:
            block.add_op(other := UnaryOp(UnaryKind.RELU, images.result))
            results.append(other.result)
        return results

    module = core_module("trn1", [ROWS], weights, make)
    inputs = random_inputs([ROWS])
    want = run_graph(core_function(module), inputs, weights.__getitem__)
    GraphFoldLayerNormPass().apply(Context(), module)
    module.verify()
    assert not check_ssa_order(module)
    for got, value in zip(run_graph(core_function(module), inputs, weights.__getitem__), want, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5)
    (norm,) = [op for op in module.walk() if isinstance(op, LayerNormOp)]
    return norm.scale is None and norm.bias is None


BOTH = ("scale", "bias")


# Parameters go into all convolutions of the images, with a bias of their own or without.
@pytest.mark.parametrize("names", [BOTH, ("scale",), ("bias",)])
def test_into_convolutions(names: Sequence[str]) -> None:
    assert folded(names, [("w", "b", 0, 1), ("narrow", None, 0, 1)])


# A border of zeros has no bias: that stays, a scale alone does not.
def test_a_border() -> None:
    assert not folded(BOTH, [("w", "b", 1, 1)])
    assert folded(("scale",), [("w", "b", 1, 1)])


# Groups, other readers and a result of the function keep the parameters where they are.
def test_what_stays() -> None:
    assert not folded(BOTH, [("grouped", None, 0, 2)])
    assert not folded(BOTH, [("w", "b", 0, 1)], read_beside=True)
    assert not folded(BOTH, [("w", "b", 0, 1)], returns_images=True)
