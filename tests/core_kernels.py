"""What tests of kernel templates share: build a core function, lower it, run it, compare with the graph level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, ModuleOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Operation, Region, SSAValue

from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from lowering.tile_to_nisa.convert import ConvertTileToNisaPass
from neuron_dialects.dtypes import dtype_by_name, dtype_of_numpy
from neuron_dialects.graph import ConvOp, WeightOp, shape_of, tensor_type
from neuron_dialects.isa import verify_instruction
from neuron_dialects.loops import trip_count
from neuron_dialects.neuron import Executor, ExecutorAttr, TargetAttr
from neuron_dialects.nisa import NisaOp
from neuron_dialects.ssa_order import check_ssa_order
from neuron_dialects.target import load_target
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver, run_graph
from runtime.program_interpreter import run_function

Array = np.ndarray[Any, np.dtype[Any]]
Make = Callable[[Block, Sequence[SSAValue], Mapping[str, SSAValue]], Sequence[SSAValue]]
"""Adds ops to the block, given arguments and weights; returns the function's results."""


def add(block: Block, op: Operation) -> SSAValue:
    """Add an op; its result."""
    block.add_op(op)
    return op.results[0]


def conv(block: Block, x: SSAValue, w: SSAValue) -> SSAValue:
    """A convolution of stride 1 that keeps the size, with as much padding on all sides."""
    pad = shape_of(w)[2] // 2
    return add(block, ConvOp(x, w, strides=(1, 1), pads=(pad,) * 4, dilations=(1, 1), groups=1))


def core_module(
    target: str, inputs: Sequence[tuple[str, tuple[int, ...]]], weights: Mapping[str, Array], make: Make
) -> ModuleOp:
    """A module with one core function @neuron_0."""
    types = [tensor_type(dtype_by_name(dtype), shape) for dtype, shape in inputs]
    block = Block(arg_types=types)
    values: dict[str, SSAValue] = {}
    for name, array in weights.items():
        op = WeightOp(name, tensor_type(dtype_of_numpy(array.dtype), array.shape))
        block.add_op(op)
        values[name] = op.result
    results = make(block, list(block.args), values)
    block.add_op(func.ReturnOp(*results))
    function_type = FunctionType.from_lists(types, [value.type for value in results])
    function = func.FuncOp("neuron_0", function_type, Region(block), "private")
    function.attributes["neuron.executor"] = ExecutorAttr(Executor.CORE)
    module = ModuleOp([function])
    module.attributes["neuron.target"] = TargetAttr(target)
    module.verify()
    return module


def core_function(module: ModuleOp) -> func.FuncOp:
    """The core function of `core_module`."""
    return next(op for op in module.ops if isinstance(op, func.FuncOp))


def executions(op: Operation) -> int:
    """How often an op of a tile or nisa function is executed."""
    count, parent = 1, op.parent_op()
    while isinstance(parent, ForOp):
        count *= trip_count(parent)
        parent = parent.parent_op()
    return count


def random_inputs(inputs: Sequence[tuple[str, tuple[int, ...]]], seed: int = 0) -> list[Array]:
    """Normal floats and small integers."""
    rng = np.random.default_rng(seed)
    made: list[Array] = []
    for name, shape in inputs:
        dtype = dtype_by_name(name)
        values = rng.standard_normal(shape) if dtype.is_float else rng.integers(0, 5, shape)
        made.append(values.astype(dtype.numpy))
    return made


def relative_error(actual: Array, expected: Array) -> float:
    """Norm of the difference over the norm of `expected`."""
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(a - e) / max(1e-30, float(np.linalg.norm(e))))


def lowered_error(
    target: str,
    inputs: Sequence[tuple[str, tuple[int, ...]]],
    weights: Mapping[str, Array],
    make: Make,
    layouts: Callable[[Block], None] | None = None,
) -> float:
    """Relative error of the lowered function against the graph level, worst output.

    Also checks on the way that tile and nisa form give the same bits and that the target can execute every instruction.
    `layouts` may change the function's block before it is lowered.
    """
    module = core_module(target, inputs, weights, make)
    arrays = random_inputs(inputs)
    expected = run_graph(core_function(module), [a.copy() for a in arrays], lambda name: weights[name])
    if layouts is not None:
        layouts(core_function(module).body.block)
        module.verify()
    store = WeightStore()
    for name, array in weights.items():
        store.add(name, array)
    flat = [a.reshape(a.shape or (1,)) for a in arrays]
    ConvertGraphToTilePass().apply(Context(), module)
    module.verify()
    assert not check_ssa_order(module)
    tiled = run_function(core_function(module), flat, WeightResolver(module, store))
    ConvertTileToNisaPass().apply(Context(), module)
    module.verify()
    description = load_target(target)
    instructions = [op.instruction() for op in module.walk() if isinstance(op, NisaOp)]
    problems = [problem for instruction in instructions for problem in verify_instruction(instruction, description)]
    assert not problems, problems[0]
    selected = run_function(core_function(module), flat, WeightResolver(module, store))
    for a, b in zip(tiled, selected, strict=True):
        np.testing.assert_array_equal(a, b)
    return max(relative_error(a.reshape(e.shape), e) for a, e in zip(tiled, expected, strict=True))
