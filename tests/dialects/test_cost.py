"""Cost formulas against the public instruction reference and against published measurements.

Cycle formulas must be met exactly. Times must come within 25 % of a measurement of a single instruction and within
15 % of that of a long one; each case names the figure that was measured. Whole kernels are timed in
tests/runtime/test_published_kernels.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.cost import dma_cost, issue_ns, latency_ns, matmul_macs, roofline_ns, weight_load_ns
from neuron_dialects.isa import INSTRUCTIONS, Instruction, Operand
from neuron_dialects.target import Target, load_target

TRN1, TRN2 = load_target("trn1"), load_target("trn2")
SINGLE, LONG = 0.25, 0.15
MIN_II = 64


def tile(lanes: int, elements: int, dtype: str = "f32", space: str = "sbuf") -> Operand:
    return Operand(space, dtype, AccessPattern(Affine(), lanes, Affine(), ((1, elements),)))


def instruction(name: str, engine: str, fields: Mapping[str, Any] | None = None, **operands: Operand) -> Instruction:
    return Instruction(name, engine, operands, fields or {})


def cycles(case: Instruction, target: Target = TRN1) -> float:
    return INSTRUCTIONS[case.name].cost(case, target)


def matmul(m: int, n: int, dtype: str = "bf16", k: int = 128) -> Instruction:
    moving, stationary = tile(k, n, dtype), tile(k, m, dtype)
    return instruction("nc_matmul", "pe", dst=tile(m, n, space="psum"), stationary=stationary, moving=moving)


def two(name: str, n: int, dtype: str = "f32", second: str = "sbuf", op: str = "add") -> Instruction:
    role = "predicate" if name == "tensor_copy_predicated" else "other"
    fields = {"op": op} if name == "tensor_tensor" else {}
    operands = {"dst": tile(128, n, dtype), "data": tile(128, n, dtype), role: tile(128, n, dtype, second)}
    return Instruction(name, "dve", operands, fields)


def one(
    name: str, n: int, engine: str = "dve", dtype: str = "f32", result: int | None = None, **fields: Any
) -> Instruction:
    dst = tile(128, n if result is None else result, dtype)
    return Instruction(name, engine, {"dst": dst, "data": tile(128, n, dtype)}, fields)


def local_gather(count: int, elements: int, dtype: str) -> Instruction:
    operands = {"dst": tile(128, count * elements, dtype), "data": tile(128, 9000, dtype)}
    operands["indices"] = tile(128, count // 16, "ui16")
    return Instruction("local_gather", "pool", operands, {"elements": elements})


def memset(n: int, value: float, dtype: str) -> Instruction:
    return Instruction("memset", "dve", {"dst": tile(128, n, dtype)}, {"value": value})


# Section 3 of the reference: cycles between issues as a function of N, MIN_II = 64.
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (matmul(128, 512), 512),
        (matmul(128, 32), 64),
        (matmul(16, 32), 32),
        (matmul(128, 512, "f32"), 4 * 512),
        (one("nc_transpose", 128, "pe", "bf16"), 128),
        (local_gather(512, 4, "bf16"), 150 + 2048 * 1.375),
        (local_gather(512, 1, "f32"), 150 + 512 * 8),
        (instruction("nc_transpose", "pe", dst=tile(16, 32, "bf16", "psum"), data=tile(32, 16, "bf16")), 32),
        (instruction("nc_transpose", "dve", dst=tile(32, 32), data=tile(32, 32)), MIN_II),
        (one("activation", 4096, "act"), 4096),
        (one("activation", 1, "act"), MIN_II),
        (instruction("activation", "act", dst=tile(8, 512), data=tile(8, 512), sum=tile(8, 1)), 512 + MIN_II),
        (two("tensor_tensor", 512), 1024),
        (two("tensor_tensor", 512, second="psum"), 512),
        (two("tensor_tensor", 512, "bf16"), 512),
        (two("tensor_tensor", 512, "bf16", op="maximum"), 1024),
        (two("scalar_tensor_tensor", 512), 1024),
        (two("tensor_tensor_scan", 512), 1024),
        (two("tensor_tensor_scan", 512, second="psum"), 1024),
        (two("tensor_copy_predicated", 512), 1024),
        (two("tensor_copy_predicated", 512, second="psum"), 512),
        (one("tensor_scalar", 512), 512),
        (one("tensor_scalar_reduce", 512), 512 + MIN_II),
        (one("tensor_reduce", 512, result=1, op="add"), 512),
        (one("tensor_reduce", 512, dtype="bf16", result=1, op="add"), 256),
        (one("tensor_reduce", 512, dtype="bf16", result=1, op="minimum"), 512),
        (one("tensor_copy", 512), 512),
        (memset(512, 1.0, "bf16"), 512),
        (memset(512, 0.0, "bf16"), 256),
        (memset(512, 0.0, "f32"), 512),
        (one("reciprocal", 512), 8 * 512),
        (one("bn_stats", 512, result=6), 512),
        (one("bn_aggr", 48, result=2), 13 * 16),
        (one("max8", 512, result=8), 512),
        (one("nc_find_index8", 512, result=8), 512),
        (one("nc_match_replace8", 512), 512),
        (one("range_select", 512), 512),
        (instruction("iota", "pool", dst=tile(128, 512)), 150 + 512),
        (one("affine_select", 512, "pool"), 150 + 512),
    ],
    ids=lambda value: value.name if isinstance(value, Instruction) else None,
)
def test_cycles_of_the_reference(case: Instruction, expected: float):
    assert cycles(case) == expected


# A cost never depends on how many partitions take part.
@pytest.mark.parametrize("lanes", [1, 64, 128])
def test_partitions_are_free(lanes: int):
    assert cycles(instruction("tensor_copy", "dve", dst=tile(lanes, 512), data=tile(lanes, 512))) == 512


# From v3 on, 16-bit copies run four times as fast when all is contiguous in SBUF and twice with one side in PSUM.
def test_fast_modes():
    assert cycles(one("tensor_copy", 1024, dtype="bf16"), TRN1) == 1024
    assert cycles(one("tensor_copy", 1024, dtype="bf16"), TRN2) == 256
    from_psum = instruction("tensor_copy", "dve", dst=tile(8, 1024, "bf16"), data=tile(8, 1024, "bf16", "psum"))
    assert cycles(from_psum, TRN2) == 512
    assert cycles(one("tensor_copy", 1024), TRN2) == 1024
    assert cycles(two("tensor_tensor", 1024, "bf16"), TRN2) == 512


def duration_ns(case: Instruction, target: Target) -> float:
    """From the start of an instruction to the start of one that needs its result."""
    return issue_ns(case, target) + latency_ns(case.engine, target)


ADD = two("tensor_tensor", 8192)
FP32_PASS = 0.5
"""An fp32 matmul is two passes; the profiler shows one."""


# Section 5.1: what profilers showed for single instructions.
@pytest.mark.parametrize(
    ("predicted", "measured_ns", "tolerance"),
    [
        pytest.param(duration_ns(one("activation", 4096, "act"), TRN2), 3720, LONG, id="exp of 4096, trn2"),
        pytest.param(duration_ns(one("activation", 128, "act"), TRN2), 400, SINGLE, id="exp of 128, trn2"),
        pytest.param(duration_ns(one("activation", 1, "act"), TRN1), 189, SINGLE, id="dependent activate, trn1"),
        pytest.param(duration_ns(one("activation", 1, "act"), TRN1), 159, SINGLE, id="one activate, trn1"),
        pytest.param(duration_ns(ADD, TRN1), 14_968, LONG, id="fp32 add of 8192, trn1"),
        pytest.param(duration_ns(matmul(128, 128), TRN1), 188, SINGLE, id="matmul N=128, trn1"),
        pytest.param(duration_ns(matmul(96, 96), TRN1), 219, SINGLE, id="matmul N=96, trn1"),
        pytest.param(issue_ns(matmul(128, 512, "f32"), TRN2) * FP32_PASS, 430, SINGLE, id="fp32 pass pitch, trn2"),
        pytest.param(
            issue_ns(matmul(128, 512, "f32"), TRN2) * FP32_PASS + latency_ns("pe", TRN2), 591, SINGLE,
            id="fp32 pass, trn2",
        ),
        pytest.param(float(TRN1.semaphore_ns), 9, SINGLE, id="semaphore, trn1"),
        pytest.param(float(TRN1.act_table_load_ns), 368, SINGLE, id="table load, trn1"),
        pytest.param(float(TRN2.act_table_load_ns), 1280, SINGLE, id="table load, trn2"),
        pytest.param(float(TRN2.dma_start_ns), 740, SINGLE, id="DMA trigger to start, trn2"),
        pytest.param(float(TRN2.dma_completion_ns), 300, SINGLE, id="DMA end to start of its reader, trn2"),
    ],
)  # fmt: skip
def test_measured_instructions(predicted: float, measured_ns: float, tolerance: float):
    assert predicted == pytest.approx(measured_ns, rel=tolerance)


# Section 5.8: whole streams of equal instructions, issue time only.
@pytest.mark.parametrize(
    ("predicted_ns", "measured_ns"),
    [
        pytest.param(32768 * issue_ns(matmul(128, 512), TRN1), 6.97e6, id="bf16 matmul 4096x8192x8192, trn1"),
        pytest.param(32768 * issue_ns(matmul(128, 512, "f32"), TRN2), 28.16e6, id="fp32 matmul, trn2"),
        pytest.param(160 * issue_ns(two("tensor_tensor", 512), TRN1), 148.99e3, id="Mamba, 160 ops of 512, trn1"),
    ],
)
def test_measured_streams(predicted_ns: float, measured_ns: float):
    assert predicted_ns == pytest.approx(measured_ns, rel=LONG)


def copy(rows: int, row_elements: int, dtype: str = "bf16", gap: int = 0, **spaces: str) -> Instruction:
    """A DMA of `rows` rows that lie `gap` elements apart in DRAM."""
    dram = Operand("dram", dtype, AccessPattern(Affine(), 0, Affine(), ((row_elements + gap, rows), (1, row_elements))))
    return Instruction("dma_copy", "dma", {"dst": tile(rows, row_elements, dtype), "src": dram})


def alone(target: Target) -> Target:
    """The same target with a single DMA engine, as the profiles of one engine show."""
    return replace(target, figures={**target.figures, "dma_engines": replace(target.figures["dma_engines"], value=1)})


# Section 5.1: one DMA engine at work.
@pytest.mark.parametrize(
    ("case", "target", "measured_ns", "tolerance"),
    [
        pytest.param(copy(4, 4096), alone(TRN2), 1416, LONG, id="4 x 8 KiB, trn2"),
        pytest.param(copy(8, 128), alone(TRN2), 97, SINGLE, id="8 x 256 B, trn2"),
        pytest.param(copy(4, 4096), alone(TRN1), 1810, LONG, id="32 KiB, trn1"),
        pytest.param(copy(1, 1, "f32"), alone(TRN1), 7, SINGLE, id="4 B, trn1"),
    ],
)
def test_measured_dma(case: Instruction, target: Target, measured_ns: float, tolerance: float):
    assert dma_cost(case, target).work_ns == pytest.approx(measured_ns, rel=tolerance)


# All engines together: they start one after the other, which shows in a small transfer and not in the rate of large
# ones.
def test_measured_dma_of_a_tile():
    tile_cost, large = dma_cost(copy(128, 128), TRN2), dma_cost(copy(128, 8192), TRN2)
    assert tile_cost.span_ns == pytest.approx(468, rel=SINGLE)
    assert tile_cost.work_ns == pytest.approx(97, rel=SINGLE)
    assert tile_cost.busy_ns == pytest.approx(16 * 24.7)
    assert large.busy_ns == pytest.approx(128 * 16384 / 363)
    assert large.span_ns == pytest.approx(15 * 24.7 + 128 * 16384 / (16 * 23))


# A transfer of fewer descriptors than DMA engines staggers only the engines that it uses.
def test_few_descriptors():
    cost = dma_cost(copy(2, 64), TRN1)
    assert (cost.descriptors, cost.engines) == (2, 2)
    assert cost.work_ns == pytest.approx(128 / 17)
    assert cost.busy_ns == pytest.approx(2 * 24.7)
    assert cost.span_ns == pytest.approx(cost.busy_ns)


# A weight load of one element took 67 ns; it hides behind the matmul before, which only a first matmul has not.
def test_measured_weight_load():
    assert weight_load_ns(matmul(1, 512), TRN1) == pytest.approx(67, rel=SINGLE)
    assert weight_load_ns(matmul(128, 512), TRN1) == pytest.approx(67 + 32 / 2.8)
    assert weight_load_ns(one("tensor_copy", 512), TRN1) == 0.0
    assert issue_ns(matmul(128, 512), TRN1) == pytest.approx(512 / 2.8)


# Descriptors: one per run that is contiguous on both sides; short ones cost their fixed time, long ones their bytes.
def test_descriptors():
    rows = dma_cost(copy(128, 2048), TRN1)
    assert (rows.bytes, rows.descriptors) == (128 * 4096, 128)
    assert rows.busy_ns == pytest.approx(8 * 4096 / 17.0)
    scattered = Operand("dram", "f32", AccessPattern(Affine(), 0, Affine(), ((1, 128), (128, 128))))
    elements = dma_cost(Instruction("dma_copy", "dma", {"dst": tile(128, 128), "src": scattered}), TRN1)
    assert elements.descriptors == 128 * 128
    assert elements.busy_ns == pytest.approx(128 * 128 / 16 * 7.0)


# A transfer of one long run is spread over all engines, and between DRAM and DRAM both directions count.
def test_one_run_uses_all_engines():
    run = Operand("dram", "f32", AccessPattern(Affine(), 0, Affine(), ((1, 1 << 20),)))
    cost = dma_cost(Instruction("dma_copy", "dma", {"dst": run, "src": run}), TRN1)
    assert cost.descriptors == 16
    assert (cost.dram_read_bytes, cost.dram_write_bytes) == (4 << 20, 4 << 20)
    assert cost.busy_ns == pytest.approx(max((4 << 20) / 272, (8 << 20) / 410))


# A cast counts the larger side's bytes, a gather its rows, a scatter what it writes.
def test_other_transfers():
    table = Operand("dram", "f32", AccessPattern(Affine(), 0, Affine(), ((1, 512),)))
    column = tile(100, 1, "i32")
    gather = instruction("dma_gather", "dma", dst=tile(100, 512), table=table, indices=column)
    assert dma_cost(gather, TRN1).descriptors == 100
    assert dma_cost(gather, TRN1).dram_read_bytes == 100 * 2048
    scatter = instruction("dma_scatter", "dma", table=table, data=tile(100, 512), indices=column)
    assert dma_cost(scatter, TRN1).dram_write_bytes == 100 * 2048
    narrow = Operand("dram", "bf16", table.pattern)
    widened = dma_cost(instruction("dma_copy", "dma", dst=tile(1, 512), src=narrow), TRN1)
    assert (widened.bytes, widened.dram_read_bytes) == (2048, 1024)


# A trigger costs its engine nothing beyond the control instruction; the transfer runs on its ring.
def test_trigger_is_free():
    assert issue_ns(copy(4, 4096), TRN1) == 0.0


def test_roofline():
    assert matmul_macs(matmul(128, 512)) == 128 * 128 * 512
    assert matmul_macs(copy(4, 4)) == 0
    macs = 2048**3
    assert roofline_ns(macs, 3 * 2048 * 2048 * 2, TRN1) == pytest.approx(macs / (128 * 128 * 2.8))
    assert roofline_ns(macs, 0, TRN1, passes=4.0) == pytest.approx(4 * macs / (128 * 128 * 2.8))
    assert roofline_ns(1, 410_000, TRN1) == pytest.approx(1000.0)
