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


FOUND: dict[str, tuple[str, Mapping[str, Array]]] = {
    # The zero point 127.5 is a tie, which a scale wrong in its last place decides.
    "zero point at a tie": (
        """<ir_version: 7, opset_import: ["" : 13]>
        g (float[7] x) => (uint8[7] y, float scale, uint8 zero)
        { y, scale, zero = DynamicQuantizeLinear (x) }""",
        {"x": np.arange(-3, 4, dtype=np.float32)},
    ),
}
"""Model as text and its inputs, by what went wrong."""


@pytest.mark.parametrize(("target", "auto_cast"), [("trn1", "none"), ("inf1", "matmult")])
@pytest.mark.parametrize("name", FOUND)
def test_found(name: str, target: str, auto_cast: str) -> None:
    text, feeds = FOUND[name]
    check(Example(parser.parse_model(text), dict(feeds), target, auto_cast, check_races=True))
