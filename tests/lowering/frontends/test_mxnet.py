"""MXNet's operators and models, against plain numpy: MXNet itself does not exist for these Pythons."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from lowering.compiler import CompileOptions, compile_model
from lowering.frontends.mxnet import OPERATORS, read_mxnet
from neuron_dialects.errors import NeuronError
from runtime.reference import errors, run_onnxruntime
from runtime.session import Session
from tests.lowering.frontends.mxnet_files import SymbolWriter, write_model

Array = np.ndarray[Any, np.dtype[Any]]
RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


X, Y = normal(2, 4, 6, 6), normal(2, 4, 6, 6)
POSITIVE = np.abs(normal(4)) + 0.5
V, U, SLOPES = normal(4), normal(4), normal(4)
ROWS = normal(3, 5)


def conv(x: Array, weight: Array, stride: int = 1, pad: int = 0, groups: int = 1) -> Array:
    """Convolution in two dimensions."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    split = [np.einsum("nchwij,ocij->nohw", w, k) for w, k in _by_group(windows, weight, groups)]
    return np.concatenate(split, 1)


def _by_group(windows: Array, weight: Array, groups: int) -> Any:
    return zip(np.split(windows, groups, 1), np.split(weight, groups, 0), strict=True)


def deconv(x: Array, weight: Array, stride: int, pad: int, adjust: int) -> Array:
    """Transposed convolution: every pixel adds its weighted kernel to the result."""
    kernel = weight.shape[2]
    size = (x.shape[2] - 1) * stride + kernel
    result = np.zeros((x.shape[0], weight.shape[1], size + adjust, size + adjust), np.float32)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            part = np.einsum("nc,coij->noij", x[:, :, row, column], weight)
            result[:, :, row * stride : row * stride + kernel, column * stride : column * stride + kernel] += part
    end = size + adjust - pad
    return result[:, :, pad:end, pad:end]


def pool(x: Array, kernel: int, stride: int, reduce: Any) -> Array:
    return reduce(sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride], axis=(4, 5))


def channels(values: Array) -> Array:
    return values.reshape(1, -1, 1, 1)


