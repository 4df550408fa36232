"""What-if, diff and advice: that each answers the question it is asked."""

from __future__ import annotations

import dataclasses

import pytest

from neuron_dialects.access import Affine
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import load_target
from runtime.profile.advice import RULES, Advice, advice_of, loads_of
from runtime.profile.analysis import Analysis
from runtime.profile.diff import broken_limits, figure_differences, operator_differences, parse_limit
from runtime.profile.operators import operators_of
from runtime.profile.record import record_programs
from runtime.profile.summary import summary_of
from runtime.profile.what_if import DEFAULT_QUESTIONS, KNOBS, changed, retimed
from tests.runtime.core_programs import ProgramBuilder, dram, matmul_relu, psum, rotating_scale, sbuf
from tests.runtime.profile.profiles import ROWS, small_analysis, small_neff

TRN1 = load_target("trn1")


def test_every_knob_turns_figures_that_exist():
    for knob in KNOBS.values():
        assert set(knob.rates) | set(knob.times) <= set(TRN1.figures)


def test_changed_targets():
    target = changed(TRN1, ["clock=2x", "dma_start_ns=100", "dma_rings=2x", "act_alu=true"])
    assert target.pe_clock_ghz == 2 * TRN1.pe_clock_ghz
    assert (target.dma_start_ns, target.dma_rings, target.act_alu) == (100.0, 2 * TRN1.dma_rings, True)
    assert "act_clock_ghz" in target.assumptions
    assert changed(TRN1, ()).figures == TRN1.figures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("clock", "not FIGURE=VALUE"),
        ("speed=2x", "no figure 'speed'"),
        ("clock=3", "takes a factor"),
        ("clock=0x", "takes a factor"),
        ("clock=nanx", "takes a factor"),
        ("dma_start_ns=soon", "give a number"),
        ("dma_start_ns=-1", "give a number"),
        ("act_alu=2", "give a number"),
        ("engine_list=2x", "give a number"),
    ],
)
def test_changes_that_mean_nothing(change: str, message: str):
    with pytest.raises(NeuronError, match="NX-PROF-002") as raised:
        changed(TRN1, [change])
    assert message in raised.value.message


# Without the time of transfers, what remains is that of the other steps of the critical path: a chain has no other.
def test_infinite_dma():
    before = record_programs("test", [("sg00", matmul_relu())], TRN1)
    after = retimed(before, [matmul_relu()], ["dma=inf"])
    assert after.changes == ("dma=inf",)
    path = Analysis(before).programs[0].path
    transfers = before.programs[0].is_transfer()
    left = sum(s.end - s.start for s in path if s.kind in ("semaphore", "control") or not transfers[s.event])
    # The trigger of the second load was hidden behind the first load.
    assert summary_of(after)["total_time"] == pytest.approx((left + float(TRN1.control_ns)) * 1e-9)
    assert summary_of(after)["dma_active_time"] == pytest.approx(0, abs=1e-15)


# Every default question makes the machine faster, none changes what is computed.
@pytest.mark.parametrize("question", DEFAULT_QUESTIONS)
def test_better_machines_are_not_slower(question: str):
    before = small_analysis().profile
    after = summary_of(retimed(before, [image.program for image in small_neff().subgraphs], [question]))
    assert after["total_time"] < summary_of(before)["total_time"]
    for name in ("hardware_flops", "dma_transfer_count", "hbm_read_bytes", "weight_queue_bytes"):
        assert after[name] == summary_of(before)[name]


def analysis(program: CoreProgram) -> Analysis:
    return Analysis(record_programs("test", [("sg00", program)], TRN1))


# Fewer buffers: slower, found by figure and by operator, and a limit on it is broken.
def test_differences():
    before, after = analysis(rotating_scale(16, 4)), analysis(rotating_scale(16, 1))
    figures = figure_differences(summary_of(before.profile), summary_of(after.profile))
    total = next(difference for difference in figures if difference.name == "total_time")
    assert total.change > 0 and total.relative is not None and total.relative > 0.5
    assert next(d for d in figures if d.name == "dma_transfer_count").change == 0
    limits = [
        parse_limit(text) for text in ("total_time>+2%", "total_time<-2%", "dma_transfer_count>0", "total_time>1")
    ]
    assert [limit.text for limit, _ in broken_limits(limits, figures)] == ["total_time>+2%"]
    (row,) = [row for row in operator_differences(operators_of(before), operators_of(after)) if row.name == "Mul_0"]
    assert row.change == pytest.approx(total.change, rel=0.05)
    assert broken_limits(limits, figure_differences(*[summary_of(before.profile)] * 2)) == []


