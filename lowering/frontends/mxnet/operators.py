"""The table of MXNet's operators: name -> the function that writes their ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lowering.frontends.mxnet.builder import Call
from lowering.frontends.mxnet.elementwise import ELEMENTWISE
from lowering.frontends.mxnet.movement import MOVEMENT
from lowering.frontends.mxnet.neural import NEURAL
from lowering.frontends.mxnet.symbol_file import Entry, SymbolNode

OPERATORS: Mapping[str, Callable[[Call], list[str]]] = {**NEURAL, **ELEMENTWISE, **MOVEMENT}
"""Each function gives the names of the ONNX values that are the node's outputs, in order."""

_WITH_LABELS = frozenset(
    (
        "SoftmaxOutput",
        "Softmax",
        "LinearRegressionOutput",
        "LogisticRegressionOutput",
        "MAERegressionOutput",
        "SVMOutput",
    )
)


def data_inputs(node: SymbolNode) -> tuple[Entry, ...]:
    """What a node reads when it predicts: everything but labels."""
    return node.inputs[:1] if node.op in _WITH_LABELS else node.inputs
