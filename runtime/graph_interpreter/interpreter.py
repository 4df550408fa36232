"""Runs graph-level functions on numpy arrays.

`run_graph` is given a function, its inputs and the weights, and leaves the function's results, as the docstrings of the
operators say. Values live until their last use; weights are read when they are first used. A `neuron.launch` runs the
function that it names, in the element types that this function works in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.traits import IsTerminator

from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    AttentionOp,
    BatchNormOp,
    BinaryOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    DerivedWeightOp,
    FusedOp,
    GatherOp,
    LayerNormOp,
    MatMulOp,
    OnnxNodeOp,
    PadOp,
    PoolOp,
    RecurrentOp,
    ReduceOp,
    RelayoutOp,
    ReorderRowsOp,
    ReshapeOp,
    ScatterOp,
    SelectOp,
    SliceOp,
    SoftmaxOp,
    TransposeOp,
    UnaryOp,
    WeightOp,
)
from neuron_dialects.neuron import LaunchOp, layer_weights, location_name
from runtime.graph_interpreter import attention, elementwise, linear, movement, recurrent, reduction
from runtime.graph_interpreter.boundary import check_inputs, convert_element_type, is_lowered, misfit
from runtime.graph_interpreter.host import run_onnx_node
from runtime.graph_interpreter.numerics import Array

Weights: TypeAlias = Callable[[str], Array]
"""Gives the array of the weight of that name."""

Launcher: TypeAlias = Callable[[FuncOp, list[Array], Weights], Sequence[Array]]
"""Runs a launched function on its arguments, in the function's own element types, with these weights."""

Observer: TypeAlias = Callable[[Operation, Array], None]
"""Is shown the first result of each operator as it is computed, those inside of groups and launched functions too."""

MEANINGS: dict[type[Operation], Callable[..., Array | tuple[Array, ...]]] = {
    UnaryOp: elementwise.unary,
    ClipOp: elementwise.clip,
    BinaryOp: elementwise.binary,
    CompareOp: elementwise.compare,
    SelectOp: elementwise.select,
    CastOp: elementwise.cast,
    ReduceOp: reduction.reduce,
    SoftmaxOp: reduction.softmax,
    LayerNormOp: reduction.layer_norm,
    BatchNormOp: reduction.batch_norm,
    MatMulOp: linear.matmul,
    AttentionOp: attention.attention,
    ConvOp: linear.conv,
    ConvTransposeOp: linear.conv_transpose,
    PoolOp: linear.pool,
    RecurrentOp: recurrent.recurrent,
    TransposeOp: movement.transpose,
    ReshapeOp: movement.reshape,
    RelayoutOp: movement.reshape,
    ReorderRowsOp: movement.reorder_rows,
    BroadcastOp: movement.broadcast,
    ConcatOp: movement.concat,
    SliceOp: movement.slice_,
    PadOp: movement.pad,
    GatherOp: movement.gather,
    ScatterOp: movement.scatter,
}
"""Operator -> function of the operator and the arrays of its operands, which gives the arrays of its results."""


def run_graph(
    function: FuncOp,
    inputs: Sequence[Array],
    weights: Weights,
    *,
    launch: Launcher | None = None,
    observe: Observer | None = None,
) -> list[Array]:
    """The results of a graph-level function.

    Args:
        function: a function of one block of graph operators; what it launches is looked up in its module.
        inputs: one array for each argument, of exactly its shape and element type (`DType.numpy`).
        weights: gives a weight by name, for example a `WeightResolver`.
        launch: runs launched functions that are no longer at the graph level.
        observe: is shown what each operator of a function at the graph level computes.

    Raises:
        NeuronError: NX-ONNX-005 when the inputs do not fit the function; NX-OP-001 for an operator that cannot be run;
            NX-OP-002 for values that an operator refuses; NX-WEIGHT-003 or -004 when a weight is missing or differs
            from what the program states; NX-IR-001 when a launch names no function or functions launch each other.
    """
    check_inputs(function, inputs)
    # Overflow, division by zero and NaN are values here, not faults.
    with np.errstate(all="ignore"):
        return _Interpreter(function, weights, launch, observe).run_function(function, list(inputs))


def run_body(block: Block, arguments: Sequence[Array], weights: Weights) -> list[Array]:
    """The values that the terminator of a block of graph operators passes on."""
    with np.errstate(all="ignore"):
        return _Interpreter(None, weights, None).run_block(block, list(arguments))


def iteration_weights(recipes: Mapping[str, DerivedWeightOp], weights: Weights, names: Mapping[str, str]) -> Weights:
    """The weights that one iteration of a repeated function means: others where `names` says so.

    What is derived of these by `recipes` is computed anew.
    """
    computing: set[str] = set()

    def get(name: str) -> Array:
        if name in names:
            return weights(names[name])
        if name not in recipes or name in computing:
            return weights(name)
        computing.add(name)
        try:
            return run_body(recipes[name].body.block, [], get)[0]
        finally:
            computing.discard(name)

    return get


