"""Semaphores: every conflict is ordered, nothing blocks, and no wait is there in vain."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from xdsl.context import Context
from xdsl.dialects.func import FuncOp

from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import location_name
from neuron_dialects.nisa import NisaOp
from neuron_dialects.target import Figure, Target, load_target
from passes.nisa.allocate import NisaAllocatePass
from passes.nisa.allocate_registers import allocate_registers
from passes.nisa.split_queues import split_function
from passes.nisa.synchronize import NisaSynchronizePass, synchronize_function
from tests.passes.nisa.abstract_machine import Ordering, program_order
from tests.passes.nisa.random_programs import programs
from tests.program_texts import parse


def synchronized(text: str, **options: int) -> FuncOp:
    module = parse(text)
    NisaAllocatePass().apply(Context(), module)
    NisaSynchronizePass(**options).apply(Context(), module)
    module.verify()
    function = module.body.block.first_op
    assert isinstance(function, FuncOp)
    return function


# Any program: all conflicting accesses are ordered, no wait is for something that comes later.
@settings(max_examples=100)
@given(programs())
def test_every_conflict_is_ordered(text: str) -> None:
    function = synchronized(text)
    assert Ordering(program_order(function)).races() == []


# Any program: without any single one of its waits some conflict is not ordered.
@settings(max_examples=100)
@given(programs())
def test_no_wait_is_redundant(text: str) -> None:
    function = synchronized(text)
    steps = program_order(function)
    for op in function.walk():
        if isinstance(op, NisaOp) and op.sync is not None:
            for index in range(len(op.sync.data.waits)):
                assert Ordering(steps, removed=(op, index)).races(), f"wait {index} of {op} guards nothing"


# Of equal waits of one instruction, one is needed elsewhere too: to keep another one would be one too many.
def test_of_equal_waits_the_one_needed_elsewhere_stays() -> None:
    text = Path(__file__).with_name("equal_waits.mlir").read_text(encoding="utf-8")
    function = synchronized(text)
    steps = program_order(function)
    assert not Ordering(steps).races()
    for op in function.walk():
        if isinstance(op, NisaOp) and op.sync is not None:
            for index in range(len(op.sync.data.waits)):
                assert Ordering(steps, removed=(op, index)).races(), f"wait {index} of {op} guards nothing"


# Without the replay there may be redundant waits, but none is missing.
@settings(max_examples=100)
@given(programs())
def test_without_replay_every_conflict_is_ordered(text: str) -> None:
    function = synchronized(text, replay_limit=0)
    assert Ordering(program_order(function)).races() == []


NEST = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%in: memref<128x4096xf32, #neuron.space<dram>>) {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    scf.for %i = %c0 to %c8 step %c1 {
      %x = nisa.alloc copies 2 : memref<128x512xf32, #neuron.space<sbuf>>
      nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 512] src %in[512*%i : 128 step 4096, 512] loc("conv1")
      nisa.activation on act dst %x[0:128][0 : 512] data %x[0:128][0 : 512] {func = exp} loc("relu1")
    }
    func.return
  }
}
"""


def allocated(text: str) -> FuncOp:
    module = parse(text)
    NisaAllocatePass().apply(Context(), module)
    function = module.body.block.first_op
    assert isinstance(function, FuncOp)
    return function


def limited(**figures: int) -> Target:
    target = load_target("trn1")
    changed = {name: Figure(value, "assumed") for name, value in figures.items()}
    return dataclasses.replace(target, figures={**target.figures, **changed})


# Two streams wait for each other; a target with one semaphore cannot do that.
def test_too_few_semaphores() -> None:
    with pytest.raises(NeuronError, match="2 streams are waited for, target trn1 has 1 semaphores") as error:
        synchronize_function(allocated(NEST), limited(semaphores=1))
    assert error.value.code == "NX-SEM-001"


# Eight loads, semaphores that count to seven.
def test_counters_must_not_overflow() -> None:
    with pytest.raises(NeuronError, match="completes 8 instructions, a semaphore of target trn1 counts to 7"):
        synchronize_function(allocated(NEST), limited(semaphore_max=7))


# A ring that two engines trigger has no order of its own.
def test_a_ring_has_one_trigger_engine() -> None:
    text = NEST.replace(
        "nisa.activation on act dst %x[0:128][0 : 512] data %x[0:128][0 : 512] {func = exp}",
        "nisa.dma_copy on act ring load0 dst %in[512*%i : 128 step 4096, 512] src %x[0:128][0 : 512]",
    )
    with pytest.raises(NeuronError, match="DMA ring load0 is triggered by sp and by act"):
        synchronize_function(allocated(text), load_target("trn1"))


# Sixteen instructions, a limit of fifteen: the function says that redundant waits may be left.
def test_a_long_program_is_not_replayed() -> None:
    assert synchronize_function(allocated(NEST), load_target("trn1"), replay_limit=16) == []
    (remark,) = synchronize_function(allocated(NEST), load_target("trn1"), replay_limit=15)
    assert "16 instructions exceed 15" in remark


# Synchronising again gives the same: what was there is replaced.
def test_synchronising_twice() -> None:
    function = allocated(NEST)
    synchronize_function(function, load_target("trn1"))
    once = str(function)
    synchronize_function(function, load_target("trn1"))
    assert str(function) == once


# On-chip buffers without addresses: which accesses overlap is not known yet.
def test_addresses_are_required() -> None:
    function = parse(NEST).body.block.first_op
    assert isinstance(function, FuncOp)
    with pytest.raises(NeuronError, match="has no address"):
        synchronize_function(function, load_target("trn1"))


# Every instruction keeps its node through all passes, and so do the transfers and controls that are made for it.
def test_locations_are_kept() -> None:
    function = allocated(NEST)
    synchronize_function(function, load_target("trn1"))
    split_function(function, load_target("trn1"))
    allocate_registers(function, load_target("trn1"))
    names = {op.name: location_name(op.location) for op in function.walk() if isinstance(op, NisaOp)}
    assert names == {"nisa.dma_copy": "conv1", "nisa.activation": "relu1"}
