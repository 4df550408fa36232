"""What tests of the graph level share: small functions made of operators, random values, single ONNX nodes.

Numbers are drawn from a seeded generator, so that a failure can be repeated.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func, FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.parser import Parser
from xdsl.passes import ModulePass

from neuron_dialects.dtypes import DType, dtype_of_numpy
from neuron_dialects.graph import Graph, WeightOp, spec_of, tensor_type
from neuron_dialects.neuron import Neuron, launch_problems
from neuron_dialects.ssa_order import check_ssa_order
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver, run_graph
from tests.run_lines import ROOT

Array: TypeAlias = npt.NDArray[Any]


def make_context() -> Context:
    """A context with the dialects of graph-level programs."""
    context = Context()
    for dialect in (Builtin, Func, Graph, Neuron):
        context.load_dialect(dialect)
    return context


def shown_programs(name: str) -> list[str]:
    """The programs in the filecheck test of a pass."""
    text = (ROOT / "tests" / "filecheck" / "passes" / f"{name}.mlir").read_text(encoding="utf-8")
    return text.split("// -----")


def parse(text: str) -> ModuleOp:
    """A verified module from its text."""
    module = Parser(make_context(), text).parse_module()
    module.verify()
    return module


def main_of(module: ModuleOp) -> FuncOp:
    """The function @main."""
    return next(op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "main")


def random_array(dtype: DType, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Values of a friendly size: normal floats, integers within [-8, 8] (not negative when unsigned), either truth."""
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    if dtype.name == "i1":
        return rng.integers(0, 2, shape).astype(np.bool_)
    return rng.integers(-8 if dtype.is_signed else 0, 9, shape).astype(dtype.numpy)


def build(
    make: Callable[..., Operation | SSAValue | Sequence[Operation | SSAValue]], inputs: Sequence[Array]
) -> FuncOp:
    """A function of arguments like `inputs` that returns what `make` builds on them; operators are added in order."""
    types = [tensor_type(dtype_of_numpy(array.dtype), array.shape) for array in inputs]
    block = Block(arg_types=types)
    made = make(*block.args)
    values = [SSAValue.get(value) for value in (made if isinstance(made, Sequence) else [made])]
    added: set[Operation] = set()

    def add(value: SSAValue) -> None:
        owner = value.owner
        if isinstance(owner, Operation) and owner not in added:
            added.add(owner)
            for operand in owner.operands:
                add(operand)
            block.add_op(owner)

    for value in values:
        add(value)
    block.add_op(ReturnOp(*values))
    function = FuncOp("main", (types, [value.type for value in values]), Region(block))
    function.verify()
    return function


def no_weights(name: str) -> Array:
    """For programs that name no weight."""
    raise AssertionError(f"weight '{name}' is asked for")


def interpret(make: Callable[..., Any], *inputs: Array) -> Array:
    """The one result of the operators that `make` builds on arguments like `inputs`."""
    return run_graph(build(make, inputs), inputs, no_weights)[0]


def run_node(
    op_type: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any] | None = None, opset: int = 18
) -> Array:
    """The first result of an ONNX node, by onnxruntime without optimisation; None is an absent input."""
    names = [f"x{number}" if array is not None else "" for number, array in enumerate(inputs)]
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    node = helper.make_node(op_type, names, ["y"], **(attributes or {}))
    typed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph([node], "node", typed, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def assert_close(actual: Array, expected: Array, tolerance: float = 1e-5) -> None:
    """Equal shapes and dtypes; floats agree to `tolerance` relative to the largest magnitude, all else exactly."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    if actual.dtype.kind in "biu":
        np.testing.assert_array_equal(actual, expected)
        return
    have, want = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(have[~finite], want[~finite])
    scale = np.abs(want[finite]).max(initial=1e-30)
    assert np.abs(have[finite] - want[finite]).max(initial=0.0) <= tolerance * scale


def relative_l2(actual: Array, expected: Array) -> float:
    """Norm of the difference relative to the norm of what is expected."""
    have, want = actual.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(have - want) / max(np.linalg.norm(want), 1e-30))


def onnx_node(op_type: str, inputs: int, outputs: int, **attributes: Any) -> str:
    """An ONNX node as the text of graph.onnx_node has it: `node "..."`."""
    node = helper.make_node(op_type, [f"i{n}" for n in range(inputs)], [f"o{n}" for n in range(outputs)], **attributes)
    return f'node "{base64.b64encode(node.SerializeToString()).decode()}"'


def random_store(module: ModuleOp) -> WeightStore:
    """A store with random values for every weight that a module names; a name always gets the same values."""
    store = WeightStore()
    derived = {op.properties["sym_name"] for op in module.ops if "sym_name" in op.properties}
    for op in module.walk():
        if isinstance(op, WeightOp) and op.symbol.root_reference not in derived and op.weight_name not in store:
            dtype, shape = spec_of(op.result)
            values = random_array(dtype, shape, np.random.default_rng(zlib.crc32(op.weight_name.encode())))
            # Variances and the like must not be negative.
            store.add(op.weight_name, np.abs(values) if "variance" in op.weight_name else values, dtype)
    return store


def random_inputs(function: FuncOp, seed: int = 0) -> list[Array]:
    """A random array for each argument of a function."""
    rng = np.random.default_rng(seed)
    return [random_array(*spec_of(argument), rng) for argument in function.body.block.args]


def check_valid(module: ModuleOp) -> None:
    """The module verifies, values are defined before their use, launches fit their functions."""
    module.verify()
    assert check_ssa_order(module) == []
    assert launch_problems(module) == []


def check_same_results(
    module: ModuleOp, *passes: ModulePass, tolerance: float = 1e-5, inputs: Sequence[Array] | None = None
) -> None:
    """Apply passes to a module; @main must give the same results before and after, and every op stay located."""
    store = random_store(module)
    arguments = random_inputs(main_of(module)) if inputs is None else list(inputs)
    expected = run_graph(main_of(module), arguments, WeightResolver(module, store))
    for module_pass in passes:
        module_pass.apply(make_context(), module)
        check_valid(module)
    actual = run_graph(main_of(module), arguments, WeightResolver(module, store))
    assert len(actual) == len(expected)
    for have, want in zip(actual, expected, strict=True):
        assert_close(have, want, tolerance)
