"""Apache MXNet's saved models, `NAME-symbol.json` with `NAME-0000.params`, as ONNX: `read_mxnet`.

MXNet itself is retired and has no packages for the Pythons that we run on, so its two public formats are read here,
and its operators translated by tables of our own. Nothing of MXNet is needed.
"""

from lowering.frontends.mxnet.convert import converted, read_mxnet
from lowering.frontends.mxnet.operators import OPERATORS

__all__ = ["OPERATORS", "converted", "read_mxnet"]
