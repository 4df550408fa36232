"""Linked parts: every conflict between parts and iterations is ordered, queues execute what program order says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp

from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import PART_ATTRIBUTE, LaunchOp
from neuron_dialects.target import load_target
from passes.nisa.allocate import NisaAllocatePass
from passes.nisa.allocate_registers import allocate_registers
from passes.nisa.link_parts import NisaLinkPartsPass
from passes.nisa.split_queues import split_function
from passes.nisa.synchronize import NisaSynchronizePass
from tests.passes.nisa.abstract_machine import Ordering, program_order, queue_traces, run_to_the_end
from tests.passes.nisa.random_programs import programs
from tests.passes.nisa.test_allocate_registers import contents, target_with
from tests.program_texts import parse

TENSOR = "tensor<128x24xf32>"
MEMREF = "memref<128x24xf32, #neuron.space<dram>>"


def module_of(parts: list[str], times: int) -> ModuleOp:
    """A module of three parts, programs of an input and an output each, of which the second one is repeated."""
    module = parse(f"""builtin.module attributes {{neuron.target = #neuron.target<"trn1">}} {{
      func.func @main(%x: {TENSOR}) -> {TENSOR} {{
        %0 = neuron.launch @part_0(%x) on core : ({TENSOR}) -> {TENSOR}
        %1 = neuron.launch @part_1(%0) on core times {times} : ({TENSOR}) -> {TENSOR}
        %2 = neuron.launch @part_2(%1) on core : ({TENSOR}) -> {TENSOR}
        func.return %2 : {TENSOR}
      }}
    }}""")
    for number, text in enumerate(parts):
        function = parse(text).body.block.first_op
        assert isinstance(function, FuncOp)
        function.detach()
        function.properties["sym_name"] = StringAttr(f"part_{number}")
        function.attributes[PART_ATTRIBUTE] = StringAttr("neuron_0")
        module.body.block.add_op(function)
    return module


def linked(parts: list[str], times: int) -> FuncOp:
    module = module_of(parts, times)
    for step in (NisaAllocatePass(), NisaSynchronizePass(), NisaLinkPartsPass()):
        step.apply(Context(), module)
    module.verify()
    (launch,) = [op for op in module.walk() if isinstance(op, LaunchOp)]
    assert launch.repetitions is None
    functions = [op for op in module.ops if isinstance(op, FuncOp)]
    assert [function.sym_name.data for function in functions] == ["main", "neuron_0"]
    return functions[1]


three = st.lists(programs(instructions=4, depth=2), min_size=3, max_size=3)


# Any three programs, the second one up to three times. Each iteration executes what the part alone executes, at
# addresses of its own in DRAM; the slots of rotating buffers begin anew. Conflicts between any two instructions are
# ordered. Split into queues, and with few or many registers, the same is executed, and nothing blocks.
@settings(max_examples=10)
@given(three, st.integers(1, 3), st.sampled_from([12, 16, 64]))
def test_linked_programs(parts: list[str], times: int, registers: int) -> None:
    module = module_of(parts, times)
    NisaAllocatePass().apply(Context(), module)
    first, body, last = (shapes(op) for op in list(module.ops)[1:] if isinstance(op, FuncOp))
    function = linked(parts, times)
    assert shapes(function) == [*first, *body * times, *last]
    assert Ordering(program_order(function)).races() == []
    split_function(function, load_target("trn1"))
    expected = contents(function)
    assert run_to_the_end(queue_traces(function)) == 0
    try:
        allocate_registers(function, target_with(registers))
    except NeuronError as error:
        if error.code != "NX-REG-001" or registers == 64:
            raise
        return
    function.verify()
    assert contents(function) == expected


def shapes(function: FuncOp) -> list[tuple[object, ...]]:
    """What a program does, whatever it is called in DRAM and wherever it lies there."""
    return [
        (step.name, step.stream, step.patterns, [t for t in step.touches if isinstance(t.memory, str)])
        for step in program_order(function)
    ]


COPY = f"""builtin.module {{
  func.func @neuron_0(%x: {MEMREF}, %y: {MEMREF}) {{
    nisa.dma_copy on sp ring load0 dst %y[0 : 128 step 24, 24] src %x[0 : 128 step 24, 24]
    func.return
  }}
}}
"""


# What a loop is given and gives lies in four copies, one for each state between three iterations.
def test_iterations_write_copies_of_their_own() -> None:
    steps = program_order(linked([COPY] * 3, 3))
    size = 128 * 24 * 4
    touched = [[(touch.memory[0], touch.bytes[0] // size) for touch in step.touches] for step in steps]
    carried = [("scratch", n) for n in range(4)]
    assert touched == [
        [carried[0], ("argument", 0)],
        [carried[1], carried[0]],
        [carried[2], carried[1]],
        [carried[3], carried[2]],
        [("argument", 0), carried[3]],
    ]


# Programs that are not in program order any more, or not yet made of instructions, cannot be linked.
def test_parts_in_another_form() -> None:
    module = module_of([COPY] * 3, 2)
    NisaSynchronizePass().apply(Context(), module)
    for function in list(module.ops)[1:]:
        assert isinstance(function, FuncOp)
        split_function(function, load_target("trn1"))
    with pytest.raises(NeuronError, match="part @part_0 is split into queues already") as error:
        NisaLinkPartsPass().apply(Context(), module)
    assert error.value.code == "NX-PASS-002"


# A loop starts from copies that the part in front of it makes: an input of the program cannot hold them.
def test_a_loop_that_starts_from_an_input() -> None:
    module = module_of([COPY] * 3, 2)
    launches = [op for op in module.walk() if isinstance(op, LaunchOp)]
    launches[1].operands[0] = launches[0].arguments[0]
    NisaSynchronizePass().apply(Context(), module)
    with pytest.raises(NeuronError, match="repeated part @part_1 starts from or gives a value") as error:
        NisaLinkPartsPass().apply(Context(), module)
    assert error.value.code == "NX-PASS-002"


# Once linked, a program is not synchronised again: its slots begin anew in each iteration.
def test_linked_parts_are_not_synchronised() -> None:
    nest = COPY.replace(
        "    nisa.dma_copy",
        """    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    scf.for %i = %c0 to %c4 step %c1 {
      %b = nisa.alloc copies 2 : memref<128x24xf32, #neuron.space<sbuf>>
      nisa.dma_copy on sp ring load1 dst %b[0:128][0 : 24] src %x[0 : 128 step 24, 24]
    }
    nisa.dma_copy""",
    )
    function = linked([COPY, nest, COPY], 2)
    module = function.get_toplevel_object()
    assert isinstance(module, ModuleOp)
    with pytest.raises(NeuronError, match="the parts of @neuron_0 are linked already"):
        NisaSynchronizePass().apply(Context(), module)
