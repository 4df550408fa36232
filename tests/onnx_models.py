"""What tests of the ONNX import share: small models made of nodes, and the comparison of an import with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper
from xdsl.dialects.func import FuncOp

from lowering.compiler import CompileOptions, compile_model
from lowering.onnx_to_graph import INPUT_NAMES, OUTPUT_NAMES, ImportResult, import_onnx
from runtime.graph_interpreter import WeightResolver, run_graph
from runtime.neff import HOST
from runtime.session import Session
from tests.graph_level import Array, assert_close, main_of


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Array | TypeProto],
    outputs: Sequence[str],
    *,
    constants: Mapping[str, Array] | None = None,
    opset: int = 18,
    other_domains: Sequence[str] = (),
) -> ModelProto:
    """A model whose inputs are like the arrays (or of the given types), and whose output types are left open."""
    types = {
        name: value
        if isinstance(value, TypeProto)
        else helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    }
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_value_info(name, type_) for name, type_ in types.items()],
        [helper.make_value_info(name, TypeProto()) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in other_domains)]
    model = helper.make_model(
        graph, opset_imports=imports, ir_version=max(4, helper.find_min_ir_version_for(imports[:1]))
    )
    # The checker wants outputs to have types; inference knows them, where it knows them.
    inferred = {tensor.name: _type_of(tensor) for tensor in model.graph.initializer}
    inferred |= {value.name: value.type for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    found = onnx.shape_inference.infer_shapes(model).graph.output
    inferred |= {value.name: value.type for value in found if value.type.WhichOneof("value") is not None}
    for value in model.graph.output:
        value.type.CopyFrom(inferred.get(value.name) or TypeProto())
        if value.type.WhichOneof("value") is None:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def _type_of(tensor: TensorProto) -> TypeProto:
    return helper.make_tensor_type_proto(tensor.data_type, tensor.dims)


def operators(result: ImportResult) -> list[str]:
    """Names of the operators of the imported function, constants and the return left out."""
    left_out = ("graph.constant", "graph.weight", "func.return")
    return [op.name for op in main_of(result.module).body.block.ops if op.name not in left_out]


def results_of(result: ImportResult, feeds: Mapping[str, Array]) -> list[Any]:
    """Run an imported module on inputs by name; results in the order of the model's outputs."""
    main = main_of(result.module)
    arguments = [feeds[name] for name in names_of(main, INPUT_NAMES)]
    return run_graph(main, arguments, WeightResolver(result.module, result.weights))


def names_of(main: FuncOp, attribute: str) -> list[str]:
    """The names in one of the function attributes INPUT_NAMES and OUTPUT_NAMES."""
    names: Any = main.attributes[attribute]
    return [name.data for name in names]


def onnxruntime_results(model: ModelProto, feeds: Mapping[str, Array]) -> list[Any]:
    """Run a model with onnxruntime as it is written, without optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def check_import(
    model: ModelProto, feeds: Mapping[str, Array], *, host: Sequence[str] = (), tolerance: float = 1e-5
) -> ImportResult:
    """Import a model: it verifies, leaves just the operators `host` to the host, and computes what onnxruntime does."""
    result = import_onnx(model)
    result.module.verify()
    assert [node.op_type for node in result.info.onnx_nodes] == list(host), result.info.onnx_nodes
    assert names_of(main_of(result.module), OUTPUT_NAMES) == [value.name for value in model.graph.output]
    expected = onnxruntime_results(model, feeds)
    actual = results_of(result, feeds)
    assert len(actual) == len(expected)
    for have, want in zip(actual, expected, strict=True):
        assert_close(np.asarray(have), np.asarray(want), tolerance)
    return result


def core_results(model: ModelProto, feeds: Mapping[str, Array], target: str = "trn1") -> list[Any]:
    """Compile a model without casts and run it on the interpreted machine; nothing of it may run on the host."""
    compiled = compile_model(model, CompileOptions(target=target, auto_cast="none"))
    assert {row["where"] for row in compiled.report["partition"]} <= {"core"}, compiled.report["partition"]
    assert compiled.neff is not None
    assert all(node.executor != HOST for node in compiled.neff.graph)
    outputs = Session(compiled.neff).run(dict(feeds)).outputs
    return [outputs[value.name] for value in model.graph.output]
