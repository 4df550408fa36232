"""Why events started when they did: on programs built by hand, and that the answers always cover the whole run."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_dialects.isa.program import CoreProgram
from runtime.profile.analysis import ProgramAnalysis, union_ns
from runtime.profile.causes import Cause
from runtime.profile.idle import DMA, Reason, streams_of
from tests.runtime.core_programs import ProgramBuilder, dram, matmul_relu, psum, rotating_scale, sbuf
from tests.runtime.profile.profiles import ROWS, analysis_of, small_analysis
from tests.runtime.test_races_property import programs


def path_of(analysis: ProgramAnalysis) -> list[tuple[str, str]]:
    """Kind of each step of the critical path, with the instruction concerned."""
    profile = analysis.profile
    codes = profile.instructions.opcode[profile.events.instruction]
    return [(step.kind, profile.opcodes[codes[step.event]]) for step in analysis.path]


# y = relu(w^T x) waits from one step to the next, so that everything is on the path, first of all the two loads.
def test_path_of_a_chain():
    analysis = analysis_of(matmul_relu())
    assert path_of(analysis) == [
        ("control", "dma_copy"), ("trigger", "dma_copy"), ("execute", "dma_copy"), ("execute", "dma_copy"),
        ("latency", "dma_copy"), ("semaphore", "nc_matmul"), ("weights", "nc_matmul"), ("execute", "nc_matmul"),
        ("latency", "nc_matmul"), ("semaphore", "activation"), ("execute", "activation"), ("latency", "activation"),
        ("semaphore", "dma_copy"), ("control", "dma_copy"), ("trigger", "dma_copy"), ("execute", "dma_copy"),
        ("latency", "dma_copy"),
    ]  # fmt: skip


# dve waits for the pool's semaphore, then for its own result; act only for the sequencer's control instructions.
def test_causes_by_hand():
    b = ProgramBuilder()
    b.add("pool", "memset", signal="pool", dst=sbuf(ROWS, 0, 512))
    b.add("dve", "tensor_copy", {"pool": 1}, dst=sbuf(ROWS, 1024, 512), data=sbuf(ROWS, 0, 512))
    b.add("dve", "tensor_copy", dst=sbuf(ROWS, 2048, 512), data=sbuf(ROWS, 1024, 512))
    for _ in range(3):
        b.control("act", "reg_move", 0, 0)
    b.add("act", "activation", dst=sbuf(ROWS, 4096, 512), data=sbuf(ROWS, 8192, 512))
    analysis = analysis_of(b)
    profile, causes = analysis.profile, analysis.causes
    names = [profile.streams[stream] for stream in profile.stream]
    assert names == ["gpsimd", "scalar", "vector", "vector"]
    assert [Cause(cause).name for cause in causes.dispatch.tolist()] == ["CONTROL", "CONTROL", "SEMAPHORE", "CONTROL"]
    assert [Cause(cause).name for cause in causes.start.tolist()] == ["DISPATCH", "DISPATCH", "DISPATCH", "RESULT"]
    assert causes.dispatch_event.tolist() == [-1, -1, 0, 2]
    assert causes.start_event.tolist() == [-1, -1, -1, 2]
    reasons = {(int(s), Reason(r)) for s, r in zip(analysis.idle.stream, analysis.idle.reason, strict=True)}
    vector, scalar, gpsimd = 1, 2, 3
    assert reasons == {
        (vector, Reason.SEMAPHORE), (vector, Reason.RESULT), (vector, Reason.FINISHED), (scalar, Reason.CONTROL),
        (scalar, Reason.FINISHED), (gpsimd, Reason.FINISHED),
    }  # fmt: skip


# act and dve both read PSUM: they share its port on trn1, and one waits for the other.
def test_port_is_named():
    b = ProgramBuilder()
    b.add("dve", "tensor_copy", dst=sbuf(ROWS, 0, 512), data=psum(ROWS, 0, 512))
    b.add("act", "activation", dst=sbuf(ROWS, 512, 512), data=psum(ROWS, 512, 512))
    causes = analysis_of(b).causes
    assert [Cause(cause).name for cause in causes.start.tolist()] == ["DISPATCH", "PORT"]
    assert causes.start_event.tolist() == [-1, 0]


# The sequencer may be four instructions ahead: what comes behind them waits for room, until the first has started.
def test_queue_is_named():
    b = ProgramBuilder()
    y = b.variable("y", "output", (1, 1))
    for i in range(8):
        b.add("act", "activation", dst=sbuf(ROWS, 512 * i, 512), data=sbuf(ROWS, 8192, 512))
    b.add("act", "dma_copy", ring="q0", src=sbuf((0, 1), 0, 1), dst=dram(y, 0, 1))
    analysis = analysis_of(b)
    own = np.flatnonzero(~analysis.profile.is_transfer())
    assert analysis.causes.dispatch[own].tolist() == [Cause.CONTROL] * 5 + [Cause.QUEUE] * 3
    assert analysis.causes.dispatch_event[own[5:]].tolist() == own[1:4].tolist()


# Which event ended a wait: number `value` to complete among those that increment the semaphore.
def test_producers_are_found():
    analysis = analysis_of(rotating_scale(tiles=6, copies=2))
    profile, causes = analysis.profile, analysis.causes
    for row, producer in enumerate(causes.producers.tolist()):
        semaphore, value = int(profile.waits.semaphore[row]), int(profile.waits.value[row])
        signal = profile.instructions.signal[profile.events.instruction]
        done = np.sort(profile.events.done[signal == semaphore])
        assert signal[producer] == semaphore
        assert profile.events.done[producer] == done[value - 1]
        semaphore_ns = float(analysis.target.semaphore_ns)
        assert profile.waits.until[row] == pytest.approx(profile.events.done[producer] + semaphore_ns)


def check_cover(analysis: ProgramAnalysis) -> None:
    """The path covers the run without gaps; each stream's busy and idle time do too."""
    profile = analysis.profile
    assert (analysis.path[0].start, analysis.path[-1].end) == (0.0, pytest.approx(profile.total_ns))
    for before, after in pairwise(analysis.path):
        assert before.end == pytest.approx(after.start, abs=1e-3)
    streams, idle = streams_of(profile)[:-1], analysis.idle
    for stream in set(streams.tolist()):
        own, gaps = streams == stream, idle.stream == stream
        busy = union_ns(profile.events.start[own], profile.events.end[own])
        waiting = float((idle.until - idle.since)[gaps].sum())
        assert busy + waiting == pytest.approx(profile.total_ns, abs=0.1)


# Random programs, with semaphores that several streams increment, ports, and accesses that depend on each other.
@given(st.booleans().flatmap(lambda shared: programs(shared)))
@settings(max_examples=40, deadline=None)
def test_random_programs_are_covered(program: CoreProgram):
    check_cover(analysis_of(program))


@pytest.mark.parametrize("program", [matmul_relu(), rotating_scale(9, 2), rotating_scale(5, 1, 2048)], ids=str)
def test_programs_are_covered(program: CoreProgram):
    check_cover(analysis_of(program))


def test_a_compiled_model_is_covered():
    (program,) = small_analysis().programs
    check_cover(program)
    assert set(program.idle.stream.tolist()) >= {0, 1, 2, DMA}


def test_an_empty_program():
    analysis = analysis_of(ProgramBuilder())
    assert analysis.path == []
    assert len(analysis.idle) == 0
