"""Random models, compiled for a random target and run on the machine, give what onnxruntime gives.

The same examples are drawn in every run: a red build can be repeated, and a new failure comes from a change of ours.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, reject, seed, settings
from hypothesis import strategies as st

from lowering.onnx_to_graph.registry import converters
from tests.random_models import elementwise, linear, movement
from tests.random_models.builder import ModelBuilder
from tests.random_models.checking import Example, check

USES = {**elementwise.USES, **movement.USES, **linear.USES}
OPSETS = (18, 13, 21, 11, 23)
TARGETS = (("trn1", "none"), ("inf1", "matmult"), ("trn2", "none"), ("inf2", "matmult"))
OTHERWISE_TESTED = frozenset(
    (
        *("Constant", "Upsample", "Scatter", "TensorScatter", "Attention", "RotaryEmbedding", "LSTM", "GRU", "RNN"),
        *("GridSample", "AffineGrid", "RoiAlign", "DeformConv", "DFT", "STFT", "BitCast", "BitShift", "Col2Im"),
        *("Compress", "Acosh", "MaxUnpool", "NonMaxSuppression"),
    )
)
"""Operators of the importer's table that random models do not use: other spellings, and those with many conditions."""


@cache
def available(opset: int) -> list[str]:
    """The operators that ONNX has in a version of its set."""
    return [
        name for name in sorted(USES) if onnx.defs.has(name, opset) and not onnx.defs.get_schema(name, opset).deprecated
    ]


@st.composite
def examples(draw: Any) -> Example:
    """A model of one to eight nodes, which ONNX's checker and strict shape inference accept."""
    builder = ModelBuilder(draw, draw(st.sampled_from(OPSETS)), draw(st.integers(0, 2**16)))
    # The seed shuffles the operators: hypothesis likes to repeat choices, and would repeat operators.
    names = np.random.default_rng(builder.seed).permutation(available(builder.opset)).tolist()
    for _ in range(draw(st.integers(1, 8))):
        op_type = draw(st.sampled_from(names))
        USES[op_type](builder, op_type)
    assume(builder.nodes)
    target, auto_cast = draw(st.sampled_from(TARGETS))
    model = builder.model()
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.shape_inference.InferenceError:
        # onnx counts windows of AveragePool with ceil_mode that onnxruntime leaves out.
        reject()
    return Example(model, builder.feeds(), target, auto_cast, draw(st.sampled_from((False, False, True))))


RUN = settings(
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@settings(RUN, max_examples=40)
@given(example=examples())
def test_random_models(example: Example) -> None:
    check(example)


# 500 in all, cut into parts that several workers share.
@pytest.mark.nightly
@pytest.mark.parametrize("part", range(5))
def test_many_random_models(part: int) -> None:
    @seed(part)
    @settings(RUN, max_examples=100, derandomize=False)
    @given(example=examples())
    def run(example: Example) -> None:
        check(example)

    run()


# An operator that the importer learns is used by random models, or there is a reason why not.
def test_every_operator_of_the_table_is_used() -> None:
    assert set(converters()) - set(USES) - OTHERWISE_TESTED == set()
