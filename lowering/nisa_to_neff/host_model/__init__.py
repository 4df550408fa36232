"""Host functions as ONNX models, which the runtime runs with onnxruntime.

A function of graph operators, ONNX nodes, constants and weights becomes one serialized model that says the same in ONNX
operators of one version. `host_model_bytes` is the whole interface.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
from xdsl.dialects.func import FuncOp


def host_model_bytes(function: FuncOp, weights: Callable[[str], npt.NDArray[Any]]) -> bytes:
    """A host function as a serialized ONNX model, the same bytes for the same function and weights.

    The model's inputs `in0`, `in1`, ... are the function's arguments, its outputs `out0`, `out1`, ... the results. They
    have the element types of the function, except that bf16 and 8-bit floats, which numpy lacks, pass as f32.

    Args:
        function: one block of graph operators, ONNX nodes, constants and weights.
        weights: gives a weight by name; only those that the results depend on are asked for.

    Raises:
        NeuronError: NX-IR-001 for an operator that is not the host's or holds no ONNX node; NX-OP-001 for an ONNX node
            that cannot be written together with the others; NX-OP-002 for element types that ONNX does not have;
            NX-WEIGHT-004 for a weight that differs from what the function states; NX-NEFF-010 for more constants than
            an ONNX model can hold.
    """
    # Imported here: onnx takes long to import, and a program without host functions does not need it.
    from lowering.nisa_to_neff.host_model.translate import host_model

    return host_model(function, weights).SerializeToString(deterministic=True)