def standard(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


W3, W1, WG, WT = normal(5, 4, 3, 3), normal(7, 144), normal(4, 2, 3, 3), normal(4, 3, 3, 3)
WL = normal(5, 4)
B5, B7 = normal(5), normal(7)
TABLE = normal(9, 3)
INDICES = np.array([[0, 8], [3, 1]], np.float32)
M1, M2 = normal(2, 3, 4), normal(2, 5, 4)
P = np.pad(X, ((0, 0), (0, 0), (1, 1), (1, 1)))
S = np.pad(X * X, ((0, 0), (1, 1), (0, 0), (0, 0)))

# Operator, attributes, its data inputs, its parameters, and what numpy says.
Case = tuple[str, dict[str, object], tuple[Array, ...], dict[str, Array], Callable[[], Array]]
CASES: list[Case] = [
    ("Convolution", {"kernel": "(3, 3)", "stride": "(2, 2)", "pad": "(1, 1)", "num_filter": 5}, (X,),
     {"w": W3, "b": B5}, lambda: conv(X, W3, 2, 1) + channels(B5)),
    ("Convolution", {"kernel": "[3,3]", "num_group": 2, "no_bias": "1", "num_filter": 4}, (X,), {"w": WG},
     lambda: conv(X, WG, groups=2)),
    ("Deconvolution", {"kernel": "(3L, 3L)", "stride": "(2, 2)", "pad": "(1, 1)", "adj": "(1, 1)", "num_filter": 3},
     (X,), {"w": WT}, lambda: deconv(X, WT, 2, 1, 1)),
    ("FullyConnected", {"num_hidden": 7}, (X,), {"w": W1, "b": B7}, lambda: X.reshape(2, -1) @ W1.T + B7),
    ("FullyConnected", {"num_hidden": 5, "flatten": False, "no_bias": True}, (M1,), {"w": WL},
     lambda: M1 @ WL.T),
    ("BatchNorm", {"eps": 0.01, "fix_gamma": False}, (X,), {"g": V, "b": U, "m": SLOPES, "v": POSITIVE},
     lambda: (X - channels(SLOPES)) / np.sqrt(channels(POSITIVE) + 0.01) * channels(V) + channels(U)),
    ("BatchNorm", {}, (X,), {"g": V, "b": U, "m": SLOPES, "v": POSITIVE},
     lambda: (X - channels(SLOPES)) / np.sqrt(channels(POSITIVE) + 0.001) + channels(U)),
    ("InstanceNorm", {}, (X,), {"g": V, "b": U},
     lambda: standard(X, (2, 3), 1e-3) * channels(V) + channels(U)),
    ("LayerNorm", {"eps": 0.1}, (M1,), {"g": V, "b": U}, lambda: standard(M1, (2,), 0.1) * V + U),
    ("GroupNorm", {"num_groups": 2}, (X,), {"g": V, "b": U},
     lambda: standard(X.reshape(2, 2, -1), (2,), 1e-5).reshape(X.shape) * channels(V) + channels(U)),
    ("L2Normalization", {}, (X,), {}, lambda: X / np.sqrt((X * X).sum((1, 2, 3), keepdims=True))),
    ("L2Normalization", {"mode": "channel"}, (X,), {}, lambda: X / np.sqrt((X * X).sum(1, keepdims=True))),
    ("L2Normalization", {"mode": "spatial"}, (X,), {}, lambda: X / np.sqrt((X * X).sum((2, 3), keepdims=True))),
    ("LRN", {"nsize": 3, "alpha": 0.3, "beta": 0.5, "knorm": 1}, (X,), {},
     lambda: X / np.sqrt(1 + 0.1 * sum(S[:, i : i + 4] for i in range(3)))),
    ("Pooling", {"kernel": "(2, 2)", "stride": "(2, 2)", "pool_type": "max"}, (X,), {}, lambda: pool(X, 2, 2, np.max)),
    ("Pooling", {"kernel": "(3, 3)", "pad": "(1, 1)", "pool_type": "avg"}, (X,), {}, lambda: pool(P, 3, 1, np.mean)),
    ("Pooling", {"kernel": "(2, 2)", "pool_type": "sum"}, (X,), {}, lambda: pool(X, 2, 1, np.sum)),
    ("Pooling", {"kernel": "(4, 4)", "stride": "(3, 3)", "pooling_convention": "full"}, (X,), {},
     lambda: pool(np.pad(X, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-np.inf), 4, 3, np.max)),
    ("Pooling", {"global_pool": True, "pool_type": "avg", "kernel": "(1, 1)"}, (X,), {},
     lambda: X.mean((2, 3), keepdims=True)),
    ("SoftmaxOutput", {}, (ROWS,), {}, lambda: softmax(ROWS, 1)),
    ("SoftmaxOutput", {"multi_output": True}, (X,), {}, lambda: softmax(X, 1)),
    ("SoftmaxOutput", {}, (M1,), {}, lambda: softmax(M1.reshape(2, 12), 1).reshape(2, 3, 4)),
    ("SoftmaxActivation", {"mode": "channel"}, (X,), {}, lambda: softmax(X, 1)),
    ("softmax", {"axis": 1, "temperature": 2.0}, (X,), {}, lambda: softmax(X / 2, 1)),
    ("log_softmax", {}, (ROWS,), {}, lambda: np.log(softmax(ROWS, 1))),
    ("LogisticRegressionOutput", {}, (ROWS,), {}, lambda: 1 / (1 + np.exp(-ROWS))),
    ("Embedding", {"input_dim": 9, "output_dim": 3}, (INDICES,), {"w": TABLE}, lambda: TABLE[INDICES.astype(int)]),
    ("take", {"axis": 0}, (TABLE, np.array([1, 20, -3], np.float32)), {}, lambda: TABLE[[1, 8, 0]]),
    ("dot", {"transpose_b": True}, (ROWS, ROWS), {}, lambda: ROWS @ ROWS.T),
    ("batch_dot", {"transpose_b": True}, (M1, M2), {}, lambda: M1 @ M2.transpose(0, 2, 1)),
    ("UpSampling", {"scale": 2, "sample_type": "nearest"}, (X,), {}, lambda: X.repeat(2, 2).repeat(2, 3)),
    ("_contrib_div_sqrt_dim", {}, (M1,), {}, lambda: M1 / 2),
    ("Activation", {"act_type": "softrelu"}, (X,), {}, lambda: np.log1p(np.exp(X))),
    ("LeakyReLU", {"slope": 0.1}, (X,), {}, lambda: np.where(X > 0, X, 0.1 * X)),
    ("LeakyReLU", {"act_type": "elu", "slope": 0.5}, (X,), {}, lambda: np.where(X > 0, X, 0.5 * np.expm1(X))),
    ("LeakyReLU", {"act_type": "prelu"}, (X,), {"a": SLOPES}, lambda: np.where(X > 0, X, channels(SLOPES) * X)),
    ("LeakyReLU", {"act_type": "gelu"}, (np.array([0.5, -1.0], np.float32),), {},
     lambda: np.array([0.345731, -0.158655])),
    ("elemwise_add", {}, (X, Y), {}, lambda: X + Y),
    ("broadcast_mul", {}, (X, X[:, :, :1, :1]), {}, lambda: X * X[:, :, :1, :1]),
    ("add_n", {}, (X, Y, X), {}, lambda: 2 * X + Y),
    ("_rminus_scalar", {"scalar": 3}, (X,), {}, lambda: 3 - X),
    ("_rdiv_scalar", {"scalar": 2}, (X,), {}, lambda: 2 / X),
    ("_power_scalar", {"scalar": 2}, (X,), {}, lambda: X * X),
    ("broadcast_greater", {}, (X, Y), {}, lambda: (X > Y).astype(np.float32)),
    ("_not_equal_scalar", {"scalar": 1}, (INDICES,), {}, lambda: (INDICES != 1).astype(np.float32)),
    ("where", {}, (INDICES, INDICES + 1, INDICES - 1), {}, lambda: np.where(INDICES != 0, INDICES + 1, INDICES - 1)),
    ("clip", {"a_min": -0.5, "a_max": 0.25}, (X,), {}, lambda: np.clip(X, -0.5, 0.25)),
    ("mean", {"axis": "(2, 3)", "keepdims": True}, (X,), {}, lambda: X.mean((2, 3), keepdims=True)),
    ("sum", {"axis": 1}, (X,), {}, lambda: X.sum(1)),
    ("norm", {"axis": 1}, (X,), {}, lambda: np.sqrt((X * X).sum(1))),
    ("argmax", {"axis": 1}, (ROWS,), {}, lambda: ROWS.argmax(1).astype(np.float32)),
    ("square", {}, (X,), {}, lambda: X * X),
    ("ones_like", {}, (X,), {}, lambda: np.ones_like(X)),
    ("Flatten", {}, (X,), {}, lambda: X.reshape(2, -1)),
    ("Reshape", {"shape": "(0, -1)"}, (X,), {}, lambda: X.reshape(2, -1)),
    ("Reshape", {"shape": "(-3, -2)"}, (X,), {}, lambda: X.reshape(8, 6, 6)),
    ("Reshape", {"shape": "(0, -4, 2, -1, -3)"}, (X,), {}, lambda: X.reshape(2, 2, 2, 36)),
    ("transpose", {"axes": "(0, 2, 3, 1)"}, (X,), {}, lambda: X.transpose(0, 2, 3, 1)),
    ("transpose", {}, (ROWS,), {}, lambda: ROWS.T),
    ("Concat", {"num_args": 2, "dim": 1}, (X, Y), {}, lambda: np.concatenate([X, Y], 1)),
    ("stack", {"axis": 1, "num_args": 2}, (ROWS, ROWS), {}, lambda: np.stack([ROWS, ROWS], 1)),
    ("slice", {"begin": "(0, None, 1)", "end": "(1, None, 5)", "step": "(None, -1, 2)"}, (X,), {},
     lambda: X[0:1, ::-1, 1:5:2]),
    ("slice_axis", {"axis": 2, "begin": 1, "end": "None"}, (X,), {}, lambda: X[:, :, 1:]),
    ("Pad", {"mode": "edge", "pad_width": "(0, 0, 0, 0, 1, 2, 3, 0)"}, (X,), {},
     lambda: np.pad(X, ((0, 0), (0, 0), (1, 2), (3, 0)), mode="edge")),
    ("Pad", {"pad_width": "(0, 0, 0, 0, 1, 1, 1, 1)", "constant_value": 2}, (X,), {},
     lambda: np.pad(X, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=2)),
    ("expand_dims", {"axis": 1}, (ROWS,), {}, lambda: ROWS[:, None]),
    ("squeeze", {"axis": 1}, (ROWS[:, None],), {}, lambda: ROWS),
    ("tile", {"reps": "(2, 3)"}, (ROWS,), {}, lambda: np.tile(ROWS, (2, 3))),
    ("broadcast_to", {"shape": "(0, 4, 5)"}, (ROWS[:, None],), {}, lambda: np.broadcast_to(ROWS[:, None], (3, 4, 5))),
    ("_contrib_AdaptiveAvgPooling2D", {"output_size": "1"}, (X,), {}, lambda: X.mean((2, 3), keepdims=True)),
    ("ROIPooling", {"pooled_size": "(1, 1)", "spatial_scale": 1}, (X, np.array([[1, 2, 2, 4, 5]], np.float32)), {},
     lambda: X[1:, :, 2:6, 2:5].max((2, 3), keepdims=True)),
    ("hard_sigmoid", {"alpha": 0.3}, (X,), {}, lambda: np.clip(0.3 * X + 0.5, 0, 1)),
    ("Cast", {"dtype": "float32"}, (X,), {}, lambda: X),
    ("zeros_like", {}, (X,), {}, lambda: np.zeros_like(X)),
    ("argmin", {"axis": 1, "keepdims": True}, (ROWS,), {}, lambda: ROWS.argmin(1, keepdims=True).astype(np.float32)),
    ("broadcast_like", {}, (ROWS[:1], ROWS), {}, lambda: np.broadcast_to(ROWS[:1], (3, 5))),
    ("SliceChannel", {"num_outputs": 1, "axis": 1, "squeeze_axis": True}, (ROWS[:, None],), {}, lambda: ROWS),
    ("depth_to_space", {"block_size": 2}, (X,), {},
     lambda: X.reshape(2, 2, 2, 1, 6, 6).transpose(0, 3, 4, 1, 5, 2).reshape(2, 1, 12, 12)),
    ("space_to_depth", {"block_size": 2}, (X,), {},
     lambda: X.reshape(2, 4, 3, 2, 3, 2).transpose(0, 3, 5, 1, 2, 4).reshape(2, 16, 3, 3)),
]  # fmt: skip


def one_operator(folder: Path, op: str, attributes: dict[str, object], data: Any, parameters: dict[str, Array]) -> Path:
    """A graph of one operator on inputs x0, x1, … and parameters."""
    symbol = SymbolWriter()
    inputs = [symbol.variable(f"x{number}", __shape__=str(x.shape)) for number, x in enumerate(data)]
    inputs += [symbol.variable(name) for name in parameters]
    symbol.add(op, "node", *inputs, **attributes)
    return write_model(folder, "one", symbol, {f"arg:{name}": array for name, array in parameters.items()})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_an_operator(tmp_path: Path, case: Case) -> None:
    op, attributes, data, parameters, expected = case
    model = read_mxnet(one_operator(tmp_path, op, attributes, data, parameters))
    (actual,) = run_onnxruntime(model.SerializeToString(), {f"x{i}": x for i, x in enumerate(data)}).values()
    wanted = expected()
    assert actual.shape == wanted.shape
    assert errors(actual, wanted.astype(np.float32))["rel_l2_error"] <= 2e-6


# The parts of a split are outputs of one node, and each can be used or be a result.
def test_outputs_of_a_split(tmp_path: Path) -> None:
    symbol = SymbolWriter()
    x = symbol.variable("x", __shape__="(0, 4)")
    split = symbol.add("SliceChannel", "split", x, num_outputs=2, axis=1)
    both = symbol.add("elemwise_sub", "both", (split, 1), (split, 0))
    (tmp_path / "m-symbol.json").write_text(symbol.text(both, (split, 1)), encoding="utf-8")
    write_model(tmp_path, "other", symbol, {}).unlink()
    (tmp_path / "other-0000.params").rename(tmp_path / "m-0000.params")
    data = normal(3, 4)
    result = run_onnxruntime(read_mxnet(tmp_path / "m-symbol.json").SerializeToString(), {"x": data})
    assert list(result) == ["both_output", "split_output1"]
    np.testing.assert_array_equal(result["both_output"], data[:, 2:] - data[:, :2])
    np.testing.assert_array_equal(result["split_output1"], data[:, 2:])


def lenet(folder: Path) -> tuple[Path, dict[str, Array]]:
    """A classifier as MXNet's examples have it, with the label of its training that prediction does not read."""
    parameters = {
        "arg:c_weight": normal(6, 1, 5, 5) * 0.2,
        "arg:c_bias": normal(6),
        "arg:bn_gamma": normal(6),
        "arg:bn_beta": normal(6),
        "aux:bn_mean": normal(6),
        "aux:bn_var": np.abs(normal(6)) + 0.5,
        "arg:f_weight": normal(10, 6 * 36) * 0.1,
        "arg:f_bias": normal(10),
    }
    symbol = SymbolWriter()
    names = [name.partition(":")[2] for name in parameters]
    data, *variables = (symbol.variable(name) for name in ("data", *names))
    conv_ = symbol.add("Convolution", "c", data, *variables[:2], kernel="(5, 5)", num_filter=6)
    norm = symbol.add("BatchNorm", "bn", conv_, *variables[2:6], fix_gamma=True, eps=0.001)
    relu = symbol.add("Activation", "relu", norm, act_type="relu")
    pooled = symbol.add("Pooling", "pool", relu, kernel="(2, 2)", stride="(2, 2)", pool_type="max")
    dense = symbol.add("FullyConnected", "f", symbol.add("Flatten", "flat", pooled), *variables[6:], num_hidden=10)
    symbol.add("SoftmaxOutput", "softmax", dense, symbol.variable("softmax_label"))
    return write_model(folder, "lenet", symbol, parameters), parameters


def test_a_model_on_the_core(tmp_path: Path) -> None:
    path, parameters = lenet(tmp_path)
    data = normal(2, 1, 16, 16)
    options = CompileOptions(target="trn1", auto_cast="none", input_shapes={"data": (2, 1, 16, 16)})
    result = compile_model(path, options)
    assert {row["where"] for row in result.report["partition"]} == {"core"}
    assert result.neff is not None and result.neff.name == "lenet"
    w = {name.partition(":")[2]: array for name, array in parameters.items()}
    x = conv(data, w["c_weight"]) + channels(w["c_bias"])
    x = (x - channels(w["bn_mean"])) / np.sqrt(channels(w["bn_var"]) + 0.001) + channels(w["bn_beta"])
    x = pool(np.maximum(x, 0), 2, 2, np.max).reshape(2, -1)
    expected = softmax(x @ w["f_weight"].T + w["f_bias"], 1)
    (actual,) = Session(result.neff).run({"data": data}).outputs.values()
    assert errors(actual, expected)["rel_l2_error"] <= 1e-4


# The graph says nothing about its input's shape: the user must.
def test_an_input_of_unknown_shape(tmp_path: Path) -> None:
    with pytest.raises(NeuronError, match="the shape of input 'data' is unknown") as caught:
        compile_model(lenet(tmp_path)[0])
    assert caught.value.help == "give it with --input-shape data=..."


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("CTCLoss", {}, "MXNet's operator CTCLoss has no converter"),
        ("Activation", {"act_type": "magic"}, "act_type 'magic' is not supported"),
        ("Convolution", {"kernel": "(3, 3)", "layout": "NHWC", "no_bias": True}, "layout NHWC is not supported"),
        ("Convolution", {"kernel": "(3, x)", "no_bias": True}, "is '(3, x)', not a tuple of integers"),
        ("Convolution", {"kernel": "(3, 3)"}, "input 2 is missing"),
        ("clip", {"a_min": "low", "a_max": 1}, "attribute a_min is 'low', not a number"),
        ("_plus_scalar", {}, "attribute scalar is missing"),
        ("mean", {"exclude": "maybe"}, "attribute exclude is 'maybe', not a truth value"),
        ("sum", {"exclude": True, "axis": 1}, "exclude is not supported"),
        ("SliceChannel", {"num_outputs": "2.5"}, "attribute num_outputs is 2.5, not an integer"),
        ("BatchNorm", {"axis": 3}, "only axis 1"),
        ("Reshape", {"shape": "(-5, 1)"}, "is not understood at -5"),
    ],
)
def test_what_has_no_converter(tmp_path: Path, op: str, attributes: dict[str, object], message: str) -> None:
    with pytest.raises(NeuronError) as caught:
        read_mxnet(one_operator(tmp_path, op, attributes, (X, X), {}))
    assert caught.value.code == "NX-FRAME-004" and caught.value.node == "node"
    assert message in caught.value.message


