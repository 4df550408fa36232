"""`--verify-numerics`: the program is run on random inputs before and after each pass, in the interpreter of its level.

The first pass after which results differ by more than lowering/numerics.py allows for the types of the program is named
in an error, with the output and the element that moved most and, where the program still has framework nodes on both
sides of the pass, the first node whose values differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from neuron_dialects.errors import NeuronError

if TYPE_CHECKING:
    from lowering.numerics import Difference, ProgramProbe

Row = tuple[str, float, float]
"""Name of a pass, the rel_l2_error that it caused, its budget."""


class NumericsCheck:
    """Compares the results of the program around passes.

    Args:
        module: the program before the first pass.
        tolerance: rel_l2_error that each pass may cause; None for what the types of the program allow.
        seed: of the random values.
    """

    def __init__(self, module: ModuleOp, tolerance: float | None, seed: int) -> None:
        from lowering.numerics import ProgramProbe

        self._tolerance = tolerance
        self._seed = seed
        self._probe: ProgramProbe = ProgramProbe(module, seed)
        self._module = _copy(module)
        self._results: Sequence[Any] = self._probe.results
        self.rows: list[Row] = []

    def check(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Run the program that a pass has left; NeuronError NX-PASS-003 when its results are not the same."""
        from lowering.numerics import FLOORS, budget, compare_results

        name = module_pass.name
        if module.is_structurally_equivalent(self._module):
            self.rows.append((name, 0.0, 0.0))
            return
        allowed = budget(self._module, module) if self._tolerance is None else self._tolerance
        try:
            results = self._probe.run(module)
        except NeuronError as error:
            raise NeuronError(
                "NX-PASS-003",
                f"pass '{name}' ({len(self.rows) + 1}) leaves a program that cannot run: {error.message}",
                node=error.node,
                notes=[f"this is {error.code}; the program in front of it runs; {_inputs(self._seed)}"],
                help=_help(name),
            ) from error
        difference = compare_results(self._probe.names, self._results, results)
        moved = 0.0 if difference is None else difference.rel_l2_error
        if self._tolerance is None and moved > allowed:
            # What a deep model makes of rounding alone is no fault of the pass that casts.
            allowed = max(allowed, FLOORS * self._probe.cast_floor(self._module, module))
        # A NaN is never within the budget.
        if difference is not None and not moved <= allowed:
            raise self._error(name, difference, allowed, module)
        self.rows.append((name, moved, allowed))
        self._module, self._results = _copy(module), results

    def report(self) -> str:
        """A line for each pass."""
        rows = [f"  {moved:.2e}  {allowed:.0e}  {name}" for name, moved, allowed in self.rows]
        return "\n".join(["Results around passes, on random inputs:", "  rel_l2    budget pass", *rows]) + "\n"

    def _error(self, name: str, difference: Difference, allowed: float, module: ModuleOp) -> NeuronError:
        notes = [_inputs(self._seed)]
        if difference.index or difference.max_abs_error < float("inf"):
            at = f"[{', '.join(map(str, difference.index))}]"
            notes.insert(0, f"largest difference at {at}: {difference.before:g} before, {difference.after:g} after")
        node = self._first_node(module, allowed)
        if node is not None:
            notes.append(f"first node whose values differ: '{node}'")
        return NeuronError(
            "NX-PASS-003",
            f"pass '{name}' ({len(self.rows) + 1}) changes results: output '{difference.output}' has rel_l2_error"
            f" {difference.rel_l2_error:.3g}, the pass may cause {allowed:.3g}",
            node=node,
            notes=notes,
            help=_help(name),
        )

    def _first_node(self, module: ModuleOp, allowed: float) -> str | None:
        from lowering.numerics import first_changed_node

        before, after = self._probe.node_values(self._module), self._probe.node_values(module)
        return first_changed_node(before, after, allowed)


def _copy(module: ModuleOp) -> ModuleOp:
    copy = module.clone()
    copy.location = module.location
    return copy


def _inputs(seed: int) -> str:
    return f"random inputs of --numerics-seed {seed}"


def _help(name: str) -> str:
    return f"--print-ir-before={name} --print-ir-after={name} shows the change; neuron-reduce makes the program smaller"
