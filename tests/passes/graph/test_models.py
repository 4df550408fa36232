"""All passes of the graph level, one after the other, on whole models."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from neuron_dialects.graph import BatchNormOp, ComputeOp, ConvOp, ConvTransposeOp, MatMulOp, spec_of
from neuron_dialects.neuron import TARGET_ATTRIBUTE, Executor, LaunchOp, TargetAttr, functions_of, location_name
from passes.graph.auto_cast import GraphAutoCastPass
from passes.graph.canonicalize import GraphCanonicalizePass
from passes.graph.decompose import GraphDecomposePass
from passes.graph.fold_batch_norm import GraphFoldBatchNormPass
from passes.graph.fold_weights import GraphFoldWeightsPass
from passes.graph.narrow_integers import GraphNarrowIntegersPass
from passes.graph.partition import GraphPartitionPass, partition_report
from runtime.graph_interpreter import WeightResolver, run_graph
from tests.graph_level import Array, check_valid, main_of, make_context, relative_l2
from tests.model_zoo import NEEDS_MODELS, ZooModel, load_model

PASSES: Sequence[ModulePass] = (
    GraphCanonicalizePass(),
    GraphFoldBatchNormPass(),
    GraphDecomposePass(),
    GraphCanonicalizePass(),
    GraphFoldWeightsPass(),
    GraphPartitionPass(),
    GraphNarrowIntegersPass(),
)
TIDY: Sequence[ModulePass] = (GraphCanonicalizePass(), GraphFoldWeightsPass())

ON_ONE_CORE = [
    *("resnet50_bn", "densenet121", "unet", "bert_base", "gpt2_prefill", "vit_base_16", "convnext_tiny"),
    *("bert_base_dynquant", "bilstm_tagger", "gru_lm"),
    "mixtral_moe_dense",
]
WITH_HOST = ["ssdlite_mobilenetv2_nms", "branchynet_if"]


def load(name: str, target: str = "trn1") -> ZooModel:
    model = load_model(name)
    model.imported.module.attributes[TARGET_ATTRIBUTE] = TargetAttr(target)
    return model


def apply(module: ModuleOp, passes: Sequence[ModulePass]) -> None:
    for module_pass in passes:
        module_pass.apply(make_context(), module)
        check_valid(module)


def run(model: ZooModel) -> list[Array]:
    module = model.imported.module
    return run_graph(main_of(module), model.inputs, WeightResolver(module, model.imported.weights))


def errors(model: ZooModel) -> list[float]:
    return [relative_l2(actual, expected) for actual, expected in zip(run(model), model.expected, strict=True)]


# Nothing is rounded: the results stay as near to onnxruntime's as they were, and every operator knows its node.
@NEEDS_MODELS
@pytest.mark.parametrize("name", [*ON_ONE_CORE, *WITH_HOST])
def test_results_stay(name: str):
    model = load(name)
    module = model.imported.module
    apply(module, [*PASSES, GraphAutoCastPass(mode="none"), *TIDY])
    assert max(errors(model)) <= 2e-5
    located = [op for op in module.walk() if isinstance(op, ComputeOp | LaunchOp)]
    assert [op.name for op in located if location_name(op.location) is None] == []
    assert not any(isinstance(op, BatchNormOp) for op in module.walk())


@NEEDS_MODELS
@pytest.mark.parametrize("name", ON_ONE_CORE)
def test_one_core_runs_everything(name: str):
    module = load(name).imported.module
    apply(module, PASSES)
    assert functions_of(module, Executor.HOST) == []
    assert len(functions_of(module, Executor.CORE)) == 1
    assert {entry.executor for entry in partition_report(module)} == {Executor.CORE}


# What a core can run it does run, even around operators of the host.
@NEEDS_MODELS
@pytest.mark.parametrize("name", WITH_HOST)
def test_heavy_operators_run_on_the_core(name: str):
    module = load(name).imported.module
    apply(module, PASSES)
    assert functions_of(module, Executor.HOST)
    heavy = [entry for entry in partition_report(module) if entry.op in ("graph.conv", "graph.matmul")]
    assert {entry.executor for entry in heavy} == {Executor.CORE}


@NEEDS_MODELS
@pytest.mark.parametrize("target", ["inf1", "trn1"])
@pytest.mark.parametrize("mode", ["matmult", "all"])
@pytest.mark.parametrize("name", ["resnet50_bn", "bert_base", "mixtral_moe_dense"])
def test_casts(name: str, mode: str, target: str):
    model = load(name, target)
    cast = GraphAutoCastPass(mode=mode)  # pyright: ignore[reportArgumentType]
    module = model.imported.module
    apply(module, [*PASSES, cast, *TIDY])
    # bf16 has 8 significant bits, and dozens of layers round.
    assert max(errors(model)) <= 6e-2
    multiplied = {
        spec_of(op.operands[0])[0].name
        for function in functions_of(module, Executor.CORE)
        for op in function.walk()
        if isinstance(op, ConvOp | ConvTransposeOp | MatMulOp)
    }
    assert multiplied == {"bf16"}
