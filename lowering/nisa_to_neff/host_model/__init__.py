"""Host functions as ONNX models, which the runtime runs with onnxruntime.

A function of graph operators, ONNX nodes, constants and weights becomes one serialized model that says the same in ONNX
operators of one version. `host_model_bytes` is the whole interface.
"""

from lowering.nisa_to_neff.host_model.translate import host_model_bytes

__all__ = ["host_model_bytes"]
