"""Models that random testing found wrong, at their smallest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import parser

from tests.random_models.builder import Array
from tests.random_models.checking import Example, check


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def sums_of_rows(*rows: int) -> tuple[str, dict[str, Array]]:
    """For 128 samples, sums of four rows of each of some tables [rows, 16], side by side."""
    tables = [
        f"float[{count}, 16] t{n} = {{{', '.join(map(str, normal(count * 16)))}}}" for n, count in enumerate(rows)
    ]
    sums = "".join(
        f"g{n} = Gather (t{n}, i{n}) s{n} = ReduceSum <keepdims = 0> (g{n}, axes) " for n in range(len(rows))
    )
    text = f"""<ir_version: 7, opset_import: ["" : 13]>
    g ({", ".join(f"int32[128, 4] i{n}" for n in range(len(rows)))}) => (float[128, {16 * len(rows)}] y)
    <int64[1] axes = {{1}}, {", ".join(tables)}>
    {{ {sums} y = Concat <axis = 1> ({", ".join(f"s{n}" for n in range(len(rows)))}) }}"""
    rng = np.random.default_rng(0)
    return text, {f"i{n}": rng.integers(0, count, (128, 4), np.int32) for n, count in enumerate(rows)}


FOUND: dict[str, tuple[str, Mapping[str, Array]]] = {
    # The zero point 127.5 is a tie, which a scale wrong in its last place decides.
    "zero point at a tie": (
        """<ir_version: 7, opset_import: ["" : 13]>
        g (float[7] x) => (uint8[7] y, float scale, uint8 zero)
        { y, scale, zero = DynamicQuantizeLinear (x) }""",
        {"x": np.arange(-3, 4, dtype=np.float32)},
    ),
    # What fetches rows of tables on chip reads as much of every table as of the largest.
    "memory behind small tables": sums_of_rows(3, 40, 1, 9, 17),
}
"""Model as text and its inputs, by what went wrong."""


@pytest.mark.parametrize(("target", "auto_cast"), [("trn1", "none"), ("inf1", "matmult")])
@pytest.mark.parametrize("name", FOUND)
def test_found(name: str, target: str, auto_cast: str) -> None:
    text, feeds = FOUND[name]
    check(Example(parser.parse_model(text), dict(feeds), target, auto_cast, check_races=True))
