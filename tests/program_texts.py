"""What tests of core programs written as text share: parse one, and apply a pass that must keep its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func, FuncOp
from xdsl.dialects.scf import ForOp, Scf
from xdsl.parser import Parser
from xdsl.passes import ModulePass

from neuron_dialects.loops import trip_count
from neuron_dialects.neuron import Neuron
from neuron_dialects.nisa import Nisa
from neuron_dialects.tile import Tile
from runtime.program_interpreter import run_function

Array = np.ndarray[Any, np.dtype[Any]]


def parse(text: str, parts: Mapping[str, object] | None = None) -> ModuleOp:
    """The module of a text in which each name of `parts`, in their order, stands for what it is mapped to."""
    for name, part in (parts or {}).items():
        text = text.replace(name, str(part))
    context = Context()
    for dialect in (Arith, Builtin, Func, Neuron, Nisa, Scf, Tile):
        context.load_dialect(dialect)
    module = Parser(context, text).parse_module()
    module.verify()
    return module


def function_of(module: ModuleOp) -> FuncOp:
    """The only function of a module."""
    (function,) = (op for op in module.ops if isinstance(op, FuncOp))
    return function


def no_parameters(symbol: str) -> Array:
    """For functions without parameters."""
    raise AssertionError(symbol)


def assert_same_numbers(module: ModuleOp, module_pass: ModulePass, inputs: Sequence[Array]) -> list[Array]:
    """Apply a pass, after which the module must be valid and give the same bits; returns them."""
    function = function_of(module)
    expected = run_function(function, inputs, no_parameters)
    module_pass.apply(Context(), module)
    module.verify()
    for result, wanted in zip(run_function(function, inputs, no_parameters), expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
    return expected


def loops_of(module: ModuleOp) -> list[ForOp]:
    """The loops that stand in the body of the only function."""
    return [op for op in function_of(module).body.block.ops if isinstance(op, ForOp)]


def trips_of(module: ModuleOp) -> list[int | None]:
    """How often each of these loops runs."""
    return [trip_count(loop) for loop in loops_of(module)]
