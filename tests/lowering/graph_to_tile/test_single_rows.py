"""Matmuls of single rows in a batch: the batch lies on the partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import BinaryKind, BinaryOp, MatMulOp
from tests.core_kernels import lowered_error

Shape = tuple[int, ...]


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize(
    ("a", "b", "flag", "bias"),
    [
        ((35, 1, 150), (150, 700), "", (700,)),
        ((35, 1, 150), (700, 150), "transpose_b", None),
        ((35, 150, 1), (150, 70), "transpose_a", (35, 1, 1)),
        ((3, 200, 1, 64), (3, 1, 64, 70), "", None),
        ((7, 1, 64), (7, 64, 70), "", None),
        ((4, 1, 1, 64), (1, 6, 64, 70), "", (4, 1, 1, 1)),
    ],
    ids=str,
)
def test_single_rows(target: str, a: Shape, b: Shape, flag: str, bias: Shape | None) -> None:
    rng = np.random.default_rng(0)
    dtype = "f32" if target == "trn1" else "bf16"
    weights = {"b": rng.standard_normal(b).astype(dtype_by_name(dtype).numpy)}
    if bias is not None:
        weights["bias"] = rng.standard_normal(bias).astype(np.float32)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        flags = {flag: True} if flag else {}
        op = MatMulOp(arguments[0], values["b"], accumulate_f32=True, **flags)
        block.add_op(op)
        if "bias" not in values:
            return [op.result]
        total = BinaryOp(BinaryKind.ADD, op.result, values["bias"])
        block.add_op(total)
        return [total.result]

    assert lowered_error(target, [(dtype, a)], weights, make) < 1e-6