class _Interpreter:
    """One run; holds what all blocks of a run share."""

    def __init__(
        self, function: FuncOp | None, weights: Weights, launch: Launcher | None, observe: Observer | None = None
    ) -> None:
        module = function.get_toplevel_object() if function is not None else None
        ops = module.ops if isinstance(module, ModuleOp) else ()
        self._functions = {op.sym_name.data: op for op in ops if isinstance(op, FuncOp)}
        self._recipes = {op.sym_name.data: op for op in ops if isinstance(op, DerivedWeightOp)}
        self._weights = weights
        self._launch = launch
        self._observe = observe
        self._running: list[FuncOp] = []

    def run_function(self, function: FuncOp, arguments: list[Any]) -> list[Any]:
        blocks = list(function.body.blocks)
        if len(blocks) != 1:
            name = function.sym_name.data
            raise NeuronError("NX-IR-001", f"function @{name} has {len(blocks)} blocks; the graph level has one")
        if function in self._running:
            raise NeuronError("NX-IR-001", f"function @{function.sym_name.data} launches itself")
        self._running.append(function)
        try:
            return self.run_block(blocks[0], arguments)
        finally:
            self._running.pop()

    def run_block(self, block: Block, arguments: list[Any]) -> list[Any]:
        dying = _last_uses(block)
        values: dict[SSAValue, Any] = dict(zip(block.args, arguments, strict=True))
        arguments.clear()
        for op in block.ops:
            # Read when used: a program may name all its weights at its beginning.
            if isinstance(op, WeightOp | ConstantOp):
                continue
            operands = [self._value(values, operand) for operand in op.operands]
            for value in dying.get(op, ()):
                values.pop(value, None)
            if op.has_trait(IsTerminator):
                return operands
            computed = self._run_op(op, operands)
            if self._observe is not None and computed and isinstance(computed[0], np.ndarray):
                self._observe(op, computed[0])
            for result, value in zip(op.results, computed, strict=True):
                if result.first_use is not None:
                    values[result] = value
        raise NeuronError("NX-IR-001", "a block does not end with func.return or graph.yield")

    def _value(self, values: dict[SSAValue, Any], operand: SSAValue) -> Any:
        owner = operand.owner
        if operand not in values and isinstance(owner, WeightOp | ConstantOp):
            values[operand] = owner.array() if isinstance(owner, ConstantOp) else self._weight(owner)
        return values[operand]

    def _run_op(self, op: Operation, operands: list[Any]) -> Sequence[Any]:
        meaning = MEANINGS.get(type(op))
        if meaning is not None:
            made = meaning(op, *operands)
            return made if isinstance(made, tuple) else (made,)
        match op:
            case FusedOp():
                return self.run_block(op.body.block, operands)
            case OnnxNodeOp():
                return run_onnx_node(op, operands)
            case LaunchOp():
                return self._run_launch(op, operands)
            case _:
                raise NeuronError(
                    "NX-OP-001", f"'{op.name}' has no meaning at the graph level", node=location_name(op.location)
                )

    def _run_launch(self, op: LaunchOp, operands: list[Any]) -> list[Any]:
        name = op.callee.root_reference.data
        function = self._functions.get(name)
        if function is None:
            raise NeuronError("NX-IR-001", f"launches @{name}, but the module has no such function")
        # The buffers of a lowered function are its arguments, then its results.
        types = function.function_type.inputs.data[: len(operands)]
        arguments = [convert_element_type(value, type_) for value, type_ in zip(operands, types, strict=True)]
        operands.clear()
        if op.repetitions is None:
            results = self._run_callee(function, arguments)
        else:
            results = self._repeat(function, arguments, op.repetitions)
        return [convert_element_type(value, type_) for value, type_ in zip(results, op.result_types, strict=True)]

    def _run_callee(self, function: FuncOp, arguments: list[Any]) -> list[Any]:
        if not is_lowered(function):
            return self.run_function(function, arguments)
        if self._launch is None:
            raise NeuronError("NX-OP-001", f"function @{function.sym_name.data} is no longer at the graph level")
        return list(self._launch(function, arguments, self._weights))

    def _repeat(self, function: FuncOp, arguments: list[Any], times: int) -> list[Any]:
        """Run a function again and again on its own results, each time with the weights of the iteration."""
        table, outside = layer_weights(function), self._weights
        if any(len(names) != times for names in table.values()):
            raise NeuronError("NX-IR-001", f"@{function.sym_name.data} does not name a weight for each of {times} runs")
        results: list[Any] = []
        try:
            for iteration in range(times):
                names = {name: row[iteration] for name, row in table.items()}
                self._weights = iteration_weights(self._recipes, outside, names)
                arguments = [*results, *arguments[len(results) :]]
                results = self._run_callee(function, list(arguments))
        finally:
            self._weights = outside
        return results

    def _weight(self, op: WeightOp) -> Array:
        array = self._weights(op.weight_name)
        if (problem := misfit(array, op.result.type)) is not None:
            raise NeuronError("NX-WEIGHT-004", f"weight '{op.weight_name}' is {problem}")
        return array


def _last_uses(block: Block) -> dict[Operation, list[SSAValue]]:
    """For each operation of a block the operands that nothing after it uses."""
    seen: set[SSAValue] = set()
    dying: dict[Operation, list[SSAValue]] = {}
    for op in reversed(block.ops):
        for operand in op.operands:
            if operand not in seen:
                seen.add(operand)
                dying.setdefault(op, []).append(operand)
    return dying
