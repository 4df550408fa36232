"""Profiles that the tests of the profiler share: of programs built by hand, and of a small compiled model."""

from __future__ import annotations

import functools

import numpy as np
from onnx import helper

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import load_target
from runtime.neff import Neff
from runtime.profile.analysis import Analysis, ProgramAnalysis
from runtime.profile.record import record_neff, record_programs
from tests.onnx_models import model_of
from tests.runtime.core_programs import ProgramBuilder

ROWS = (0, 128)
LAYERS = 2


def analysis_of(program: CoreProgram | ProgramBuilder) -> ProgramAnalysis:
    """The analysis of one run of a program."""
    if isinstance(program, ProgramBuilder):
        program = program.program()
    profile = record_programs("test", [("sg00", program)], load_target(program.target))
    return Analysis(profile).programs[0]


@functools.cache
def small_neff() -> Neff:
    """Two layers of matmul, softmax and sum, named like those of a model."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], {}, "x"
    for layer in range(LAYERS):
        weights[f"w{layer}"] = rng.standard_normal((256, 256)).astype(np.float32)
        made = [f"{name}{layer}" for name in ("product", "soft", "sum")]
        scope = f"/net/layer.{layer}"
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], made[:1], f"{scope}/proj/MatMul"))
        nodes.append(helper.make_node("Softmax", made[:1], made[1:2], f"{scope}/Softmax", axis=-1))
        nodes.append(helper.make_node("Add", [made[1], value], made[2:], f"{scope}/Add"))
        value = made[2]
    model = model_of(nodes, {"x": np.zeros((256, 256), np.float32)}, [value], constants=weights)
    neff = compile_model(model, CompileOptions(target="trn1")).neff
    assert neff is not None
    return neff


@functools.cache
def small_analysis() -> Analysis:
    """The analysis of `small_neff`."""
    neff = small_neff()
    return Analysis(record_neff(neff, load_target(neff.target)))
