"""A stack of equal decoder layers as ONNX nodes, to see how compile time grows with the number of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto

Array = np.ndarray[Any, np.dtype[Any]]
WIDTH, HEADS, TOKENS = 768, 12, 128


def decoder_nodes(layers: int) -> tuple[list[NodeProto], dict[str, Array]]:
    """(nodes, weights) of `layers` layers from `x0` to `x<layers>`: normalise, attend, add, normalise, widen, add."""
    rng = np.random.default_rng(layers)
    mask = np.triu(np.full((TOKENS, TOKENS), -1e9, np.float32), 1)
    weights: dict[str, Array] = {
        "mask": mask, "scale": np.float32((WIDTH // HEADS) ** -0.5) * np.ones((), np.float32),
        "heads": np.array([1, TOKENS, HEADS, WIDTH // HEADS]), "joined": np.array([1, TOKENS, WIDTH]),
    }  # fmt: skip
    nodes: list[NodeProto] = []
    for layer in range(layers):
        nodes += _layer(layer, weights, rng)
    return nodes, weights


def _layer(layer: int, weights: dict[str, Array], rng: np.random.Generator) -> list[NodeProto]:
    from onnx import helper

    nodes: list[NodeProto] = []

    def weight(name: str, *shape: int) -> str:
        weights[f"w{layer}.{name}"] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        return f"w{layer}.{name}"

    def node(op: str, output: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [output], name=f"layer{layer}/{output}", **attributes))
        return output

    def linear(output: str, source: str, columns: int, rows: int = WIDTH) -> str:
        product = node("MatMul", f"{output}.product", source, weight(output, rows, columns))
        return node("Add", output, product, weight(f"{output}.bias", columns))

    def normalised(output: str, source: str) -> str:
        scale, bias = weight(f"{output}.scale", WIDTH), weight(f"{output}.bias", WIDTH)
        return node("LayerNormalization", output, source, scale, bias, axis=-1)

    def heads(output: str, source: str, permutation: list[int]) -> str:
        split = node("Reshape", f"{output}.split", linear(f"{output}.rows", source, WIDTH), "heads")
        return node("Transpose", output, split, perm=permutation)

    p, x = f"l{layer}.", f"x{layer}"
    first = normalised(f"{p}first", x)
    q, k, v = (
        heads(f"{p}{name}", first, order)
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
    )
    scores = node("Mul", f"{p}scaled", node("MatMul", f"{p}scores", q, k), "scale")
    shares = node("Softmax", f"{p}shares", node("Add", f"{p}masked", scores, "mask"), axis=-1)
    turned = node("Transpose", f"{p}turned", node("MatMul", f"{p}context", shares, v), perm=[0, 2, 1, 3])
    attended = linear(f"{p}out", node("Reshape", f"{p}joined", turned, "joined"), WIDTH)
    middle = node("Add", f"{p}middle", x, attended)
    wide = linear(f"{p}wide", normalised(f"{p}second", middle), 4 * WIDTH)
    narrow = linear(f"{p}narrow", node("Gelu", f"{p}gelu", wide, approximate="tanh"), WIDTH, 4 * WIDTH)
    node("Add", f"x{layer + 1}", middle, narrow)
    return nodes
