"""What is wrong with a program: xDSL's rules, then those that xDSL does not know.

`find_fault` verifies a module, checks that values are defined before they are used and that launches fit their
functions, and names the operation that breaks a rule.
"""

from __future__ import annotations

import sys

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.utils.exceptions import DiagnosticException

from neuron_dialects.ssa_order import ssa_order_problems
from tools.errors import one_line


def find_fault(module: ModuleOp) -> tuple[Operation | None, str] | None:
    """The first broken rule and the operation that breaks it (None where xDSL does not tell)."""
    try:
        module.verify()
    except (DiagnosticException, ValueError) as error:
        return _faulty_operation(module), str(error)
    problems: list[tuple[Operation, str]] = [*ssa_order_problems(module)]
    # A program without launches must not pay for importing what they need.
    if not problems and "neuron_dialects.neuron" in sys.modules:
        from neuron_dialects.neuron import launch_problems

        problems.extend(launch_problems(module))
    if not problems:
        return None
    op, message = problems[0]
    return op, message if len(problems) == 1 else f"{message} (and {len(problems) - 1} more like it)"


def described(op: Operation | None, message: str) -> str:
    """A fault on one line, with the operation and the framework node that it came from."""
    if op is None:
        return one_line(message)
    from neuron_dialects.neuron import location_name

    node = location_name(op.location)
    place = f" (node '{node}')" if node else ""
    return f"'{op.name}'{place} {one_line(message)}"


def _faulty_operation(module: ModuleOp) -> Operation | None:
    """The outermost operation that does not verify on its own; xDSL's exception does not say which it was."""
    for op in module.walk():
        try:
            op.verify(verify_nested_ops=False)
        except (DiagnosticException, ValueError):
            return op
    return None
