"""MXNet's layers in ONNX: convolution, pooling, normalisation, softmax and other outputs, embedding, attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from lowering.frontends.mxnet.builder import Call
from lowering.frontends.mxnet.symbol_file import SymbolNode

_CHANNELS_FIRST = ("None", "NCW", "NCHW", "NCDHW")


def _window(node: SymbolNode) -> dict[str, Any]:
    """Attributes that convolutions share. MXNet pads both sides alike."""
    kernel = node.integers("kernel")
    if node.text("layout", "None") not in _CHANNELS_FIRST:
        raise node.error(f"layout {node.text('layout', '')} is not supported, only channels first")
    if not 1 <= len(kernel) <= 3:
        raise node.error(f"a kernel of {len(kernel)} dimensions")
    pads = node.integers("pad", (0,) * len(kernel))
    return {
        "kernel_shape": kernel,
        "strides": node.integers("stride", (1,) * len(kernel)),
        "dilations": node.integers("dilate", (1,) * len(kernel)),
        "pads": (*pads, *pads),
        "group": node.integer("num_group", 1),
    }


def _with_bias(call: Call, no_bias: bool) -> tuple[str, ...]:
    """Data, weight, and the bias if there is one."""
    count = 2 if call.node.flag("no_bias", no_bias) else 3
    return tuple(call.argument(position) for position in range(count))


def _convolution(call: Call) -> list[str]:
    return [call.add("Conv", *_with_bias(call, False), **_window(call.node))]


def _deconvolution(call: Call) -> list[str]:
    node = call.node
    if node.has("target_shape") and any(node.integers("target_shape")):
        raise node.error("target_shape is not supported: the padding must be given")
    window = _window(node)
    adjust = node.integers("adj", (0,) * len(window["kernel_shape"]))
    return [call.add("ConvTranspose", *_with_bias(call, True), output_padding=adjust, **window)]


def _fully_connected(call: Call) -> list[str]:
    """y = x·Wᵀ + b, on everything but the batch or, without `flatten`, on the last dimension."""
    node = call.node
    inputs = _with_bias(call, False)
    if node.flag("flatten", True):
        return [call.add("Gemm", call.add("Flatten", call.x, axis=1), *inputs[1:], transB=1)]
    product = call.add("MatMul", call.x, call.add("Transpose", inputs[1], perm=(1, 0)))
    return [call.add("Add", product, inputs[2]) if len(inputs) == 3 else product]


def _batch_norm(call: Call) -> list[str]:
    """Scale and shift by running statistics. With `fix_gamma`, the default, the scale is 1, whatever is saved."""
    node = call.node
    if node.integer("axis", 1) != 1 or node.flag("output_mean_var", False):
        raise node.error("only axis 1, without the outputs of statistics, is supported")
    gamma, beta, mean, variance = (call.argument(position) for position in range(1, 5))
    if node.flag("fix_gamma", True):
        gamma = call.builder.constant(np.ones_like(call.parameter(1)))
    return [call.add("BatchNormalization", call.x, gamma, beta, mean, variance, epsilon=node.number("eps", 1e-3))]


def _instance_norm(call: Call) -> list[str]:
    epsilon = call.node.number("eps", 1e-3)
    return [call.add("InstanceNormalization", call.x, call.argument(1), call.argument(2), epsilon=epsilon)]


def _layer_norm(call: Call) -> list[str]:
    node = call.node
    if node.integer("axis", -1) != -1 or node.flag("output_mean_var", False):
        raise node.error("only axis -1, without the outputs of statistics, is supported")
    epsilon = node.number("eps", 1e-5)
    return [call.add("LayerNormalization", call.x, call.argument(1), call.argument(2), axis=-1, epsilon=epsilon)]


def _group_norm(call: Call) -> list[str]:
    """Statistics over groups of channels, then scale and shift by channel."""
    groups = call.node.integer("num_groups", 1)
    shape = call.add("Shape", call.x)
    grouped = call.add("Reshape", call.x, call.integers(0, groups, -1))
    one, zero = (call.builder.constant(np.full(groups, value, call.float_type)) for value in (1, 0))
    normal = call.add("InstanceNormalization", grouped, one, zero, epsilon=call.node.number("eps", 1e-5))
    normal = call.add("Reshape", normal, shape)
    count = call.parameter(1).size
    rank_shape = call.add(  # (1, channels, 1, …): the shape's ones, with -1 for the channels
        "Concat",
        call.integers(1, count),
        call.add("ConstantOfShape", call.add("Sub", call.add("Shape", shape), call.integers(2)), value=_ONE),
        axis=0,
    )
    scale, shift = (call.add("Reshape", call.argument(position), rank_shape) for position in (1, 2))
    return [call.add("Add", call.add("Mul", normal, scale), shift)]


_ONE = TensorProto(data_type=TensorProto.INT64, dims=[1], int64_data=[1])


def _l2_normalization(call: Call) -> list[str]:
    """x / sqrt(sum x² + eps), over everything but the batch, over channels, or over space."""
    node = call.node
    mode = node.text("mode", "instance")
    square = call.add("Mul", call.x, call.x)
    epsilon = call.scalar(node.number("eps", 1e-10))
    if mode == "channel":
        total = call.add("ReduceSum", square, call.integers(1), keepdims=1)
        return [call.add("Div", call.x, call.add("Sqrt", call.add("Add", total, epsilon)))]
    if mode not in ("instance", "spatial"):
        raise node.error(f"mode {mode} is unknown")
    rows = call.integers(0, -1) if mode == "instance" else call.integers(0, 0, -1)
    flat = call.add("Reshape", call.x, rows)
    total = call.add("ReduceSum", call.add("Mul", flat, flat), call.integers(-1), keepdims=1)
    normal = call.add("Div", flat, call.add("Sqrt", call.add("Add", total, epsilon)))
    return [call.add("Reshape", normal, call.add("Shape", call.x))]


def _lrn(call: Call) -> list[str]:
    node = call.node
    return [
        call.add(
            "LRN",
            call.x,
            alpha=node.number("alpha", 1e-4),
            beta=node.number("beta", 0.75),
            bias=node.number("knorm", 2.0),
            size=node.integer("nsize"),
        )
    ]


def _pooling(call: Call) -> list[str]:
    """Windows by max, average, sum or Lp norm; `full` rounds the number of windows up."""
    node = call.node
    kind = node.text("pool_type", "max")
    if kind not in ("max", "avg", "sum", "lp"):
        raise node.error(f"pool_type {kind} is unknown")
    order: dict[str, Any] = {"p": node.integer("p_value", 2)} if kind == "lp" else {}
    if node.flag("global_pool", False):
        if kind == "sum":
            raise node.error("a global sum is not supported")
        return [
            call.add({"max": "GlobalMaxPool", "avg": "GlobalAveragePool", "lp": "GlobalLpPool"}[kind], call.x, **order)
        ]
    window = _window(node)
    convention = node.text("pooling_convention", "valid")
    if convention not in ("valid", "full") or (convention == "full" and kind == "lp"):
        raise node.error(f"pooling_convention {convention} is not supported with {kind}")
    attributes: dict[str, Any] = {key: window[key] for key in ("kernel_shape", "strides", "pads")}
    if kind == "lp":
        return [call.add("LpPool", call.x, **attributes, **order)]
    attributes["ceil_mode"] = int(convention == "full")
    if kind == "max":
        return [call.add("MaxPool", call.x, **attributes)]
    includes = node.flag("count_include_pad", True) or kind == "sum"
    average = call.add("AveragePool", call.x, count_include_pad=int(includes), **attributes)
    if kind == "avg":
        return [average]
    if convention == "full":
        raise node.error("sums of windows that end outside of the input are not supported")
    return [call.add("Mul", average, call.scalar(float(np.prod(window["kernel_shape"]))))]


def _adaptive_average(call: Call) -> list[str]:
    if set(call.node.integers("output_size", (1,))) != {1}:
        raise call.node.error("only an output of size 1 is supported")
    return [call.add("GlobalAveragePool", call.x)]


def _softmax_of_rows(call: Call) -> list[str]:
    """Softmax over everything but the batch."""
    probabilities = call.add("Softmax", call.add("Flatten", call.x, axis=1), axis=-1)
    return [call.add("Reshape", probabilities, call.add("Shape", call.x))]


def _softmax_output(call: Call) -> list[str]:
    node = call.node
    if node.flag("multi_output", False):
        return [call.add("Softmax", call.x, axis=1)]
    if node.flag("preserve_shape", False):
        return [call.add("Softmax", call.x, axis=-1)]
    return _softmax_of_rows(call)


def _softmax_activation(call: Call) -> list[str]:
    if call.node.text("mode", "instance") == "channel":
        return [call.add("Softmax", call.x, axis=1)]
    return _softmax_of_rows(call)


def _softmax(call: Call, op: str) -> list[str]:
    node = call.node
    if node.flag("use_length", False):
        raise node.error("use_length is not supported")
    x = call.x
    if node.has("temperature"):
        x = call.add("Div", x, call.scalar(node.number("temperature")))
    return [call.add(op, x, axis=node.integer("axis", -1))]


def _embedding(call: Call) -> list[str]:
    """Rows of a table; indices come as floating-point numbers."""
    indices = call.add("Cast", call.x, to=TensorProto.INT64)
    return [call.add("Gather", call.argument(1), indices, axis=0)]


def _dot(call: Call) -> list[str]:
    """The product of two matrices."""
    node = call.node
    left, right = call.x, call.argument(1)
    if node.flag("transpose_a", False):
        left = call.add("Transpose", left, perm=(1, 0))
    if node.flag("transpose_b", False):
        right = call.add("Transpose", right, perm=(1, 0))
    return [call.add("MatMul", left, right)]


def _batch_dot(call: Call) -> list[str]:
    """Products of matrices, one for each of a batch (3 dimensions)."""
    node = call.node
    left, right = call.x, call.argument(1)
    if node.flag("transpose_a", False):
        left = call.add("Transpose", left, perm=(0, 2, 1))
    if node.flag("transpose_b", False):
        right = call.add("Transpose", right, perm=(0, 2, 1))
    return [call.add("MatMul", left, right)]


def _up_sampling(call: Call) -> list[str]:
    """Every pixel repeated `scale` times; learnt upsampling is written as Deconvolution by newer MXNets."""
    node = call.node
    if node.text("sample_type", "nearest") != "nearest" or len(call.arguments) != 1:
        raise node.error("only sample_type nearest with one input is supported")
    scale = call.node.number("scale")
    scales = call.builder.constant(np.array([1, 1, scale, scale], np.float32))
    return [
        call.add(
            "Resize", call.x, "", scales,
            mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )
    ]  # fmt: skip


def _roi_pooling(call: Call) -> list[str]:
    node = call.node
    size, scale = node.integers("pooled_size"), node.number("spatial_scale")
    return [call.add("MaxRoiPool", call.x, call.argument(1), pooled_shape=size, spatial_scale=scale)]


def _attention_scale(call: Call) -> list[str]:
    """x / sqrt(size of the last dimension)."""
    size = call.add("Cast", call.add("Shape", call.x, start=-1), to=_onnx_float(call))
    return [call.add("Div", call.x, call.add("Sqrt", size))]


def _onnx_float(call: Call) -> int:
    return TensorProto.FLOAT16 if call.float_type is np.float16 else TensorProto.FLOAT


def _logistic_output(call: Call) -> list[str]:
    return [call.add("Sigmoid", call.x)]


def _unchanged(call: Call) -> list[str]:
    return [call.x]


def _softmax_of(op: str) -> Callable[[Call], list[str]]:
    return lambda call: _softmax(call, op)


NEURAL: Mapping[str, Callable[[Call], list[str]]] = {
    "Convolution": _convolution,
    "Convolution_v1": _convolution,
    "Deconvolution": _deconvolution,
    "FullyConnected": _fully_connected,
    "BatchNorm": _batch_norm,
    "BatchNorm_v1": _batch_norm,
    "CuDNNBatchNorm": _batch_norm,
    "InstanceNorm": _instance_norm,
    "LayerNorm": _layer_norm,
    "GroupNorm": _group_norm,
    "L2Normalization": _l2_normalization,
    "LRN": _lrn,
    "Pooling": _pooling,
    "Pooling_v1": _pooling,
    "_contrib_AdaptiveAvgPooling2D": _adaptive_average,
    "SoftmaxOutput": _softmax_output,
    "Softmax": _softmax_output,
    "SoftmaxActivation": _softmax_activation,
    "softmax": _softmax_of("Softmax"),
    "log_softmax": _softmax_of("LogSoftmax"),
    "Embedding": _embedding,
    "dot": _dot,
    "batch_dot": _batch_dot,
    "UpSampling": _up_sampling,
    "ROIPooling": _roi_pooling,
    "_contrib_div_sqrt_dim": _attention_scale,
    "LogisticRegressionOutput": _logistic_output,
    "LinearRegressionOutput": _unchanged,
    "MAERegressionOutput": _unchanged,
    "SVMOutput": _unchanged,
    "MakeLoss": _unchanged,
    "make_loss": _unchanged,
    "BlockGrad": _unchanged,
    "stop_gradient": _unchanged,
    "Dropout": _unchanged,
}