# Operators of one operand, of two, and with a scalar (3: on the right, or on the left for reversed ones).
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh,
    "softsign": lambda x: x / (1 + abs(x)), "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": np.abs,
    "negative": np.negative, "_negative": np.negative, "floor": np.floor, "ceil": np.ceil, "rint": np.rint,
    "sign": np.sign, "reciprocal": np.reciprocal, "sin": np.sin, "cos": np.cos, "tan": np.tan, "arcsin": np.arcsin,
    "arccos": np.arccos, "arctan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "identity": np.copy, "_copy": np.copy,
    "erf": np.vectorize(math.erf), "square": np.square, "rsqrt": lambda x: 1 / np.sqrt(x), "expm1": np.expm1,
    "log1p": np.log1p, "Dropout": np.copy, "BlockGrad": np.copy, "stop_gradient": np.copy, "MakeLoss": np.copy,
    "make_loss": np.copy, "LinearRegressionOutput": np.copy, "MAERegressionOutput": np.copy, "SVMOutput": np.copy,
    "mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod,
}  # fmt: skip
BINARY: dict[str, Callable[[Any, Any], Array]] = {
    "add": np.add, "plus": np.add, "sub": np.subtract, "minus": np.subtract, "mul": np.multiply, "div": np.divide,
    "power": np.power, "maximum": np.maximum, "minimum": np.minimum, "equal": np.equal, "not_equal": np.not_equal,
    "greater": np.greater, "lesser": np.less, "greater_equal": np.greater_equal, "lesser_equal": np.less_equal,
}  # fmt: skip
ALIASES = {
    "Convolution_v1", "BatchNorm_v1", "CuDNNBatchNorm", "Pooling_v1", "Softmax", "ElementWiseSum", "cast", "amp_cast",
    "flatten", "reshape", "concat", "split", "crop", "pad", "sum_axis", "max_axis", "min_axis", "_grad_add",
}  # fmt: skip


