"""Registers: flat queues execute the same instructions with the same numbers, however few registers there are."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.func import FuncOp

from neuron_dialects.errors import NeuronError
from neuron_dialects.nisa import ControlOp, NisaOp
from neuron_dialects.target import Figure, Target, load_target
from passes.nisa.allocate_registers import allocate_registers
from passes.nisa.split_queues import split_function
from tests.passes.nisa.abstract_machine import queue_traces
from tests.passes.nisa.random_programs import programs
from tests.passes.nisa.test_synchronize import synchronized


def target_with(registers: int) -> Target:
    target = load_target("trn1")
    figures = {**target.figures, "scalar_registers": Figure(registers, "assumed")}
    return dataclasses.replace(target, figures=figures)


def contents(function: FuncOp) -> dict[str, list[tuple[object, ...]]]:
    return {engine: [step.content for step in steps] for engine, steps in queue_traces(function).items()}


def used_registers(function: FuncOp) -> set[int]:
    used: set[int] = set()
    for op in function.walk():
        if isinstance(op, ControlOp) and op.kind.data.startswith("reg_"):
            used.add(op.operand_numbers[0])
    return used


# Any program: the flat queues execute what the queues executed, and every number is a constant plus at most one
# register.
@settings(max_examples=200)
@given(programs())
def test_flat_queues_execute_the_same(text: str) -> None:
    function = synchronized(text)
    split_function(function, load_target("trn1"))
    expected = contents(function)
    allocate_registers(function, load_target("trn1"))
    function.verify()
    assert contents(function) == expected
    for op in function.walk():
        if isinstance(op, NisaOp):
            assert not op.indices
            offsets = [pattern.offset for _, pattern in op.access.data]
            counts = [count for _, count in op.sync.data.waits] if op.sync is not None else []
            assert all(c == 1 for number in [*offsets, *counts] for _, c in number.terms)
            assert all(len(number.terms) <= 1 for number in [*offsets, *counts])


# With few registers values are computed where they are used; with too few there is an error with both figures.
@settings(max_examples=200)
@given(programs(), st.integers(3, 12))
def test_few_registers(text: str, registers: int) -> None:
    function = synchronized(text)
    split_function(function, load_target("trn1"))
    expected = contents(function)
    try:
        allocate_registers(function, target_with(registers))
    except NeuronError as error:
        if error.code != "NX-REG-001" or f"limit {registers}" not in error.message:
            raise
        return
    assert contents(function) == expected
    assert used_registers(function) <= set(range(registers))
