"""Weights computed in a thread are those that the emission computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from lowering.compiler import CompileOptions, CompileResult, compile_model
from lowering.nisa_to_neff import emit_neff
from lowering.weights_ahead import Array, WeightsAhead
from neuron_dialects.neuron import core_functions
from neuron_dialects.nisa import ParamOp
from runtime.graph_interpreter import WeightResolver
from runtime.neff import read_neff, write_neff
from tests.onnx_models import model_of

WIDTH = 600
"""600 x 600 weights in bf16 are less, in float32 more than what is hashed beside being written."""


def two_layers() -> ModelProto:
    """Two products with weights, one of them transposed, and a bias."""
    generator = np.random.default_rng(0)
    shapes = {"w0": (WIDTH, WIDTH), "w1": (WIDTH, WIDTH), "b": (WIDTH,)}
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b"], ["h"], transB=1),
        helper.make_node("MatMul", ["h", "w1"], ["y"]),
    ]
    return model_of(nodes, {"x": np.zeros((4, WIDTH), np.float32)}, ["y"], constants=weights)


def compiled(emit: str, auto_cast: str) -> CompileResult:
    """The model, compiled up to a level."""
    return compile_model(two_layers(), CompileOptions(target="trn1", emit=emit, auto_cast=auto_cast))


# All parameters, cast, turned or as they are, dense and not to be written to.
def test_all_parameters_are_computed():
    result = compiled("tile", "matmult")
    found = WeightsAhead(result.module, result.weights).arrays()
    (function,) = core_functions(result.module)
    assert set(found) == {op.symbol.data for op in function.walk() if isinstance(op, ParamOp)}
    expected = WeightResolver(result.module, result.weights)
    for name, array in found.items():
        np.testing.assert_array_equal(array.view(np.uint8), np.ascontiguousarray(expected(name)).view(np.uint8))
        assert array.flags.c_contiguous
        assert not array.flags.writeable


# A weight without data is no error in the thread: the emission meets it.
def test_what_cannot_be_computed_is_left_out():
    result = compiled("tile", "none")
    everything = set(WeightsAhead(result.module, result.weights).arrays())
    result.weights.discard("w1")
    assert set(WeightsAhead(result.module, result.weights).arrays()) == everything - {"w1"}


# Nor is one that cannot be read: nothing is printed, and the others are computed.
def test_what_cannot_be_read_is_left_out(capfd: pytest.CaptureFixture[str]):
    def fail() -> Array:
        raise OSError("the disk is gone")

    result = compiled("tile", "none")
    everything = set(WeightsAhead(result.module, result.weights).arrays())
    result.weights.add_lazy("w1", result.weights.dtype("w1"), result.weights.shape("w1"), fail)
    assert set(WeightsAhead(result.module, result.weights).arrays()) == everything - {"w1"}
    assert capfd.readouterr().err == ""


# A NEFF with them is the one without; large parameters are in its hash, which reading checks.
def test_the_neff_is_the_same(tmp_path: Path):
    neff = compiled("neff", "none").neff
    assert neff is not None
    finished = compiled("nisa", "none")
    slow = emit_neff(finished.module, finished.weights, neff.name)
    for with_them, without in zip(neff.subgraphs, slow.subgraphs, strict=True):
        assert with_them.program == without.program
        assert list(with_them.parameters) == list(without.parameters)
        for name, array in with_them.parameters.items():
            np.testing.assert_array_equal(np.asarray(array), np.asarray(without.parameters[name]))
    write_neff(neff, tmp_path / "model.neff")
    assert read_neff(tmp_path / "model.neff").subgraphs[0].program == neff.subgraphs[0].program
