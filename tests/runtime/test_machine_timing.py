import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from neuron_dialects.isa import Operand
from neuron_dialects.target import Figure, Target, load_target
from runtime.machine import Machine, Timing, Trace
from tests.runtime.core_programs import ProgramBuilder, dram, matmul_relu, psum, reg, sbuf

TRN1 = load_target("trn1")
ROWS = (0, 128)
ACT, DVE, PE = 1.4, 1.12, 2.8
"""Clocks of trn1 in GHz."""
STAGGER = 15 * 24.7
"""From the start of the first DMA engine of a transfer to that of the last, in ns."""
LOAD = 67 + 32 / PE
"""Load of 128 weight columns in ns."""


def with_figures(**values: float | bool) -> Target:
    """trn1 with other figures."""
    return dataclasses.replace(TRN1, figures={**TRN1.figures, **{k: Figure(v, "assumed") for k, v in values.items()}})


def run(builder: ProgramBuilder, target: Target = TRN1) -> tuple[Timing, Trace]:
    """Timing and trace of a program."""
    result = Machine(builder.program(), target).run({}, {}, "timing", trace=True)
    assert result.timing is not None
    assert result.trace is not None
    return result.timing, result.trace


def starts(trace: Trace) -> list[float]:
    """Start of every event in ns, rounded."""
    return [round(start, 3) for start in trace.start]


# A transfer: trigger 5 ns, 740 ns until it starts, 256 KiB at 17 B/ns on 16 engines that start 24.7 ns apart, 300 ns
# until its semaphore.
def test_one_transfer():
    b = ProgramBuilder()
    x = b.variable("x", "input", (128, 512))
    b.add("sp", "dma_copy", ring="q0", signal="q0", dst=sbuf(ROWS, 0, 512), src=dram(x, 0, (512, 128), 512))
    timing, trace = run(b)
    busy = 262144 / (16 * 17)
    assert starts(trace) == [745]
    assert trace.end == [pytest.approx(745 + STAGGER + busy)]
    assert timing.total_time == pytest.approx((745 + STAGGER + busy + 300) * 1e-9)
    summary = timing.summary()
    assert summary["dma_active_time"] == pytest.approx(busy * 1e-9)
    assert (summary["dma_transfer_total_bytes"], summary["hbm_read_bytes"], summary["hbm_write_bytes"]) == (
        262144,
        262144,
        0,
    )
    # sync has no datapath: it is active while it triggers.
    assert summary["sync_engine_active_time"] == pytest.approx(5e-9)
    assert summary["sync_engine_instruction_count"] == 1


# Two transfers of one ring: their start latencies overlap, the DMA engines serve one after the other.
def test_transfers_are_pipelined():
    b = ProgramBuilder()
    x = b.variable("x", "input", (2, 128, 512))
    for i in range(2):
        source = dram(x, 65536 * i, (512, 128), 512)
        b.add("sp", "dma_copy", ring="q0", signal="q0", dst=sbuf(ROWS, 512 * i, 512), src=source)
    timing, trace = run(b)
    busy = 262144 / (16 * 17)
    assert starts(trace) == [745, round(745 + busy, 3)]
    assert timing.total_time == pytest.approx((745 + STAGGER + 2 * busy + 300) * 1e-9)


# The transfers of a ring complete in their order, though a small one behind a large one has moved its bytes first.
def test_a_ring_completes_in_order():
    b = ProgramBuilder()
    x = b.variable("x", "input", (128, 16))
    b.add("sp", "dma_copy", ring="q0", signal="q0", dst=sbuf(ROWS, 0, 16), src=dram(x, 0, (16, 128), 16))
    b.add("sp", "dma_copy", ring="q0", signal="q0", dst=sbuf((0, 1), 64, 16), src=dram(x, 0, (0, 1), 16))
    b.add("dve", "tensor_copy", {"q0": 1}, dst=sbuf(ROWS, 128, 8), data=sbuf(ROWS, 0, 8))
    b.add("act", "activation", {"q0": 2}, dst=sbuf((0, 1), 192, 8), data=sbuf((0, 1), 64, 8))
    _, trace = run(b)
    first = 745 + STAGGER + 8 * 7 + 300 + 9
    assert starts(trace)[1] == round(745 + 16 * 24.7, 3)
    assert starts(trace)[2:] == [round(first, 3)] * 2
    assert trace.end[1] < trace.end[0]


