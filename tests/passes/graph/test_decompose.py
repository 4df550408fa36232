"""Decomposed reductions compute what they computed before."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from neuron_dialects.dtypes import BF16, F16, F32, F64, I32, DType
from neuron_dialects.graph import ReduceKind, ReduceOp
from passes.graph.decompose import GraphDecomposePass
from tests.graph_level import Array, check_same_results, parse

SPLIT = [ReduceKind.L1, ReduceKind.L2, ReduceKind.SUM_SQUARE, ReduceKind.LOG_SUM, ReduceKind.LOG_SUM_EXP]
INTEGER = [ReduceKind.L1, ReduceKind.SUM_SQUARE]
CASES = [*product(SPLIT, [F32, F64, F16, BF16], [True, False]), *product(INTEGER, [I32], [True, False])]


@pytest.mark.parametrize(("kind", "dtype", "keep_dims"), CASES, ids=str)
def test_reductions_keep_their_results(kind: ReduceKind, dtype: DType, keep_dims: bool):
    result = f"tensor<{'3x1x1' if keep_dims else '3'}x{dtype}>"
    module = parse(
        f"""
        func.func @main(%x: tensor<3x4x5x{dtype}>) -> {result} {{
          %0 = graph.reduce {kind} %x axes [1, 2] {"keep_dims" if keep_dims else ""}
            : (tensor<3x4x5x{dtype}>) -> {result}
          func.return %0 : {result}
        }}"""
    )
    x = (np.abs(np.random.default_rng(0).standard_normal((3, 4, 5))) * 3 + 0.5).astype(dtype.numpy)
    # Narrow floats are rounded once either way: at most one unit in the last place apart.
    tolerance = {"f16": 1e-3, "bf16": 8e-3}.get(dtype.name, 1e-6)
    check_same_results(module, GraphDecomposePass(), tolerance=tolerance, inputs=[x])
    left = [op.kind.data for op in module.walk() if isinstance(op, ReduceOp)]
    assert set(left) <= {ReduceKind.SUM, ReduceKind.MAX}


# Infinities and numbers whose exponential or square overflows.
@pytest.mark.parametrize(
    ("kind", "dtype", "row"),
    [
        (ReduceKind.LOG_SUM_EXP, F32, [1000.0, 999.0]),
        (ReduceKind.LOG_SUM_EXP, F32, [-np.inf, -np.inf]),
        (ReduceKind.LOG_SUM_EXP, F32, [np.inf, 0.0]),
        (ReduceKind.LOG_SUM_EXP, F16, [-np.inf, 60000.0]),
        (ReduceKind.L2, F16, [300.0, 400.0]),
    ],
)
def test_extreme_values(kind: ReduceKind, dtype: DType, row: list[float]):
    x: Array = np.array([row], dtype.numpy)
    module = parse(
        f"""
        func.func @main(%x: tensor<1x2x{dtype}>) -> tensor<1x{dtype}> {{
          %0 = graph.reduce {kind} %x axes [1] : (tensor<1x2x{dtype}>) -> tensor<1x{dtype}>
          func.return %0 : tensor<1x{dtype}>
        }}"""
    )
    check_same_results(module, GraphDecomposePass(), tolerance=1e-3, inputs=[x])
