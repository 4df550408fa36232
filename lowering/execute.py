"""Runs a module at whatever level it is: graph ops on numpy, tile and nisa in program order, queues on the machine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr

from lowering.nisa_to_neff.program import core_program
from lowering.pipeline import make_pass
from neuron_dialects import nisa
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import target_of
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver, run_graph
from runtime.machine import Machine
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


def run_module(module: ModuleOp, store: WeightStore, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of @main, each launched segment executed at its own level."""
    weights = WeightResolver(module, store)
    finished: set[func.FuncOp] = set()

    def launch(function: func.FuncOp, arguments: list[Array]) -> Sequence[Array]:
        has_queues = any(isinstance(op, nisa.QueueOp) for op in function.body.block.ops)
        if not has_queues:
            return run_function(function, arguments, weights)
        if function not in finished and not _has_registers(function):
            make_pass("nisa-allocate-registers").apply(Context(), module)
            function = next(
                f for f in module.body.block.ops if isinstance(f, func.FuncOp) and f.sym_name == function.sym_name
            )
        finished.add(function)
        target = target_of(module)
        program = core_program(function, target)
        parameters = {v.name: weights(v.name) for v in program.variables if v.kind == "file"}
        variables = [v for v in program.variables if v.kind == "input"]
        given = {v.name: a.reshape(v.shape) for v, a in zip(variables, arguments, strict=True)}
        result = Machine(program, target).run(given, parameters, "functional")
        return [result.outputs[v.name] for v in program.variables if v.kind == "output"]

    return run_graph(main_function(module), list(inputs), weights, launch=launch)


def _has_registers(function: func.FuncOp) -> bool:
    """Whether every queue is flat, that is, in form 5."""
    return not any(
        op.name == "scf.for"
        for queue in function.body.block.ops
        if isinstance(queue, nisa.QueueOp)
        for op in queue.body.block.ops
    )
