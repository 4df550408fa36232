"""Registers: flat queues execute the same instructions with the same numbers, however few registers there are."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.func import FuncOp

from neuron_dialects.errors import NeuronError
from neuron_dialects.nisa import ControlOp, NisaOp
from neuron_dialects.target import Figure, Target, load_target
from passes.nisa.allocate_registers import allocate_registers
from passes.nisa.split_queues import split_function
from tests.passes.nisa.abstract_machine import queue_traces, run_to_the_end
from tests.passes.nisa.random_programs import programs
from tests.passes.nisa.test_synchronize import synchronized
from tests.program_texts import parse


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
@settings(max_examples=100)
@given(programs())
def test_flat_queues_execute_the_same(text: str) -> None:
    function = synchronized(text)
    split_function(function, load_target("trn1"))
    expected = contents(function)
    allocate_registers(function, load_target("trn1"))
    function.verify()
    assert contents(function) == expected
    assert run_to_the_end(queue_traces(function)) == 0
    for op in function.walk():
        if isinstance(op, NisaOp):
            assert not op.indices
            offsets = [pattern.offset for _, pattern in op.access.data]
            counts = [count for _, count in op.sync.data.waits] if op.sync is not None else []
            assert all(c == 1 for number in [*offsets, *counts] for _, c in number.terms)
            assert all(len(number.terms) <= 1 for number in [*offsets, *counts])


# With few registers values are computed where they are used; with too few there is an error with both figures.
@settings(max_examples=100)
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


# Seven multiples of one loop's variable, one of them with a slot, in six registers: two are scratch, two hold the
# counter and the slot, two hold 8k, which is used twice, and 16k. Four are products, one is a sum of two products.
def test_values_are_computed_from_counters() -> None:
    steps = [8, 16, 24, 32, 40, 48]
    lines = [f"nisa.memset on dve dst %x[0:128][{step}*%k : 8]" for step in [*steps, 8]]
    text = f"""
    func.func @neuron_0() {{
      %x = nisa.alloc copies 2 at 0, 0 stride 4096 : memref<128x1024xf32, #neuron.space<sbuf>>
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c4 = arith.constant 4 : index
      nisa.queue dve {{
        scf.for %k = %c0 to %c4 step %c1 {{
          %slot = nisa.slot 2
          {chr(10).join(lines)}
          nisa.memset on dve dst %x[0:128][1024*%slot + 56*%k : 8]
        }}
      }}
      func.return
    }}
    """
    function = parse(text).body.block.first_op
    assert isinstance(function, FuncOp)
    expected = contents(function)
    allocate_registers(function, target_with(6))
    assert contents(function) == expected
    kinds = [op.kind.data for op in function.walk() if isinstance(op, ControlOp)]
    assert kinds.count("reg_multiply") == 6
    assert kinds.count("reg_add_register") == 1
    assert used_registers(function) <= set(range(6))


# Two loop counters and three scratch registers, in three: refused, with the node's name.
def test_too_few_registers_are_an_error() -> None:
    text = """
    func.func @neuron_0() {
      %x = nisa.alloc at 0, 0 : memref<128x1024xf32, #neuron.space<sbuf>>
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c4 = arith.constant 4 : index
      nisa.queue dve {
        scf.for %i = %c0 to %c4 step %c1 {
          scf.for %k = %c0 to %c4 step %c1 {
            nisa.memset on dve dst %x[0:128][64*%i + 8*%k : 8] wait(pe >= 4*%i + %k) loc("conv1")
          }
        }
      }
      func.return
    }
    """
    function = parse(text).body.block.first_op
    assert isinstance(function, FuncOp)
    with pytest.raises(NeuronError, match="queue dve needs 5 scalar registers at once, limit 3") as error:
        allocate_registers(function, target_with(3))
    assert error.value.code == "NX-REG-001"
    assert error.value.node == "conv1"


# Instructions that are not in queues yet.
def test_queues_are_required() -> None:
    text = """
    func.func @neuron_0() {
      %x = nisa.alloc at 0, 0 : memref<128x1024xf32, #neuron.space<sbuf>>
      nisa.memset on dve dst %x[0:128][0 : 8]
      func.return
    }
    """
    function = parse(text).body.block.first_op
    assert isinstance(function, FuncOp)
    with pytest.raises(NeuronError, match="instructions outside of queues"):
        allocate_registers(function, load_target("trn1"))
