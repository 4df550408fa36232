"""Graph-level modules of equal layers, as the partition leaves them, and their weights."""

from __future__ import annotations

import numpy as np

from neuron_dialects.weights import WeightStore

ROWS, FEATURES = 32, 64
TENSOR = f"tensor<{ROWS}x{FEATURES}xf32>"
SQUARE = f"tensor<{FEATURES}x{FEATURES}xf32>"
ROW = f"tensor<{FEATURES}xf32>"


def layered_text(layers: int, returns: str = "", shared: bool = False, target: str = "trn1") -> str:
    """@main that launches @neuron_0, which begins with a scaled input, has `layers` layers, and ends with a function.

    A layer is x + relu(x w + b) * m, with weights of its own (all the same if `shared`) and one argument m for all.
    `returns`: a value besides the result that the function returns, like `%h3` of layer 3.
    """
    more = f", {returns}" if returns else ""
    types = f"{TENSOR}, {TENSOR}" if returns else TENSOR
    lines = [f"%x0 = graph.unary tanh %x : ({TENSOR}) -> {TENSOR}"]
    for n in range(layers):
        own = 0 if shared else n
        lines += [
            f"%w{n} = graph.weight @w{own} : {SQUARE}",
            f"%b{n} = graph.weight @b{own} : {ROW}",
            f"%p{n} = graph.matmul %x{n}, %w{n} : ({TENSOR}, {SQUARE}) -> {TENSOR}",
            f"%a{n} = graph.binary add %p{n}, %b{n} : ({TENSOR}, {ROW}) -> {TENSOR}",
            f"%r{n} = graph.unary relu %a{n} : ({TENSOR}) -> {TENSOR}",
            f"%h{n} = graph.binary mul %r{n}, %m : ({TENSOR}, {TENSOR}) -> {TENSOR}",
            f"%x{n + 1} = graph.binary add %x{n}, %h{n} : ({TENSOR}, {TENSOR}) -> {TENSOR}",
        ]
    lines.append(f"%y = graph.unary tanh %x{layers} : ({TENSOR}) -> {TENSOR}")
    body = "\n    ".join(lines)
    result = "%0, %1" if returns else "%0"
    core = "attributes {neuron.executor = #neuron.executor<core>}"
    launched = f"neuron.launch @neuron_0(%x, %m) on core : ({TENSOR}, {TENSOR}) -> ({types})"
    return f"""builtin.module attributes {{neuron.target = #neuron.target<"{target}">}} {{
  func.func @main(%x: {TENSOR}, %m: {TENSOR}) -> ({types}) {{
    {result} = {launched}
    func.return {result} : {types}
  }}
  func.func private @neuron_0(%x: {TENSOR}, %m: {TENSOR}) -> ({types}) {core} {{
    {body}
    func.return %y{more} : {types}
  }}
}}
"""


def layered_weights(layers: int) -> WeightStore:
    """The weights of `layered_text`."""
    rng, store = np.random.default_rng(0), WeightStore()
    for n in range(layers):
        store.add(f"w{n}", rng.standard_normal((FEATURES, FEATURES), dtype=np.float32) / 8)
        store.add(f"b{n}", rng.standard_normal(FEATURES, dtype=np.float32) / 8)
    return store


def layered_inputs() -> list[np.ndarray]:
    """Inputs of `layered_text`."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal((ROWS, FEATURES), dtype=np.float32) for _ in range(2)]
