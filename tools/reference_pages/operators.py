"""The page of the ONNX operators: which can run on a core, in which versions, and how they are converted."""

from __future__ import annotations

from tools.list_operators import operators
from tools.reference_pages.markdown import code, page, table


def operators_page() -> str:
    """The page of the operators."""
    rows = operators()
    return page(
        "Operators",
        f"{len(rows)} ONNX operators become operators of the [graph dialect](graph.md) and can run on a core: by a"
        " converter of their own, or expanded through ONNX's function body into others that can. `neuron-cc analyze"
        " MODEL` tells what of a model runs where and why: an element type or an attribute may need the host. Every"
        " other operator runs on the host, in onnxruntime. This is what `neuron-cc list-operators --verbose` prints.",
        table(
            ("operator", "operator set", "how"),
            (
                (code(row.name), f"{row.since} to {row.until}" if row.until else f"from {row.since}", row.how)
                for row in rows
            ),
        ),
    )
