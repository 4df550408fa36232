"""What `neuron-reduce` removes from textual IR: operations, functions, and what only they need.

In a function that nothing calls, a tensor whose operation is cut becomes an argument, tensors that nobody uses any more
are returned, and arguments that nobody reads go. Elsewhere (buffers, called functions, inner regions) an operation goes
together with its users. An operation that is bypassed passes on an operand of its result's type.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xdsl.dialects.builtin import FunctionType, ModuleOp, StringAttr, SymbolRefAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue
from xdsl.traits import IsTerminator

from neuron_dialects.neuron import WEIGHTS_ATTRIBUTE, weights_path
from tools.module_file import read_module
from tools.opt.checks import find_fault
from tools.opt.printing import PrintOptions
from tools.reduce.search import Choice, Fate

NAMES = ("neuron.input_names", "neuron.output_names")
"""Attributes of a function that list its arguments or results."""


class IrParts:
    """The operations of a module that are not terminators, in the order of the text.

    Args:
        path: the file; NeuronError, ParseError or VerifyException as `read_module` raises.
    """

    suffix = ".mlir"

    def __init__(self, path: Path) -> None:
        self._module = read_module(path)
        if (weights := weights_path(self._module)) is not None:
            # Candidates lie in another folder.
            self._module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr(str(weights.resolve()))
        ops = list(self._module.walk())
        self._numbers = [n for n, op in enumerate(ops) if n and not op.has_trait(IsTerminator)]
        self._bypassable = [_passed_on(ops[number]) is not None for number in self._numbers]
        self._names = [op.name for op in ops]
        self._called = frozenset(_called(self._module))

    def __len__(self) -> int:
        return len(self._numbers)

    def write(self, choice: Choice, path: Path) -> bool:
        """Write the module of a choice; False when there is none that verifies."""
        module = self._module.clone()
        ops = list(module.walk())
        cutter = _Cutter(self._called)
        # Backwards: what only goes to operations that are cut needs no argument.
        for part, number in reversed(list(enumerate(self._numbers))):
            if part not in choice:
                cutter.cut(ops[number])
            elif choice[part] is Fate.BYPASSED:
                cutter.bypass(ops[number])
        if cutter.is_stuck:
            return False
        for op in list(module.ops):
            if isinstance(op, FuncOp) and op.body.blocks and op.sym_name.data not in self._called:
                _mend(op)
        if find_fault(module) is not None:
            return False
        path.write_text(PrintOptions(debuginfo=True).text(module) + "\n", encoding="utf-8")
        return True

    def bypassable(self, part: int) -> bool:
        """Whether an operation has an operand of its result's type."""
        return self._bypassable[part]

    def described(self, choice: Choice) -> list[str]:
        """The operations that are left, without functions."""
        kept = (self._names[self._numbers[part]] for part in sorted(choice) if choice[part] is Fate.KEPT)
        return [name for name in kept if name != "func.func"]


class _Cutter:
    """Takes operations out of a module, the last ones first."""

    def __init__(self, called: frozenset[str]) -> None:
        self._called = called
        self._gone: set[Operation] = set()
        self.is_stuck = False
        """Whether something could not be taken out: a terminator needs its value."""

    def cut(self, op: Operation) -> None:
        """Take out one operation: its tensors become arguments, or its users go with it."""
        if self._is_gone(op):
            return
        function = op.parent_op()
        free = isinstance(function, FuncOp) and function.sym_name.data not in self._called
        if free and isinstance(function, FuncOp):
            _become_arguments(op, function)
        pending, removed = [op], [op]
        self._gone.add(op)
        while pending:
            for use in [use for result in pending.pop().results for use in result.uses]:
                user = use.operation
                if user.has_trait(IsTerminator):
                    self.is_stuck = True
                    return
                if user not in self._gone:
                    self._gone.add(user)
                    pending.append(user)
                    removed.append(user)
        for gone in removed:
            gone.detach()
        for gone in removed:
            gone.drop_all_references()

    def bypass(self, op: Operation) -> None:
        """Pass on an operand that fits."""
        operand = _passed_on(op)
        if operand is None or self._is_gone(op):
            return
        op.results[0].replace_all_uses_with(operand)
        self._gone.add(op)
        op.detach()
        op.drop_all_references()

    def _is_gone(self, op: Operation) -> bool:
        ancestor: Operation | None = op
        while ancestor is not None:
            if ancestor in self._gone:
                return True
            ancestor = ancestor.parent_op()
        return False


def _passed_on(op: Operation) -> SSAValue | None:
    """The operand that has the type of the only result."""
    if len(op.results) != 1:
        return None
    return next((value for value in op.operands if value.type == op.results[0].type), None)


def _become_arguments(op: Operation, function: FuncOp) -> None:
    """Let the users of an operation's tensors read arguments instead."""
    block = function.body.block
    for result in op.results:
        if isinstance(result.type, TensorType) and result.first_use is not None:
            argument = block.insert_arg(result.type, len(block.args))
            argument.name_hint = result.name_hint
            result.replace_all_uses_with(argument)


def _called(module: ModuleOp) -> Iterator[str]:
    """Names of the functions that something launches or calls."""
    for op in module.walk():
        callee = op.properties.get("callee")
        if isinstance(callee, SymbolRefAttr):
            yield callee.root_reference.data


def _mend(function: FuncOp) -> None:
    """Return what nobody uses, take what somebody reads, and state the types of that."""
    block = function.body.block
    terminator = block.last_op
    if not isinstance(terminator, ReturnOp) or any(not isinstance(arg.type, TensorType) for arg in block.args):
        return
    returned = set(terminator.operands)
    for op in reversed(list(block.ops)):
        if not op.operands and op.results and all(result.first_use is None for result in op.results):
            # A constant or a weight that was only read by what has gone.
            op.detach()
    results = [result for op in block.ops for result in op.results]
    kept = [v for v in results if v in returned or (v.first_use is None and isinstance(v.type, TensorType))]
    changed = len(kept) != len(terminator.operands)
    terminator.operands = kept
    for argument in list(block.args):
        if argument.first_use is None:
            block.erase_arg(argument)
            changed = True
    function.properties["function_type"] = FunctionType.from_lists(
        [argument.type for argument in block.args], [value.type for value in kept]
    )
    if changed:
        function.attributes = {name: value for name, value in function.attributes.items() if name not in NAMES}
        for name in ("arg_attrs", "res_attrs"):
            function.properties.pop(name, None)
