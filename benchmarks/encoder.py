"""A stack of equal encoder layers of BERT's shape as ONNX nodes, behind tables of words and positions.

Sizes are those of the large model; weights are random, for what a compiler makes of a model depends on its shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto

Array = np.ndarray[Any, np.dtype[Any]]
WIDTH, HEADS, TOKENS, WORDS = 1024, 16, 128, 30522


class _Builder:
    """Nodes and weights in the making."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self._rng = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int) -> str:
        """A random weight of a standard deviation of 0.02."""
        values = self._rng.random(shape, dtype=np.float32)
        # Uniform values are made many times as fast as normal ones.
        self.weights[name] = (values - np.float32(0.5)) * np.float32(0.02 * 12**0.5)
        return name

    def node(self, op: str, output: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def linear(self, output: str, source: str, rows: int, columns: int) -> str:
        """A product with a weight, and a bias."""
        product = self.node("MatMul", f"{output}.product", source, self.weight(f"{output}.w", rows, columns))
        return self.node("Add", output, product, self.weight(f"{output}.b", columns))

    def normalised_sum(self, output: str, first: str, second: str) -> str:
        """The sum of two tensors, normalised over the features."""
        total = self.node("Add", f"{output}.sum", first, second)
        scale, bias = self.weight(f"{output}.scale", WIDTH), self.weight(f"{output}.bias", WIDTH)
        return self.node("LayerNormalization", output, total, scale, bias, axis=-1)

    def heads(self, output: str, source: str, order: list[int]) -> str:
        """A projection to heads in a dimension order."""
        split = self.node("Reshape", f"{output}.split", self.linear(f"{output}.rows", source, WIDTH, WIDTH), "heads")
        return self.node("Transpose", output, split, perm=order)

    def layer(self, number: int) -> None:
        """One layer from `x<number>` to `x<number + 1>`: attend, add and normalise, widen, add and normalise."""
        p, x = f"layer{number}.", f"x{number}"
        q, k, v = (
            self.heads(f"{p}{name}", x, order)
            for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
        )
        scores = self.node("Mul", f"{p}scaled", self.node("MatMul", f"{p}scores", q, k), "scale")
        context = self.node("MatMul", f"{p}context", self.node("Softmax", f"{p}shares", scores, axis=-1), v)
        turned = self.node("Transpose", f"{p}turned", context, perm=[0, 2, 1, 3])
        joined = self.node("Reshape", f"{p}joined", turned, "joined")
        attended = self.normalised_sum(f"{p}middle", x, self.linear(f"{p}out", joined, WIDTH, WIDTH))
        wide = self.node("Gelu", f"{p}gelu", self.linear(f"{p}wide", attended, WIDTH, 4 * WIDTH))
        self.normalised_sum(f"x{number + 1}", attended, self.linear(f"{p}narrow", wide, 4 * WIDTH, WIDTH))


def encoder_nodes(layers: int) -> tuple[list[NodeProto], dict[str, Array]]:
    """(nodes, weights) of `layers` layers from the words `ids`, i32[1, TOKENS], to `x<layers>`."""
    build = _Builder(layers)
    build.weights["heads"] = np.array([1, TOKENS, HEADS, WIDTH // HEADS])
    build.weights["joined"] = np.array([1, TOKENS, WIDTH])
    build.weights["scale"] = np.array((WIDTH // HEADS) ** -0.5, np.float32)
    words = build.node("Gather", "words", build.weight("table", WORDS, WIDTH), "ids", axis=0)
    build.normalised_sum("x0", words, build.weight("positions", TOKENS, WIDTH))
    for number in range(layers):
        build.layer(number)
    return build.nodes, build.weights
