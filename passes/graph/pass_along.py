"""Small tensors that many stages of a pipeline read go from reader to reader.

Given a module whose @main launches stages, leaves no small tensor that more than two stages read from its maker: each
of them gives it on to the next one, as a result of its own. So a maker waits for few others (each takes a semaphore, of
which a core has few), and has two or three buffers of the tensor instead of one for each stage that it passes by.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import FunctionType, ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import OpResult, SSAValue
from xdsl.rewriter import Rewriter

from neuron_dialects.graph.work import bytes_of
from neuron_dialects.neuron import LaunchOp

MOST_READERS = 2
"""Stages that may read a tensor from the one that makes it."""

MOST_BYTES = 1 << 16
"""Bytes of a tensor that takes about as long to pass on as a transfer takes to start."""


def pass_along(module: ModuleOp, functions: Sequence[FuncOp]) -> None:
    """Let the stages `functions`, in the order of their launches, give small tensors on.

        %m, %x = neuron.launch @stage_0(%i)
        %y = neuron.launch @stage_1(%x, %m)
        %z = neuron.launch @stage_2(%y, %m)
        %r = neuron.launch @stage_3(%z, %m)

    becomes

        %m, %x = neuron.launch @stage_0(%i)
        %y, %n = neuron.launch @stage_1(%x, %m)
        %z, %o = neuron.launch @stage_2(%y, %n)
        %r = neuron.launch @stage_3(%z, %o)
    """
    stages = {function.sym_name.data: function for function in functions}
    launches = [op for op in module.walk() if isinstance(op, LaunchOp) and op.callee.root_reference.data in stages]
    for number, launch in enumerate(launches):
        for value in launch.results:
            if bytes_of(value.type) > MOST_BYTES:
                continue
            readers = [place for place in range(number + 1, len(launches)) if value in launches[place].arguments]
            if len(readers) <= MOST_READERS:
                continue
            current: SSAValue = value
            for place in readers:
                reader = launches[place]
                function = stages[reader.callee.root_reference.data]
                index = [*reader.arguments].index(value)
                reader.operands[index] = current
                if place != readers[-1] and function.body.block.args[index].type == value.type:
                    launches[place], current = _gives_on(reader, function, index)


def _gives_on(launch: LaunchOp, function: FuncOp, index: int) -> tuple[LaunchOp, OpResult]:
    """The launch again with its argument `index` as one more result, and that result; the function gives it."""
    block = function.body.block
    argument, returned = block.args[index], block.last_op
    assert isinstance(returned, ReturnOp)
    returned.operands = [*returned.operands, argument]
    types = [*function.function_type.outputs.data, argument.type]
    function.properties["function_type"] = FunctionType.from_lists([*function.function_type.inputs.data], types)
    made = LaunchOp(
        function.sym_name.data,
        [*launch.arguments],
        [*(result.type for result in launch.results), argument.type],
        launch.executor.data,
    )
    made.location = launch.location
    made.attributes |= launch.attributes
    for old, new in zip(launch.results, made.results, strict=False):
        new.name_hint = old.name_hint
    Rewriter.replace_op(launch, made, made.results[:-1])
    made.results[-1].name_hint = made.arguments[index].name_hint
    return made, made.results[-1]
