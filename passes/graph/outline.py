"""Outlining: operators of @main become functions of their own, launched one after the other.

Given a module and the operators of each segment in the order in which segments run, leaves @main with a launch for
each, and a function @neuron_K or @host_K with the operators. Weights and constants are repeated in each segment that
uses them.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from neuron_dialects.graph import ConstantOp, WeightOp
from neuron_dialects.neuron import EXECUTOR_ATTRIBUTE, Executor, LaunchOp

SOURCES = (WeightOp, ConstantOp)
"""Operators that every segment has for itself."""


class Outline:
    """Moves operators out of @main, segment by segment in the order in which they run."""

    def __init__(self, module: ModuleOp, main: FuncOp) -> None:
        self._module = module
        self._main = main
        self._last: Operation = main
        self._count = 0

    def add(self, members: Sequence[Operation], executor: Executor) -> str:
        """Outline one segment: its operators in program order. Returns the name of its function."""
        inside = set(members)
        inputs = list(
            dict.fromkeys(
                operand
                for op in members
                for operand in op.operands
                if operand.owner not in inside and not isinstance(operand.owner, SOURCES)
            )
        )
        outputs = [
            result for op in members for result in op.results if any(use.operation not in inside for use in result.uses)
        ]
        launch = self._launch(inputs, outputs, executor, members[0])
        for old, new in zip(outputs, launch.results, strict=True):
            new.name_hint = old.name_hint
            old.replace_uses_with_if(new, lambda use: use.operation not in inside)
        body = Block(arg_types=[value.type for value in inputs])
        values: dict[SSAValue, SSAValue] = dict(zip(inputs, body.args, strict=True))
        for value, argument in zip(inputs, body.args, strict=True):
            argument.name_hint = value.name_hint
        for op in members:
            op.detach()
            op.operands = [self._value_inside(operand, values, body) for operand in op.operands]
            body.add_op(op)
        body.add_op(ReturnOp(*outputs))
        self._add_function(launch, body, outputs)
        return launch.callee.root_reference.data

    def finish(self) -> None:
        """Return constants and weights from a segment of the host, and drop those that are left over in @main."""
        block = self._main.body.block
        final = block.last_op
        assert final is not None
        returned = list(dict.fromkeys(value for value in final.operands if isinstance(value.owner, SOURCES)))
        if returned:
            sources = [value.owner for value in returned if isinstance(value.owner, Operation)]
            launch = self._launch([], returned, Executor.HOST, sources[0])
            values: dict[SSAValue, SSAValue] = {}
            body = Block([source.clone(values) for source in sources])
            body.add_op(ReturnOp(*(values[value] for value in returned)))
            for old, new in zip(returned, launch.results, strict=True):
                new.name_hint = old.name_hint
                old.replace_uses_with_if(new, lambda use: use.operation is final)
            self._add_function(launch, body, returned)
        for op in list(block.ops):
            if isinstance(op, SOURCES):
                block.erase_op(op)

    def _launch(
        self, inputs: Sequence[SSAValue], outputs: Sequence[SSAValue], executor: Executor, first: Operation
    ) -> LaunchOp:
        """The launch of the next segment, at the end of @main; its location is that of the segment's first operator."""
        prefix = "host" if executor is Executor.HOST else "neuron"
        launch = LaunchOp(f"{prefix}_{self._count}", inputs, [value.type for value in outputs], executor)
        launch.location = first.location
        self._count += 1
        final = self._main.body.block.last_op
        assert final is not None
        self._main.body.block.insert_op_before(launch, final)
        return launch

    def _value_inside(self, operand: SSAValue, values: dict[SSAValue, SSAValue], body: Block) -> SSAValue:
        """The value that stands for `operand` in a segment; weights and constants are repeated where first used."""
        if isinstance(operand.owner, SOURCES) and operand not in values:
            body.add_op(operand.owner.clone(values))
        return values.get(operand, operand)

    def _add_function(self, launch: LaunchOp, body: Block, outputs: Sequence[SSAValue]) -> None:
        """Add the function of a segment behind the one before it."""
        types = (body.arg_types, [value.type for value in outputs])
        function = FuncOp(launch.callee.root_reference.data, types, Region(body))
        function.attributes[EXECUTOR_ATTRIBUTE] = launch.executor
        function.location = launch.location
        self._module.body.block.insert_op_after(function, self._last)
        self._last = function
