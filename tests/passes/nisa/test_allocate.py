"""Allocation in the IR: programs move the same data at addresses as in buffers of their own, however little memory."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ArrayAttr, MemRefType
from xdsl.dialects.func import FuncOp

from neuron_dialects.access_ops import space_of
from neuron_dialects.errors import NeuronError
from neuron_dialects.nisa import AllocOp, NisaOp
from neuron_dialects.target import Figure, Target, load_target
from passes.nisa.allocate import allocate_function, report_attributes
from passes.nisa.synchronize import synchronize_function
from tests.passes.nisa.abstract_machine import Ordering, program_order
from tests.passes.nisa.random_programs import programs
from tests.passes.nisa.symbolic_memory import SymbolicRun
from tests.program_texts import parse


def small_target(sbuf_bytes: int, psum_banks: int = 8) -> Target:
    """trn1 with less memory."""
    target = load_target("trn1")
    figures = {
        **target.figures,
        "sbuf_bytes_per_partition": Figure(sbuf_bytes, "assumed"),
        "psum_banks": Figure(psum_banks, "assumed"),
    }
    return dataclasses.replace(target, figures=figures)


def function_of(text: str) -> FuncOp:
    function = parse(text).body.block.first_op
    assert isinstance(function, FuncOp)
    return function


def allocs(function: FuncOp) -> list[AllocOp]:
    return [op for op in function.walk() if isinstance(op, AllocOp) and space_of(op.buffer) != "dram"]


# Any program, memory from plenty to scarce: the results are the same, every address is inside of the memory, and the
# program can be synchronised; or the error says what is needed and what there is. The second kind of programs has
# hardly any loops and many buffers, so that some must be spilled.
@settings(max_examples=150)
@given(
    programs() | programs(instructions=12, buffers=5, depth=1),
    st.sampled_from([256, 256, 384, 512, 65536]),
    st.sampled_from([2, 8]),
)
def test_the_same_data_is_moved(text: str, sbuf_bytes: int, psum_banks: int) -> None:
    function = function_of(text)
    expected = SymbolicRun(function).results()
    target = small_target(sbuf_bytes, psum_banks)
    try:
        report = allocate_function(function, target)
    except NeuronError as error:
        if error.code != "NX-MEM-001" or "limit" not in error.message or error.help is None:
            raise
        return
    function.verify()
    for alloc in allocs(function):
        assert alloc.parent_op() is function
        assert alloc.address is not None
        copy_bytes = alloc.copy_bytes.value.data if alloc.copy_bytes is not None else 0
        size = (alloc.copies.value.data - 1) * copy_bytes + 96
        space = space_of(alloc.buffer)
        assert alloc.address.value.data % (64 if space == "sbuf" else 2048) == 0
        assert alloc.address.value.data + size <= (sbuf_bytes if space == "sbuf" else 2048 * psum_banks)
    assert report.live_bytes["sbuf"] <= report.peak_bytes["sbuf"] <= sbuf_bytes
    results = SymbolicRun(function).results()
    # What was never written may be anything.
    assert all(results[place] == symbol for place, symbol in expected.items() if symbol != "uninitialised")
    synchronize_function(function, target)
    assert Ordering(program_order(function)).races() == []


SPILLING = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%in: memref<128x24xf32, #neuron.space<dram>>, %out: memref<128x24xf32, #neuron.space<dram>>) {
    %x = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
    %y = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
    %z = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 8] src %in[0 : 128 step 24, 8]
    nisa.memset on dve dst %x[0:128][8 : 16] {value = 1.0}
    nisa.dma_copy on sp ring load0 dst %y[0:128][0 : 24] src %in[0 : 128 step 24, 24]
    nisa.tensor_copy on dve dst %z[0:128][0 : 24] data %y[0:128][0 : 24]
    nisa.dma_copy on pool ring store0 dst %out[0 : 128 step 24, 24] src %z[0:128][0 : 24]
    nisa.dma_copy on pool ring store0 dst %out[0 : 128 step 24, 24] src %x[0:128][0 : 24]
    func.return
  }
}
"""


# x is idle while y and z are used, and 256 bytes hold two buffers: what was written of x goes to DRAM and comes back.
def test_an_idle_buffer_is_spilled() -> None:
    function = function_of(SPILLING)
    expected = SymbolicRun(function).results()
    report = allocate_function(function, small_target(256))
    assert [(spill.bytes, spill.stores, spill.reloads) for spill in report.spills] == [(128 * 96, 1, 1)]
    attribute = report_attributes(report)["neuron.spills"]
    assert isinstance(attribute, ArrayAttr)
    assert len(attribute.data) == 1
    run = SymbolicRun(function)
    assert run.results() == expected
    assert run.uninitialised == 0
    rings = [op.ring.data for op in function.walk() if isinstance(op, NisaOp) and op.ring is not None]
    assert rings == ["load0", "spill", "load0", "store0", "reload", "store0"]


# The same program where spilling is forbidden: an error with need, limit, largest buffers, and what to do.
def test_spilling_can_be_forbidden() -> None:
    with pytest.raises(
        NeuronError, match="384 bytes of SBUF per partition are needed, limit 256; largest: 128 by %x"
    ) as error:
        allocate_function(function_of(SPILLING), small_target(256), spill=False)
    assert error.value.code == "NX-MEM-001"
    assert error.value.help is not None
    assert "spill=true" in error.value.help


# An allocated function is not allocated again.
def test_allocating_twice_is_refused() -> None:
    function = function_of(SPILLING)
    allocate_function(function, load_target("trn1"))
    with pytest.raises(NeuronError, match="allocated already"):
        allocate_function(function, load_target("trn1"))


# A DRAM scratch buffer of a loop: out of the loop, with one more dimension for its copies.
def test_dram_buffers_leave_loops() -> None:
    text = """
    func.func @neuron_0(%in: memref<128x24xf32, #neuron.space<dram>>) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c4 = arith.constant 4 : index
      %x = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
      nisa.memset on dve dst %x[0:128][0 : 24]
      scf.for %i = %c0 to %c4 step %c1 {
        %t = nisa.alloc copies 2 : memref<128x24xf32, #neuron.space<dram>>
        nisa.dma_copy on pool ring store0 dst %t[0 : 128 step 24, 24] src %x[0:128][0 : 24]
        nisa.dma_copy on pool ring store0 dst %in[0 : 128 step 24, 24] src %t[0 : 128 step 24, 24]
      }
      func.return
    }
    """
    function = function_of(text)
    expected = SymbolicRun(function).results()
    allocate_function(function, load_target("trn1"))
    scratch = [op for op in function.body.block.ops if isinstance(op, AllocOp) and space_of(op.buffer) == "dram"]
    assert len(scratch) == 1
    assert isinstance(scratch[0].buffer.type, MemRefType)
    assert scratch[0].buffer.type.get_shape() == (2, 128, 24)
    assert SymbolicRun(function).results() == expected
