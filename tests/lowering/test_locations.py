"""Locations: whatever a pass makes of an op still names the ONNX node that it came from, down to the instruction.

xDSL's rewrites drop locations, so each pass carries them on purpose; here every pass of the default pipeline is watched
on whole models. What belongs to no node (loops and their constants, functions, queues, control instructions) may have
none.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from xdsl.context import Context
from xdsl.dialects import arith, scf
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from lowering.compiler import CompileOptions, compile_model
from lowering.onnx_to_graph import import_onnx
from lowering.pipeline import pass_specs, run_passes
from neuron_dialects import nisa
from neuron_dialects.neuron import TARGET_ATTRIBUTE, TargetAttr, location_name
from tests.numerics.models import model_inputs, model_path

MODELS = ("lenet5", "mnist_mlp", "squeezenet1_1", "distilbert")
"""The first two are shipped; of the others, one concatenates and the other has attention."""

LOCATED_DIALECTS = ("graph.", "tile.", "nisa.")
EXEMPT = (nisa.QueueOp, nisa.ControlOp, nisa.SlotOp)


def node_names(path: Path) -> set[str]:
    """Names of the model's nodes."""
    return {node.name for node in onnx.load(str(path), load_external_data=False).graph.node}


@functools.cache
def model(name: str) -> Path:
    """The model's file; the test is skipped when it is not there."""
    path = model_path(name)
    if not path.is_file():
        pytest.skip(f"{name}.onnx is not beside the clone")
    return path


def located_ops(module: ModuleOp) -> Iterator[Operation]:
    """Every op that must name a node."""
    for op in module.walk():
        if op.name.startswith(LOCATED_DIALECTS) and not isinstance(op, EXEMPT):
            yield op


def unnamed(module: ModuleOp, names: set[str]) -> list[str]:
    """The first ops that name no node of the model."""
    wrong = [op for op in located_ops(module) if location_name(op.location) not in names]
    return [f"{location_name(op.location)}: {str(op)[:120]}" for op in wrong[:3]]


def imported(path: Path, target: str) -> ModuleOp:
    """The model at graph level, ready for the pipeline."""
    shapes = {name: tuple(value.shape) for name, value in model_inputs(path).items()}
    module = import_onnx(path, input_shapes=shapes, target=target).module
    module.attributes[TARGET_ATTRIBUTE] = TargetAttr(target)
    return module


@pytest.mark.parametrize("name", MODELS)
def test_every_imported_op_names_its_node(name: str) -> None:
    path = model(name)
    module = imported(path, "trn1")
    assert sum(1 for _ in located_ops(module)) > 5
    assert unnamed(module, node_names(path)) == []


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("name", MODELS)
def test_every_pass_keeps_the_nodes_names(name: str, target: str) -> None:
    path = model(name)
    names = node_names(path)
    module = imported(path, target)
    lost: dict[str, list[str]] = {}
    levels: set[str] = set()

    def check(pass_name: str, _: float, module: ModuleOp) -> None:
        levels.update(op.name.split(".")[0] for op in located_ops(module))
        if wrong := unnamed(module, names):
            lost[pass_name] = wrong

    run_passes(Context(), module, pass_specs(), check)
    assert lost == {}
    assert levels == {"graph", "tile", "nisa"}


# A node that is computed at all is found again in the module: names are carried, not made up from a neighbour.
def test_instructions_name_all_heavy_nodes() -> None:
    path = model("lenet5")
    module = imported(path, "trn1")
    run_passes(Context(), module, pass_specs())
    heavy = {node.name for node in onnx.load(str(path)).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    matmuls = {location_name(op.location) for op in module.walk() if op.name == "nisa.nc_matmul"}
    assert matmuls == heavy


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("name", MODELS)
def test_every_instruction_of_the_neff_has_its_nodes_name(name: str, target: str) -> None:
    path = model(name)
    names = node_names(path)
    shapes = {key: tuple(value.shape) for key, value in model_inputs(path).items()}
    result = compile_model(path, CompileOptions(target=target, input_shapes=shapes))
    assert result.neff is not None
    for image in result.neff.subgraphs:
        program = image.program
        for engine, entries in program.queues.items():
            for index, entry in enumerate(entries):
                if entry.instruction is not None:
                    assert program.origins[entry.origin] in names, (engine, index)


# Ops that no pass of the pipeline makes locations for: loops, their bounds, the functions themselves.
def test_exempt_ops_hold_no_work() -> None:
    module = imported(model("lenet5"), "trn1")
    run_passes(Context(), module, pass_specs())
    others = {op.name for op in module.walk() if location_name(op.location) is None}
    allowed = {scf.ForOp.name, scf.YieldOp.name, arith.ConstantOp.name, "builtin.module", "func.func", "func.return"}
    assert others <= allowed | {kind.name for kind in EXEMPT}
