"""What the machine works out early, or without copies, is what it works out in the order of time.

A run that computes data keeps every event in the order of time; a run for timing alone does not. Both must find the
same times, on random programs and on compiled ones.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import load_target
from runtime.machine import Machine, Mode, Timing
from runtime.semantics import SEMANTICS, Case
from tests.runtime.core_programs import ProgramBuilder, dram, matmul_relu, psum, reg, sbuf
from tests.runtime.test_races_property import programs

ROWS = (0, 128)


def outcome(program: CoreProgram, mode: Mode, *, trace: bool = False) -> Timing | str:
    """The timing of a run, or the message of what it was refused for."""
    values = {v.name: np.zeros(v.shape, np.float32) for v in program.variables}
    try:
        timing = Machine(program, load_target(program.target)).run(values, values, mode, trace=trace).timing
    except NeuronError as error:
        return error.message
    assert timing is not None
    return timing


# Random programs: semaphores of one stream and of several, waits that do and do not order what they should.
@given(st.booleans().flatmap(lambda shared: programs(shared)))
@settings(max_examples=150, deadline=None)
def test_random_programs_take_the_same_time(program: CoreProgram):
    slow = outcome(program, "both")
    assert outcome(program, "timing", trace=True) == slow
    assert outcome(program, "timing") == slow


def pipeline(target: str) -> CoreProgram:
    """Loads, matmuls into alternating banks, evictions on two engines, stores; everything waits for what it needs."""
    b = ProgramBuilder(target)
    x, y = b.variable("x", "input", (128, 512)), b.variable("y", "output", (128, 512))
    for queue in ("sp", "pe", "act", "pool"):
        b.control(queue, "reg_move", 0, 0)
        b.control(queue, "reg_move", 1, 1)
    bodies = {queue: b.here(queue) for queue in ("sp", "pe", "act", "pool")}
    b.add("sp", "dma_copy", {"act": reg(0)}, "q0", "q0", dst=sbuf(ROWS, 0, 512), src=dram(x, 0, (512, 128), 512))
    b.add("pe", "nc_matmul", {"q0": reg(1)}, "pe", dst=psum((0, 64), 0, 512), stationary=sbuf(ROWS, 0, 64),
          moving=sbuf(ROWS, 0, 512))  # fmt: skip
    b.add("act", "activation", {"pe": reg(1)}, "act", fields={"func": "exp"}, dst=sbuf((0, 64), 1024, 512),
          data=psum((0, 64), 0, 512))  # fmt: skip
    b.add("pool", "dma_copy", {"act": reg(1)}, "q1", "q1", dst=dram(y, 0, (512, 64), 512), src=sbuf((0, 64), 1024, 512))
    for queue, body in bodies.items():
        b.control(queue, "reg_add", 1, 1, 1)
        b.control(queue, "reg_add", 0, 0, 1)
        b.control(queue, "branch_less", 0, 20, body)
    return b.program()


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_a_pipeline_takes_the_same_time(target: str):
    for program in (pipeline(target), matmul_relu(target)):
        slow = outcome(program, "both")
        assert isinstance(slow, Timing)
        assert outcome(program, "timing") == slow
        assert outcome(program, "timing", trace=True) == slow


def chain(rings: tuple[str, str, str]) -> CoreProgram:
    """A loop of three transfers on two engines: into scratch, within it, out of it, at addresses that move.

    Nothing but the rings orders them: what reads on the ring that writes begins when that has written.
    """
    b = ProgramBuilder()
    x, y = b.variable("x", "input", (8, 2048)), b.variable("y", "output", (8, 2048))
    scratch = b.variable("scratch", "scratch", (2, 8, 2048))
    for queue in ("sp", "act"):
        b.control(queue, "reg_move", 0, 0)
    bodies = {queue: b.here(queue) for queue in ("sp", "act")}
    b.add("sp", "dma_copy", ring=rings[0], dst=dram(scratch, reg(0), 2048), src=dram(x, reg(0), 2048))
    b.add("act", "dma_copy", ring=rings[1], dst=dram(scratch, reg(0, 16384), 2048), src=dram(scratch, reg(0), 2048))
    b.add("sp", "dma_copy", ring=rings[2], dst=dram(y, reg(0), 2048), src=dram(scratch, reg(0, 16384), 2048))
    for queue, body in bodies.items():
        b.control(queue, "reg_add", 0, 0, 2048)
        b.control(queue, "branch_less", 0, 16384, body)
    return b.program()


# Transfers that read what their ring writes take longer than on rings of their own, as long in every mode.
def test_a_ring_that_reads_what_it_wrote_takes_the_same_time():
    ends: list[float] = []
    for rings in (("q0", "q0", "q0"), ("q0", "q0", "q1"), ("q0", "q1", "q2")):
        program = chain(rings)
        slow = outcome(program, "both")
        assert isinstance(slow, Timing)
        assert outcome(program, "timing") == slow
        assert outcome(program, "timing", trace=True) == slow
        ends.append(slow.total_time)
    assert ends[0] > ends[1] > ends[2]


# A stream that waits for ever is found in every mode, with the same words.
def test_a_deadlock_is_the_same():
    b = ProgramBuilder()
    b.add("pe", "nc_transpose", {"dve": 2}, "pe", dst=psum((0, 64), 0, 128), data=sbuf(ROWS, 0, 64))
    b.add("dve", "memset", {"pe": 1}, "dve", dst=sbuf(ROWS, 512, 8))
    slow = outcome(b.program(), "both")
    assert isinstance(slow, str)
    assert outcome(b.program(), "timing") == slow


# The fill of every element type is what the type rounds the value to.
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "tf32", "i32", "ui8"])
def test_memset(dtype: str):
    from neuron_dialects.dtypes import dtype_by_name

    memory = np.zeros((128, 8), dtype_by_name(dtype).numpy)
    SEMANTICS["memset"](Case("memset", "dve", {"dst": dtype}, {"dst": (128, 4)}, {"value": 2.5}))(
        {"dst": memory[:, ::2]}, {}
    )()
    assert (memory[:, ::2].astype(np.float32) == (2.0 if dtype in ("i32", "ui8") else 2.5)).all()
    assert (memory[:, 1::2].astype(np.float32) == 0).all()


# Short rows are reduced column by column: the same bits as numpy's reduction, NaN included.
@pytest.mark.parametrize("op", ["maximum", "minimum", "add"])
@pytest.mark.parametrize("elements", [1, 3, 9, 32, 33])
def test_reductions_of_short_rows(op: str, elements: int):
    rng = np.random.default_rng(elements)
    data = rng.standard_normal((128, 6, elements)).astype(np.float32)
    data[0, 0, 0], data[1, 1, -1] = np.nan, np.inf
    result = np.empty((128, 6), np.float32)
    case = Case("tensor_reduce", "dve", {"dst": "f32", "data": "f32"}, {"dst": (128, 6), "data": data.shape},
                {"op": op, "axes": 1})  # fmt: skip
    SEMANTICS["tensor_reduce"](case)({"dst": result, "data": data}, {})()
    expected = {"maximum": np.maximum, "minimum": np.minimum, "add": np.add}[op].reduce(data, axis=2)
    np.testing.assert_array_equal(result.view(np.uint32), expected.view(np.uint32))


# A source that nothing writes is copied once; one that an instruction overwrites meanwhile is read before.
def test_constant_sources():
    data, dst = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    shapes, dtypes = {"dst": (8,), "src": (8,)}, {"dst": "f32", "src": "f32"}
    for constant, expected in ((frozenset[str](), 0.0), (frozenset({"src"}), 5.0)):
        data[0] = 0.0
        effect = SEMANTICS["dma_copy"](Case("dma_copy", "dma", dtypes, shapes, {}, constant))(
            {"dst": dst, "src": data}, {}
        )
        data[0] = 5.0
        effect()
        assert dst[0] == expected


# A loop that jumps into the middle of a row of control instructions, over more of them than are executed as one: each
# takes its time and has its effect, once.
@pytest.mark.parametrize("length", [3, 40])
def test_control_instructions_in_a_row(length: int):
    target = load_target("trn1")
    b = ProgramBuilder("trn1")
    b.control("sp", "reg_move", 0, 0)
    b.control("sp", "reg_add", 0, 0, 100)
    middle = b.here("sp")
    for _ in range(length):
        b.control("sp", "reg_add", 0, 0, 1)
    b.control("sp", "branch_less", 0, 100 + 3 * length, middle)
    b.control("sp", "reg_add", 1, 0, 1)
    b.control("sp", "halt")
    timing = Machine(b.program(), target).run({}, {}, "timing").timing
    assert timing is not None
    assert timing.engines["sp"].control_count == 2 + 3 * (length + 1) + 1
    assert timing.total_time == pytest.approx(timing.engines["sp"].control_count * target.control_ns * 1e-9)