# The second transfer of a ring reads what the first writes: it begins when the first has written. On two rings nothing
# orders them, and without an overlap nothing has to wait.
@pytest.mark.parametrize(
    ("ring", "offset", "begin"), [("q0", 0, STAGGER + 8192 / (16 * 17)), ("q0", 2048, 16 * 24.7), ("q1", 0, 16 * 24.7)]
)
def test_a_transfer_that_reads_what_its_ring_writes(ring: str, offset: int, begin: float):
    b = ProgramBuilder()
    x, scratch = b.variable("x", "input", (128, 16)), b.variable("scratch", "scratch", (2, 128, 16))
    y = b.variable("y", "output", (128, 16))
    b.add("sp", "dma_copy", ring="q0", dst=dram(scratch, 0, (16, 128), 16), src=dram(x, 0, (16, 128), 16))
    b.add("sp", "dma_copy", ring=ring, dst=dram(y, 0, (16, 128), 16), src=dram(scratch, offset, (16, 128), 16))
    data = np.arange(2048, dtype=np.float32).reshape(128, 16)
    result = Machine(b.program(), TRN1).run({"x": data}, {}, "both", trace=True)
    assert result.trace is not None
    assert starts(result.trace) == [745, round(745 + begin, 3)]
    assert np.array_equal(result.outputs["y"], data) == (ring == "q0" and offset == 0)


# Transfers of all rings are served in the order in which they arrive.
def test_rings_share_the_dma_engines():
    b = ProgramBuilder()
    x = b.variable("x", "input", (128, 512))
    b.control("pool", "wait")
    for engine, ring, column in (("sp", "q0", 0), ("pool", "q1", 512)):
        b.add(engine, "dma_copy", ring=ring, dst=sbuf(ROWS, column, 512), src=dram(x, 0, (512, 128), 512))
    _, trace = run(b)
    assert trace.engine == ["q0", "q1"]
    assert starts(trace) == [745, round(745 + 262144 / (16 * 17), 3)]


# Independent instructions follow each other at the issue interval; a dependent one waits for the latency as well.
@pytest.mark.parametrize(("dependent", "pitch"), [(False, 64 / DVE), (True, 64 / DVE + 89)])
def test_issue_and_latency(dependent: bool, pitch: float):
    b = ProgramBuilder()
    for i in range(3):
        b.add("dve", "tensor_copy", dst=sbuf(ROWS, 8 * i + 8, 8), data=sbuf(ROWS, 8 * i if dependent else 1024, 8))
    timing, trace = run(b)
    assert starts(trace) == [round(pitch * i, 3) for i in range(3)]
    assert timing.total_time == pytest.approx((2 * pitch + 64 / DVE + 89) * 1e-9)
    assert timing.summary()["vector_engine_active_time"] == pytest.approx(3 * 64 / DVE * 1e-9)


# A consumer on another engine starts a semaphore's latency after the producer's completion.
def test_semaphore_latency():
    b = ProgramBuilder()
    b.add("dve", "memset", signal="dve", dst=sbuf(ROWS, 0, 512))
    b.add("act", "activation", {"dve": 1}, dst=sbuf(ROWS, 512, 512), data=sbuf(ROWS, 0, 512))
    _, trace = run(b)
    assert starts(trace) == [0, round(512 / DVE + 89 + 9, 3)]


# Matmuls into one bank follow each other without waiting for their results: N / 2.8 GHz, four times that for fp32.
@pytest.mark.parametrize(("dtype", "passes"), [("bf16", 1), ("f32", 4)])
def test_matmul_stream(dtype: str, passes: int):
    b = ProgramBuilder()
    b.control("pe", "reg_move", 0, 0)
    body = b.add(
        "pe", "nc_matmul", fields={"accumulate": reg(0)}, dst=psum(ROWS, 0, 512),
        stationary=sbuf(ROWS, 0, 128, dtype=dtype), moving=sbuf(ROWS, 1024, 512, dtype=dtype),
    )  # fmt: skip
    b.control("pe", "reg_add", 0, 0, 1)
    b.control("pe", "branch_less", 0, 100, body)
    timing, _ = run(b)
    busy = 100 * passes * 512 / PE
    # 5 ns of set-up and the first weights; then the loop's own instructions and the weight loads hide behind the
    # matmuls, for the sequencer runs ahead.
    assert timing.total_time == pytest.approx((5 + LOAD + busy + 142) * 1e-9)
    assert timing.macs == 100 * 128 * 128 * 512
    assert timing.matmul_passes == passes
    summary = timing.summary()
    assert summary["tensor_engine_active_time_percent"] == pytest.approx(busy / (busy + LOAD + 147))
    assert summary["hfu_estimated_percent"] == pytest.approx(busy / passes / (busy + LOAD + 147), rel=1e-3)
    assert timing.engines["pe"].control_count == 201