def _binary_name(op: str) -> str:
    """`_PlusScalar`, `elemwise_add` and the like without what tells the kind of operands."""
    words = re.sub(r"(?<!^)(?<!_)(?=[A-Z])", "_", op).lower().strip("_")
    return re.sub(r"^(broadcast|elemwise)_|_scalar$", "", words)


def _binary_case(op: str) -> tuple[str, bool, bool] | None:
    """numpy's function for an operator of two operands, whether one is a scalar, and whether it is on the left."""
    name, is_scalar = _binary_name(op), op.lower().endswith("scalar")
    if is_scalar and name.replace("_", "").startswith("r") and name.replace("_", "")[1:] in BINARY:
        return name.replace("_", "")[1:], True, True
    return (name, is_scalar, False) if name in BINARY else None


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_of_the_table(tmp_path: Path, op: str) -> None:
    x, y = (RANDOM.uniform(0.1, 0.9, (3, 4)).astype(np.float32) for _ in range(2))
    y[0] = x[0]
    if op in FUNCTIONS:
        path, inputs = one_operator(tmp_path, op, {}, (x,), {}), {"x0": x}
        expected = FUNCTIONS[op](x)
    elif (case := _binary_case(op)) is not None:
        name, is_scalar, is_left = case
        operands = [np.float32(3), x] if is_left else [x, np.float32(3) if is_scalar else y]
        path = one_operator(tmp_path, op, {"scalar": 3} if is_scalar else {}, (x,) if is_scalar else (x, y), {})
        inputs = {"x0": x} if is_scalar else {"x0": x, "x1": y}
        expected = BINARY[name](*operands)
    else:
        assert op in ALIASES or op in {case[0] for case in CASES}
        return
    (actual,) = run_onnxruntime(read_mxnet(path).SerializeToString(), inputs).values()
    assert actual.shape == expected.shape
    assert errors(actual, expected.astype(np.float32))["rel_l2_error"] <= 2e-6