# From nothing, every growth is more than any percentage.
def test_limit_from_zero():
    grown = figure_differences({"spill_save_bytes": 0}, {"spill_save_bytes": 1})
    (broken,) = broken_limits([parse_limit("spill_save_bytes>+50%")], grown)
    assert broken[1].relative is None


@pytest.mark.parametrize("text", ["total_time", "total_time>fast", "total_time>=2%", ">2%", "total_time>2%%"])
def test_limits_that_mean_nothing(text: str):
    with pytest.raises(NeuronError, match="NX-PROF-002"):
        parse_limit(text)
    with pytest.raises(NeuronError, match="no figure 'speed'"):
        broken_limits([parse_limit("speed>2%")], [])


def found(builder: ProgramBuilder) -> dict[str, Advice]:
    return {advice.rule.name: advice for advice in advice_of(analysis(builder.program()))}


# A program that does everything wrong: for each rule the figure that it sees.
def test_advice_by_hand():
    b = ProgramBuilder()
    w, scratch = b.variable("w", "file", (128, 64)), b.variable("scratch", "tmp", (128, 64))
    for _ in range(3):
        b.add("sp", "dma_copy", signal="q0", ring="q0", dst=sbuf(ROWS, 0, 64), src=dram(w, 0, (64, 128), 64))
    for _ in range(2):
        source = dram(scratch, 0, (64, 128), 64)
        b.add("sp", "dma_copy", {"q0": 3}, "r", ring="reload", dst=sbuf(ROWS, 0, 64), src=source)
    accumulate = {"accumulate": Affine()}
    b.add(
        "pe", "nc_matmul", {"r": 1}, "pe", fields=accumulate, dst=psum((0, 16), 0, 64),
        stationary=sbuf((0, 16), 0, 16), moving=sbuf((0, 16), 0, 64),
    )  # fmt: skip
    b.add("pe", "nc_transpose", signal="pe", dst=psum((0, 64), 512, 128), data=sbuf(ROWS, 0, 64))
    for function in ("exp", "gelu", "exp"):
        fields = {"func": function}
        b.add("act", "activation", {"pe": 2}, dst=sbuf((0, 16), 64, 64), data=sbuf((0, 16), 0, 64), fields=fields)
    advice = found(b)
    assert advice["spill-reload"].value == 2 / 5
    assert advice["reloads"].value == 3.0
    assert "'w' 3.0 times" in advice["reloads"].text
    assert advice["small-payload"].value == 1.0 and "256 bytes" in advice["small-payload"].text
    assert advice["unfilled-rows"].value == advice["unfilled-columns"].value == 16 / 128
    assert advice["unfilled-partitions"].value == 16 / 128
    assert advice["fp32-matmul"].value > 0.1 and "4 passes" in advice["fp32-matmul"].text
    assert advice["transposes"].value == pytest.approx(128 * 64 * 128 / (128 * 64 * 128 + 16 * 16 * 64))
    assert "tables (3)" in advice["table-loads"].text
    total = analysis(b.program()).total_ns
    assert all(0 <= item.saving_ns <= total for item in advice.values())
    assert not advice.keys() - RULES.keys()


# Beyond a quarter of the reads, reloads of spilled buffers are told of; what loads once is not.
def test_spills_are_told_of():
    b = ProgramBuilder()
    scratch = b.variable("scratch", "tmp", (128, 2048))
    b.add("sp", "dma_copy", ring="reload", dst=sbuf(ROWS, 0, 2048), src=dram(scratch, 0, (2048, 128), 2048))
    advice = found(b)
    assert advice["spill-reload"].value == 1.0
    assert not advice.keys() & {"reloads", "small-payload", "small-transfers", "transposes", "fp32-matmul"}


# A program that waits for one thing after the other has its latencies on the path.
def test_latencies_are_told_of():
    advice = found_program(rotating_scale(16, 1, 8))
    assert advice["latency-bound"].value > 0.2
    assert "dma-bound" not in advice


def found_program(program: CoreProgram) -> dict[str, Advice]:
    return {advice.rule.name: advice for advice in advice_of(analysis(program))}


def test_dma_bound():
    b = ProgramBuilder()
    x = b.variable("x", "input", (128, 8192))
    for part in range(4):
        source = dram(x, 2048 * part, (8192, 128), 2048)
        b.add("sp", "dma_copy", ring="q0", dst=sbuf(ROWS, 2048 * part, 2048), src=source)
    assert found(b)["dma-bound"].value > 0.8


# A model that does nothing gets no advice.
def test_nothing_to_advise():
    assert found(ProgramBuilder()) == {}
    assert loads_of(small_analysis().programs[0])["w0$bf16"][0] > 0
    assert dataclasses.asdict(RULES["transposes"])["threshold"] == 0.1
