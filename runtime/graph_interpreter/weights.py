"""The weights of a module, by name: entries of a weight store, and recipes computed from them.

`WeightResolver` is what the interpreter, and whoever lays out the weights of a compiled program, asks for a weight. A
`graph.derived_weight` is computed when it is asked for and, like an entry of the store, shared for as long as somebody
holds it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import DerivedWeightOp
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter.interpreter import Weights, run_body
from runtime.graph_interpreter.numerics import Array


def evaluate_derived(op: DerivedWeightOp, weights: Weights) -> Array:
    """The value of a derived weight, of the shape and element type that the operator states.

    `weights` gives the weights that its recipe names.
    """
    return run_body(op.body.block, [], weights)[0]


class WeightResolver:
    """All weights of a module, by name: NeuronError NX-WEIGHT-003 for one that there is not."""

    def __init__(self, module: ModuleOp, store: WeightStore, known: Mapping[str, Array] | None = None) -> None:
        """`module` is read once, now: make a new resolver after passes have changed its derived weights.

        `known`: what another resolver computed of weights that are still made in the same way.
        """
        self._derived = {op.sym_name.data: op for op in module.ops if isinstance(op, DerivedWeightOp)}
        self._store = store
        self._known = known or {}
        self._computed: weakref.WeakValueDictionary[str, Array] = weakref.WeakValueDictionary()
        self._computing: list[str] = []

    def __call__(self, name: str) -> Array:
        """The array of a weight, read-only. Not to be called from two threads at once."""
        known = self._known.get(name)
        if known is not None:
            return known
        op = self._derived.get(name)
        if op is None:
            return self._store.get(name)
        array = self._computed.get(name)
        if array is None:
            if name in self._computing:
                chain = " -> ".join([*self._computing[self._computing.index(name) :], name])
                raise NeuronError("NX-WEIGHT-003", f"weight '{name}' is derived from itself: {chain}")
            self._computing.append(name)
            try:
                # A view of its own: a recipe may pass through an array that others hold, which stays as it is.
                array = evaluate_derived(op, self).view()
            finally:
                self._computing.pop()
            array.flags.writeable = False
            self._computed[name] = array
        return array
