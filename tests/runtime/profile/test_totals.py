"""What is added up over the events agrees with what the machine counted, and shares add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest

from neuron_dialects.access import Affine
from neuron_dialects.target import load_target
from runtime.machine import Machine
from runtime.profile.analysis import Analysis, union_ns
from runtime.profile.memory import CELL_BYTES
from runtime.profile.model import ENGINES
from runtime.profile.operators import layer_of, layers_of, operators_of
from runtime.profile.record import record_programs
from runtime.profile.series import dram_rates, pending_transfers, window_sums
from runtime.profile.summary import summary_of
from runtime.session import Session
from tests.runtime.core_programs import ProgramBuilder, dram, matmul_relu, psum, sbuf
from tests.runtime.profile.profiles import LAYERS, ROWS, analysis_of, small_analysis, small_neff


# The figures of an ordinary run are in the summary unchanged; those of the columns are the same.
def test_summary_agrees_with_the_machine():
    neff, profile = small_neff(), small_analysis().profile
    session = Session(neff)
    inputs = {spec.name: np.zeros(spec.shape, np.float32) for spec in neff.inputs}
    counted = session.summary(session.run(inputs, "timing"))
    summary = summary_of(profile)
    assert {name: summary[name] for name in counted} == counted
    (program,) = profile.programs
    own = [program.stream == number for number in range(len(ENGINES))]
    for number, name in ((0, "tensor"), (1, "vector"), (2, "scalar")):
        assert int(own[number].sum()) == counted[f"{name}_engine_instruction_count"]
        assert float(program.duration[own[number]].sum()) * 1e-9 == pytest.approx(counted[f"{name}_engine_active_time"])
        assert summary[f"{name}_engine_instruction_time"] == pytest.approx(counted[f"{name}_engine_active_time"])
    assert int(program.is_transfer().sum()) == counted["dma_transfer_count"]
    for column, name in (("bytes", "dma_transfer_total_bytes"), ("hbm_read_bytes",) * 2, ("hbm_write_bytes",) * 2):
        assert program.total(column) == counted[name]
    assert 2 * program.total("macs") == counted["hardware_flops"]
    assert float(program.events.done.max()) * 1e-9 == pytest.approx(counted["total_time"])


# x and w are loaded (256 and 64 KiB), y stored: what touches which kind of variable is told apart.
def test_traffic_by_hand():
    summary = summary_of(record_programs("test", [("sg00", matmul_relu())], load_target("trn1")))
    assert (summary["input_queue_bytes"], summary["weight_queue_bytes"], summary["output_queue_bytes"]) == (
        128 * 512 * 4, 128 * 128 * 4, 128 * 512 * 4,
    )  # fmt: skip
    assert (summary["weight_size_bytes"], summary["inputs_and_weights_size_bytes"]) == (128 * 128 * 4, 128 * 640 * 4)
    # Loads write SBUF, the matmul reads both, the activation writes, the store reads.
    assert summary["sbuf_write_bytes"] == 4 * 128 * (512 + 128 + 512)
    assert summary["sbuf_read_bytes"] == 4 * 128 * (512 + 128 + 512)
    assert (summary["psum_read_sbuf_write_count"], summary["psum_read_sbuf_write_bytes"]) == (1, 128 * 512 * 4)
    assert summary["adjusted_hardware_flops"] == 4 * summary["hardware_flops"] == 4 * 2 * 128 * 128 * 512
    assert (summary["spill_save_bytes"], summary["spill_reload_bytes"], summary["is_simulation"]) == (0, 0, True)


# Transfers on the rings that the allocator spills to count as such, whatever number the ring has.
def test_spills_are_counted():
    b = ProgramBuilder()
    scratch = b.variable("scratch", "tmp", (128, 512))
    b.add("dve", "memset", signal="dve", dst=sbuf(ROWS, 0, 512))
    in_dram, first, second = dram(scratch, 0, (512, 128), 512), sbuf(ROWS, 0, 512), sbuf(ROWS, 512, 512)
    b.add("pool", "dma_copy", {"dve": 1}, "s", ring="spill", src=first, dst=in_dram)
    for _ in range(2):
        b.add("sp", "dma_copy", {"s": 1}, ring="reload0", dst=second, src=in_dram)
    summary = summary_of(record_programs("test", [("sg00", b.program())], load_target("trn1")))
    assert (summary["spill_save_bytes"], summary["spill_reload_bytes"]) == (262144, 524288)


# A transpose on the tensor engine is the product with an identity: 2 * P * F * P operations.
def test_transposes_are_counted():
    b = ProgramBuilder()
    b.add("pe", "nc_transpose", dst=psum((0, 64), 0, 128), data=sbuf(ROWS, 0, 64))
    summary = summary_of(record_programs("test", [("sg00", b.program())], load_target("trn1")))
    assert (summary["transpose_flops"], summary["hardware_flops"]) == (2 * 128 * 64 * 128, 0)


# A program that is launched twice takes twice the time, and operators have both.
def test_launches_add_up():
    once = record_programs("test", [("sg00", matmul_relu())], load_target("trn1"))
    twice = record_programs("test", [("sg00", matmul_relu())], load_target("trn1"), [0, 0])
    for name in ("total_time", "dma_transfer_count", "sbuf_read_bytes", "total_active_time"):
        assert summary_of(twice)[name] == pytest.approx(2 * summary_of(once)[name])
    rows = operators_of(Analysis(twice))
    assert sum(row.critical_ns for row in rows) == pytest.approx(Analysis(twice).total_ns)
    assert sum(row.macs for row in rows) == 2 * 128 * 128 * 512
    assert Analysis(twice).programs[0].starts_ns == (0.0, pytest.approx(once.programs[0].total_ns))


# Shares of the critical path add up to the run, by node and by layer; work adds up to the totals.
def test_operators_add_up():
    analysis = small_analysis()
    summary = summary_of(analysis.profile)
    for rows in (operators_of(analysis), layers_of(analysis)):
        assert sum(row.critical_ns for row in rows) == pytest.approx(analysis.total_ns)
        assert sum(row.macs for row in rows) * 2 == summary["hardware_flops"]
        assert sum(row.hbm_bytes for row in rows) == summary["hbm_read_bytes"] + summary["hbm_write_bytes"]
        assert sum(row.transfers for row in rows) == summary["dma_transfer_count"]
        assert sum(row.busy_ns[0] for row in rows) == pytest.approx(summary["tensor_engine_active_time"] * 1e9)
        assert sum(row.busy_ns[5] for row in rows) == pytest.approx(summary["dma_active_time"] * 1e9)
        assert all(row.active_ns <= analysis.total_ns for row in rows)
    names = [row.name for row in operators_of(analysis)]
    assert {"/net/layer.0/proj/MatMul", "/net/layer.1/proj/MatMul"} <= set(names)
    layers = [row.name for row in layers_of(analysis) if row.macs]
    assert layers == [f"/net/layer.{number}" for number in range(LAYERS)]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("/m/encoder/layer.0/attention/self/query/MatMul", "/m/encoder/layer.0"),
        ("/m/embeddings/LayerNorm/Add_1", "/m/embeddings"),
        ("/layer1/layer1.0/conv1/Conv", "/layer1/layer1.0"),
        ("/h.11/mlp/Gelu", "/h.11"),
        ("/conv1/Conv", "/conv1"),
        ("Conv_12", "Conv_12"),
        ("", ""),
        ("a/b", "a"),
    ],
)
def test_layer_of(name: str, layer: str):
    assert layer_of(name) == layer


# Two values one after the other at one address, an accumulation, and a value that a later one covers half.
def test_memory_by_hand():
    b = ProgramBuilder()
    b.add("dve", "memset", signal="dve", dst=sbuf(ROWS, 0, 64))
    b.add("act", "activation", {"dve": 1}, "act", dst=sbuf(ROWS, 128, 64), data=sbuf(ROWS, 0, 64))
    b.add("dve", "memset", {"act": 1}, "dve", dst=sbuf(ROWS, 0, 32))
    b.add("act", "activation", {"dve": 2}, "act", dst=sbuf(ROWS, 128, 64), data=sbuf(ROWS, 0, 64))
    for accumulate in (0, 1):
        b.add(
            "pe", "nc_matmul", {"act": 2}, fields={"accumulate": Affine(accumulate)}, dst=psum(ROWS, 0, 64),
            stationary=sbuf(ROWS, 1024, 128), moving=sbuf(ROWS, 2048, 64),
        )  # fmt: skip
    analysis = analysis_of(b)
    values, events = analysis.memory.sbuf, analysis.profile.events
    assert list(zip(values.low.tolist(), values.high.tolist(), strict=True)) == [
        (0, 256), (512, 768), (0, 128), (512, 768),
    ]  # fmt: skip
    assert values.reads.tolist() == [2, 0, 1, 0]
    # The first memset's second half is still read by the second activation; its first half was written anew.
    assert values.since.tolist() == events.start[values.event].tolist()
    assert values.until.tolist() == [events.end[3], events.end[1], events.end[3], events.end[3]]
    bank = analysis.memory.psum
    assert (bank.low.tolist(), bank.high.tolist()) == ([0], [256])
    assert (bank.since.tolist(), bank.until.tolist()) == ([events.start[4]], [events.end[5]])
    usage = analysis.memory.sbuf_usage
    assert usage.bytes.max() == 128 * 512
    assert usage.bytes[-1] == 0 and usage.bytes.min() == 0


# What lives at once never exceeds what the allocator planned for, and every address lies inside the memory.
def test_memory_of_a_compiled_model():
    neff, memory = small_neff(), small_analysis().programs[0].memory
    assert 0 < memory.sbuf_usage.bytes.max() <= 128 * (neff.report["peak_sbuf_bytes"] + CELL_BYTES)
    assert 0 < memory.psum_usage.bytes.max() <= 128 * memory.psum_bytes
    assert memory.sbuf.high.max() <= memory.sbuf_bytes and memory.psum.high.max() <= memory.psum_bytes
    assert np.all(memory.sbuf.until >= memory.sbuf.since)


def test_series():
    (program,) = small_analysis().programs
    profile = program.profile
    edges, read, written = dram_rates(profile, 50)
    width = edges[1] - edges[0]
    assert read.sum() * width == pytest.approx(profile.total("hbm_read_bytes"))
    assert written.sum() * width == pytest.approx(profile.total("hbm_write_bytes"))
    times, counts = pending_transfers(profile)
    assert counts.min() == 0 == counts[-1] and counts.max() >= 2
    assert np.all(np.diff(times) > 0)
    start, end = np.array([0.0, 10.0]), np.array([20.0, 10.0])
    sums = window_sums(start, end, np.array([40.0, 5.0]), np.array([0.0, 5.0, 20.0, 30.0]))
    assert sums.tolist() == pytest.approx([10.0, 35.0, 0.0])


def test_union():
    assert union_ns(np.array([5.0, 0.0, 1.0]), np.array([6.0, 2.0, 3.0])) == 4.0
    assert union_ns(np.array([]), np.array([])) == 0.0


# A trace of the machine in full agreement with a run that computes data too.
def test_trace_does_not_depend_on_data():
    values = {"x": np.zeros((128, 512), np.float32)}, {"w": np.zeros((128, 128), np.float32)}
    machine = Machine(matmul_relu(), load_target("trn1"))
    both, timing = (machine.run(*values, mode, trace=True).trace for mode in ("both", "timing"))
    assert both == timing
