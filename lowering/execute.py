"""Runs a module at whatever level it is: graph ops on numpy, tile and nisa in program order, queues on the machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, MemRefType, ModuleOp, StringAttr
from xdsl.ir import Attribute

from lowering.nisa_to_neff.program import core_program
from neuron_dialects import nisa
from neuron_dialects.dtypes import dtype_by_name, dtype_of
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.neuron import target_of
from neuron_dialects.target import Target
from neuron_dialects.weights import WeightStore
from passes.nisa.allocate_registers import allocate_registers
from runtime.graph_interpreter import Observer, WeightResolver, Weights, run_graph
from runtime.machine import Machine, Mode, Timing
from runtime.program_interpreter import run_function

Array = np.ndarray[Any, np.dtype[Any]]


def main_function(module: ModuleOp) -> func.FuncOp:
    """The function `main`; NeuronError NX-IR-002 when there is none."""
    for op in module.body.block.ops:
        if isinstance(op, func.FuncOp) and op.sym_name.data == "main":
            return op
    raise NeuronError("NX-IR-002", "the module has no function @main")


def input_names(main: func.FuncOp) -> list[str]:
    """Names of the model's inputs, `input0`, ... where the module does not say."""
    given = main.attributes.get("neuron.input_names")
    if isinstance(given, ArrayAttr):
        return [item.data for item in given.data if isinstance(item, StringAttr)]
    return [f"input{i}" for i in range(len(main.body.block.args))]


def output_names(main: func.FuncOp) -> list[str]:
    """Names of the model's outputs, `output0`, ... where the module does not say."""
    given = main.attributes.get("neuron.output_names")
    if isinstance(given, ArrayAttr):
        return [item.data for item in given.data if isinstance(item, StringAttr)]
    return [f"output{i}" for i in range(len(main.function_type.outputs.data))]


@dataclass(frozen=True)
class ModuleRun:
    """Outputs of @main in order (zeros in timing mode), and the timing of each launched core segment that ran."""

    outputs: list[Array]
    timings: list[Timing]


def run_module(module: ModuleOp, store: WeightStore, inputs: Sequence[Array], mode: Mode = "functional") -> ModuleRun:
    """Run @main, each launched segment at its own level.

    Only queues have a time: in modes "timing" and "both" a core segment before the split into queues is NX-RUN-013.
    """
    timings: list[Timing] = []
    main = main_function(module)
    outputs = run_named_function(main, store, inputs, mode, timings)
    if mode != "functional" and not timings:
        raise _without_queues(main)
    return ModuleRun(outputs, timings)


def run_named_function(
    entry: func.FuncOp,
    store: WeightStore,
    inputs: Sequence[Array],
    mode: Mode = "functional",
    timings: list[Timing] | None = None,
    observe: Observer | None = None,
) -> list[Array]:
    """Run one function of a module at its level, and what it launches at theirs; the results, in order.

    Args:
        entry: the function. At the graph level it takes tensors, below it buffers, which may have other ranks.
        inputs: one array for each argument, or for each buffer that is an input.
        timings: takes the timing of each core segment, where the mode has one.
        observe: is shown what each operator at the graph level computes.
    """
    module = entry.get_toplevel_object()
    assert isinstance(module, ModuleOp)
    resolver = WeightResolver(module, store)

    def launch(function: func.FuncOp, arguments: list[Array], weights: Weights) -> Sequence[Array]:
        if not _has_queues(function):
            if mode != "functional":
                raise _without_queues(function)
            return run_function(function, arguments, weights)
        program = _flat_program(function, target_of(module))
        parameters = {v.name: np.atleast_1d(weights(v.name)) for v in program.variables if v.kind == "file"}
        variables = [v for v in program.variables if v.kind == "input"]
        given = {v.name: a.reshape(v.shape) for v, a in zip(variables, arguments, strict=True)}
        result = Machine(program, target_of(module)).run(given, parameters, mode)
        if result.timing is not None and timings is not None:
            timings.append(result.timing)
        made = [v for v in program.variables if v.kind == "output"]
        if mode == "timing":
            return [np.zeros(v.shape, dtype_by_name(v.dtype).numpy) for v in made]
        return [result.outputs[v.name] for v in made]

    if not any(isinstance(argument.type, MemRefType) for argument in entry.body.block.args):
        return run_graph(entry, list(inputs), resolver, launch=launch, observe=observe)
    buffers = [cast("MemRefType[Attribute]", argument.type) for argument in entry.body.block.args]
    given = [
        array.reshape(buffer.get_shape()).astype(dtype_of(buffer.element_type).numpy)
        for buffer, array in zip(buffers, inputs, strict=False)
    ]
    return list(launch(entry, given, resolver))


def queue_programs(module: ModuleOp) -> list[CoreProgram]:
    """The programs of the functions that are in queues; NX-RUN-013 when there is none."""
    functions = [op for op in module.body.block.ops if isinstance(op, func.FuncOp)]
    programs = [_flat_program(function, target_of(module)) for function in functions if _has_queues(function)]
    if not programs:
        raise _without_queues(main_function(module))
    return programs


def _flat_program(function: func.FuncOp, target: Target) -> CoreProgram:
    """The program of a function in queues, whose registers are allocated if that was not done."""
    if not _has_registers(function):
        allocate_registers(function, target)
    return core_program(function, target)


def _without_queues(function: func.FuncOp) -> NeuronError:
    """What to say when something is asked for that only queues have."""
    return NeuronError(
        "NX-RUN-013",
        f"function @{function.sym_name.data} has no queues; only queues have a time and races",
        help="lower it with neuron-opt, from the tile level with -p tile-to-nisa",
    )


def _has_queues(function: func.FuncOp) -> bool:
    return any(isinstance(op, nisa.QueueOp) for op in function.body.block.ops)


def _has_registers(function: func.FuncOp) -> bool:
    """Whether every queue is flat, that is, in form 5."""
    return not any(
        op.name == "scf.for"
        for queue in function.body.block.ops
        if isinstance(queue, nisa.QueueOp)
        for op in queue.body.block.ops
    )