# Loading another function table takes time; functions of one set share it, copies and relu need none.
def test_function_tables():
    b = ProgramBuilder()
    for i, function in enumerate(("relu", "exp", "log", "copy", "exp", "gelu", "square", "exp")):
        data = sbuf(ROWS, 4096, 512)
        b.add("act", "activation", fields={"func": function}, dst=sbuf(ROWS, 512 * i, 512), data=data)
    timing, _ = run(b)
    assert timing.summary()["scalar_engine_active_time"] == pytest.approx((8 * 512 / ACT + 3 * 368) * 1e-9)


# act and dve take turns at PSUM where they share its port; not in SBUF, and not on a target without shared ports.
@pytest.mark.parametrize(("space", "shared", "second"), [(psum, True, 512 / ACT), (psum, False, 0), (sbuf, True, 0)])
def test_psum_port(space: Callable[..., Operand], shared: bool, second: float):
    b = ProgramBuilder()
    b.add("act", "activation", dst=sbuf(ROWS, 0, 512), data=space(ROWS, 1024, 512))
    b.add("dve", "tensor_copy", dst=sbuf(ROWS, 512, 512), data=space(ROWS, 2048, 512))
    _, trace = run(b, with_figures(shared_psum_port=shared))
    assert starts(trace) == [0, round(second, 3)]


# dve and pool take turns at SBUF.
@pytest.mark.parametrize("shared", [True, False])
def test_sbuf_port(shared: bool):
    b = ProgramBuilder()
    b.add("dve", "memset", dst=sbuf(ROWS, 0, 1024), fields={"value": 1.0})
    b.add("pool", "memset", dst=sbuf(ROWS, 1024, 1024), fields={"value": 1.0})
    _, trace = run(b, with_figures(shared_sbuf_port=shared))
    assert starts(trace) == [0, round(1024 / DVE, 3) if shared else 0]


# A sequencer is only a few instructions ahead: control instructions behind more than that are not hidden.
def test_sequencer_depth():
    b = ProgramBuilder()
    y = b.variable("y", "output", (1, 1))
    for i in range(8):
        b.add("act", "activation", dst=sbuf(ROWS, 512 * i, 512), data=sbuf(ROWS, 8192, 512))
    b.add("act", "dma_copy", ring="q0", src=sbuf((0, 1), 0, 1), dst=dram(y, 0, 1))
    _, trace = run(b)
    # The trigger comes when the fourth instruction has started and four more wait.
    assert trace.start[trace.engine.index("q0")] == pytest.approx(3 * 512 / ACT + 5 + 740)


# Timing does not depend on whether data is computed, and names and origins are in the trace.
def test_modes_agree():
    import numpy as np

    values = {"x": np.zeros((128, 512), np.float32)}, {"w": np.zeros((128, 128), np.float32)}
    machine = Machine(matmul_relu(), TRN1)
    both, timing = machine.run(*values, "both", trace=True), machine.run({}, {}, "timing", trace=True)
    assert both.timing == timing.timing
    assert both.trace == timing.trace
    assert timing.outputs == {}
    assert both.trace is not None
    assert both.trace.name == ["dma_copy", "dma_copy", "nc_matmul", "activation", "dma_copy"]
    assert both.trace.engine == ["q0", "q0", "pe", "act", "q1"]
    assert [matmul_relu().origins[i] for i in both.trace.origin] == ["", "", "MatMul_0", "Relu_1", "Relu_1"]


# The model's own figures give roofline and utilisation: 2 x 10^6 multiply-adds at 45.9 per ns, fp32 four passes.
def test_roofline():
    program = dataclasses.replace(matmul_relu(), macs=128 * 128 * 512, compulsory_bytes=589824)
    timing = Machine(program, TRN1).run({}, {}, "timing").timing
    assert timing is not None
    assert timing.roofline_time == pytest.approx(589824 / 410 * 1e-9)
    summary = timing.summary()
    peak = 2 * 128 * 128 * PE * 1e9
    assert summary["mfu_estimated_percent"] == pytest.approx(2 * program.macs / peak / timing.total_time)
    assert summary["mbu_estimated_percent"] == pytest.approx(589824 / 410e9 / timing.total_time)
    assert summary["mm_arithmetic_intensity"] == pytest.approx(2 * program.macs / 589824)
    assert summary["peak_flops_bandwidth_ratio"] == pytest.approx(223.78, abs=0.01)


def test_an_empty_program_takes_no_time():
    timing, _ = run(ProgramBuilder())
    assert timing.total_time == 0
    assert timing.summary()["tensor_engine_active_time_percent"] == 0
