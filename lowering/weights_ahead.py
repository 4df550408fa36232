"""Weights computed while passes run: a thread works out what the emission will need, in numpy, which lets others run.

Given a module whose operators have become loops, so that no later pass changes how a weight of it is made, leaves the
arrays of its parameters. Which they are, and their bytes, do not depend on the thread: the emission computes what is
missing, and meets the error of what cannot be computed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.neuron import LAYER_WEIGHTS_ATTRIBUTE, core_functions
from neuron_dialects.nisa import ParamOp
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver

Array = np.ndarray[Any, np.dtype[Any]]


class WeightsAhead:
    """The weights of a module's parameters, computed in a thread of their own from now on."""

    def __init__(self, module: ModuleOp, store: WeightStore) -> None:
        self._names = list(dict.fromkeys(_names(module)))
        self._weights = WeightResolver(module, store)
        self._arrays: dict[str, Array] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="neuron-weights", daemon=True)
        self._thread.start()

    def arrays(self) -> Mapping[str, Array]:
        """All of them by name, but those that could not be computed; waits for the thread."""
        self._thread.join()
        return self._arrays

    def stop(self) -> None:
        """Nobody wants them any more."""
        self._stopped = True
        self._thread.join()
        self._arrays.clear()

    def _run(self) -> None:
        for name in self._names:
            if self._stopped:
                return
            try:
                self._arrays[name] = _dense(self._weights(name))
            except Exception:  # whatever it is (no memory, a file that is gone): the emission meets it, and tells
                continue


def _dense(array: Array) -> Array:
    """The elements one behind the other, as they are written."""
    dense = np.ascontiguousarray(array).reshape(array.shape)
    dense.flags.writeable = False
    return dense


def _names(module: ModuleOp) -> Iterator[str]:
    """The parameters of core functions, but those of equal layers, of which others than theirs are made."""
    for function in core_functions(module):
        if LAYER_WEIGHTS_ATTRIBUTE not in function.attributes:
            yield from (op.symbol.data for op in function.body.block.ops if isinstance(op, ParamOp))
