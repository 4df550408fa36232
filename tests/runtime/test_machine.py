import dataclasses
from pathlib import Path

import numpy as np
import pytest

from neuron_dialects.access import Affine
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram, QueueEntry
from neuron_dialects.target import load_target
from runtime.machine import Machine
from runtime.races import check_races
from tests.runtime.core_programs import ProgramBuilder, dram, matmul_relu, psum, reg, rotating_scale, sbuf

TARGET = load_target("trn1")
ROWS = (0, 128)
RNG = np.random.default_rng(1)


def without_wait(program: CoreProgram, engine: str, index: int, wait: int) -> CoreProgram:
    """The program less one wait of one entry."""
    queues = {name: list(queue) for name, queue in program.queues.items()}
    entry = queues[engine][index]
    queues[engine][index] = dataclasses.replace(entry, waits=entry.waits[:wait] + entry.waits[wait + 1 :])
    return dataclasses.replace(program, queues=queues)


def error_of(program: CoreProgram, inputs: dict[str, np.ndarray] | None = None) -> NeuronError:
    """What decoding or running a program raises."""
    with pytest.raises(NeuronError) as caught:
        Machine(program, TARGET).run(inputs or {}, {})
    return caught.value


# load, multiply, relu, store, each waiting for the one before it.
def test_matmul_relu():
    x, w = RNG.normal(size=(128, 512)).astype(np.float32), RNG.normal(size=(128, 128)).astype(np.float32)
    machine = Machine(matmul_relu(), TARGET)
    for mode in ("functional", "both"):
        result = machine.run({"x": x}, {"w": w}, mode)
        np.testing.assert_allclose(result.outputs["y"], np.maximum(w.T @ x, 0), rtol=1e-4, atol=1e-4)
        assert (result.timing is None) == (mode == "functional")


# Every wait of it matters: without it the output is wrong (poison, mostly), and the race check says so.
@pytest.mark.parametrize("engine", ["pe", "act", "pool"])
def test_a_missing_wait_shows(engine: str):
    x, w = (RNG.normal(size=shape).astype(np.float32) for shape in ((128, 512), (128, 128)))
    program = without_wait(matmul_relu(), engine, 0, 0)
    outputs = Machine(program, TARGET).run({"x": x}, {"w": w}).outputs
    assert not np.allclose(outputs["y"], np.maximum(w.T @ x, 0))
    assert check_races(program, TARGET)


# Parameters in a memory-mapped file are used where they are.
def test_mapped_parameters(tmp_path: Path):
    x, w = (RNG.normal(size=shape).astype(np.float32) for shape in ((128, 512), (128, 128)))
    np.save(tmp_path / "w.npy", w)
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    machine = Machine(matmul_relu(), TARGET)
    for _ in range(2):
        outputs = machine.run({"x": x}, {"w": mapped}).outputs
        np.testing.assert_allclose(outputs["y"], np.maximum(w.T @ x, 0), rtol=1e-4, atol=1e-4)


# One machine runs many times, with other inputs and other parameters; nothing of an earlier run stays.
def test_runs_are_independent():
    machine = Machine(matmul_relu(), TARGET)
    x, w = (RNG.normal(size=shape).astype(np.float32) for shape in ((128, 512), (128, 128)))
    first = machine.run({"x": x}, {"w": w}).outputs["y"]
    assert np.array_equal(machine.run({"x": 2 * x}, {"w": w}).outputs["y"], 2 * first)
    assert np.array_equal(machine.run({"x": x}, {"w": 4 * w}).outputs["y"], 4 * first)
    assert np.array_equal(machine.run({"x": x}, {"w": w}).outputs["y"], first)
    machine.run({}, {}, "timing")
    assert np.array_equal(machine.run({"x": x}, {"w": w}).outputs["y"], first)


# A loop over 9 tiles that rotate over 3 buffers, the copy that an iteration uses in a register.
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_rotating_buffers(copies: int):
    x = RNG.normal(size=(9, 128, 64)).astype(np.float32)
    program = rotating_scale(tiles=9, copies=copies)
    assert check_races(program, TARGET) == []
    assert np.array_equal(Machine(program, TARGET).run({"x": x}, {}).outputs["y"], 2 * x)


# More buffers let the load of a tile run ahead of the store of the one before.
def test_more_buffers_are_faster():
    times = [Machine(rotating_scale(9, copies), TARGET).run({}, {}, "timing").timing for copies in (1, 2, 3)]
    totals = [timing.total_time for timing in times if timing is not None]
    assert totals[0] > 1.5 * totals[1] > 1.5 * totals[2] * 0.9


# Uninitialised memory is poison: NaN in floats, -1 in signed integers, until something is written.
def test_poison():
    b = ProgramBuilder()
    y, z = b.variable("y", "output", (4, 2)), b.variable("z", "output", (3,), "i32")
    b.add("sp", "dma_copy", ring="q0", src=sbuf((0, 4), 0, 2), dst=dram(y, 0, 8))
    outputs = Machine(b.program(), TARGET).run({}, {}).outputs
    assert np.isnan(outputs["y"]).all()
    assert (outputs["z"] == -1).all()
    assert outputs["z"].shape == (z.shape)


# Accumulation into one bank by consecutive matmuls, `accumulate` from a register.
def test_accumulation():
    b = ProgramBuilder()
    x, y = b.variable("x", "input", (3, 64, 32), "bf16"), b.variable("y", "output", (32, 32))
    for k in range(3):
        part = sbuf((0, 64), 32 * k, 32, dtype="bf16")
        b.add("sp", "dma_copy", ring="q0", signal="q0", dst=part, src=dram(x, 2048 * k, (32, 64), 32))
    b.control("pe", "reg_move", 0, 0)
    b.control("pe", "reg_move", 1, 0)
    operand = sbuf((0, 64), reg(1), 32, dtype="bf16")
    body = b.add(
        "pe", "nc_matmul", {"q0": 3}, "pe", fields={"accumulate": reg(0)},
        dst=psum((0, 32), 0, 32), stationary=operand, moving=operand,
    )  # fmt: skip
    b.control("pe", "reg_add", 0, 0, 1)
    b.control("pe", "reg_multiply", 1, 0, 32)
    b.control("pe", "branch_less", 0, 3, body)
    b.add("dve", "tensor_copy", {"pe": 3}, "dve", dst=sbuf((0, 32), 256, 32), data=psum((0, 32), 0, 32))
    b.add("pool", "dma_copy", {"dve": 1}, ring="q1", src=sbuf((0, 32), 256, 32), dst=dram(y, 0, (32, 32), 32))
    assert check_races(b.program(), TARGET) == []
    values = np.round(RNG.normal(size=(3, 64, 32)) * 4).astype("bfloat16")
    outputs = Machine(b.program(), TARGET).run({"x": values}, {}).outputs
    exact = sum(v.astype(np.float32).T @ v.astype(np.float32) for v in values)
    assert np.array_equal(outputs["y"], exact)


# Dependent instructions of one engine need no semaphore: each reads what the one before it wrote.
def test_one_engine_is_in_order():
    b = ProgramBuilder()
    y = b.variable("y", "output", (128, 16))
    tile = sbuf(ROWS, 0, 16)
    b.add("dve", "memset", fields={"value": 1.0}, dst=tile)
    for _ in range(5):
        b.add("dve", "tensor_tensor", signal="dve", dst=tile, data=tile, other=tile)
    b.add("sp", "dma_copy", {"dve": 5}, ring="q0", src=tile, dst=dram(y, 0, (16, 128), 16))
    assert check_races(b.program(), TARGET) == []
    assert (Machine(b.program(), TARGET).run({}, {}).outputs["y"] == 32).all()


# A transfer that its engine triggers is not ordered after the engine's own instructions: it must wait for them.
def test_a_trigger_runs_ahead_of_its_datapath():
    b = ProgramBuilder()
    y = b.variable("y", "output", (128, 4096))
    tile = sbuf(ROWS, 0, 4096)
    b.add("pool", "memset", signal="pool", fields={"value": 3.0}, dst=tile)
    b.add("pool", "dma_copy", ring="q0", src=tile, dst=dram(y, 0, (4096, 128), 4096))
    assert np.isnan(Machine(b.program(), TARGET).run({}, {}).outputs["y"]).all()
    assert [race.kind for race in check_races(b.program(), TARGET)] == ["write-read"]
    store = b.queues["pool"][1]
    b.queues["pool"][1] = dataclasses.replace(store, waits=((b.semaphore("pool"), Affine(1)),))
    assert check_races(b.program(), TARGET) == []
    assert (Machine(b.program(), TARGET).run({}, {}).outputs["y"] == 3).all()


def test_control_instructions():
    b = ProgramBuilder()
    y = b.variable("y", "output", (1, 8))
    b.control("dve", "reg_move", 3, 2)
    b.control("dve", "reg_add", 4, 3, 5)
    b.control("dve", "reg_multiply", 5, 4, -1)
    b.control("dve", "reg_add_register", 6, 4, 3)
    b.control("dve", "reg_add_register", 6, 6, 5)
    b.control("dve", "branch_less", 6, 2, 99)
    b.control("dve", "wait", waits={"gone": 0}, signal="ctl")
    b.add("dve", "memset", fields={"value": 1.0}, signal="dve", dst=sbuf((0, 1), reg(6), 1))
    b.control("dve", "halt")
    b.add("dve", "memset", fields={"value": 9.0}, signal="dve", dst=sbuf((0, 1), reg(6), 1))
    # Rotation: 0, 3, 6, then back to 0.
    b.control("act", "reg_move", 0, 0)
    b.control("act", "reg_rotate", 0, 3, 7)
    b.control("act", "reg_rotate", 0, 3, 7)
    b.control("act", "reg_rotate", 0, 3, 7)
    b.add("act", "activation", {"dve": 1, "ctl": 1}, "act", dst=sbuf((0, 1), reg(0), 1), data=sbuf((0, 1), 2, 1))
    b.add("sp", "dma_copy", {"act": 1}, ring="q", src=sbuf((0, 1), 0, 8), dst=dram(y, 0, 8))
    b.queues["dve"][5] = dataclasses.replace(b.queues["dve"][5], numbers=(6, 2, 8))
    row = Machine(b.program(), TARGET).run({}, {}).outputs["y"][0]
    assert np.flatnonzero(row == 1).tolist() == [0, 2]


# Gather with an index beyond the table: the framework node, the index and the number of rows are named.
def test_gather_out_of_range():
    b = ProgramBuilder()
    table, indices = b.variable("t", "input", (10, 8)), b.variable("i", "input", (4, 1), "i32")
    index = sbuf((0, 4), 0, 1, dtype="i32")
    b.add("sp", "dma_copy", ring="q0", signal="q0", dst=index, src=dram(indices, 0, 4))
    b.add(
        "sp", "dma_gather", {"q0": 1}, ring="q1", origin="Gather_3", fields={"rows": 10, "row_stride": 8},
        dst=sbuf((0, 4), 8, 8), table=dram(table, 0, 8), indices=index,
    )  # fmt: skip
    values = {"t": np.zeros((10, 8), np.float32), "i": np.array([[1], [2], [10], [3]], np.int32)}
    error = error_of(b.program(), values)
    assert (error.code, error.node) == ("NX-RUN-002", "Gather_3")
    assert error.message == "dma_gather: index 10 at position [2] of the indices, there are 10 rows in the table"
    values["i"][2] = 9
    assert Machine(b.program(), TARGET).run(values, {}).outputs == {}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_deadlock():
    b = ProgramBuilder()
    tile = sbuf(ROWS, 0, 4)
    b.add("dve", "memset", {"act": 1}, "dve", dst=tile, origin="Add_1")
    b.add("act", "activation", {"dve": 2}, "act", dst=tile, data=tile)
    error = error_of(b.program())
    assert (error.code, error.node) == ("NX-RUN-003", "Add_1")
    assert error.message == (
        "streams wait for ever: dve at entry 0 for act >= 1 (it is 0); act at entry 0 for dve >= 2 (it is 0)"
    )
    assert [race.kind for race in check_races(b.program(), TARGET)] == ["deadlock"]


def test_a_loop_without_end():
    b = ProgramBuilder()
    b.control("sp", "branch_less", 0, 1, 0)
    with pytest.raises(NeuronError, match="executed 1000 control instructions without an end") as caught:
        Machine(b.program(), TARGET).run({}, {}, step_limit=1000)
    assert caught.value.code == "NX-RUN-006"
    with pytest.raises(NeuronError, match="executed 1000 control instructions"):
        check_races(b.program(), TARGET, step_limit=1000)


# An address in a register that leaves the tensor (or a fixed one, already when the program is decoded).
def test_out_of_bounds():
    b = ProgramBuilder()
    x = b.variable("x", "input", (4, 8))
    b.control("sp", "reg_move", 0, 16)
    b.add("sp", "dma_copy", ring="q0", origin="Conv_7", dst=sbuf((0, 1), 0, 17), src=dram(x, reg(0), 17))
    error = error_of(b.program(), {"x": np.zeros((4, 8), np.float32)})
    assert (error.code, error.node) == ("NX-RUN-001", "Conv_7")
    assert "operand src of dma_copy touches bytes 64 to 131 of the tensor, which has 128" in error.message
    with pytest.raises(NeuronError, match="touches bytes 64 to 131, its memory has 128"):
        check_races(b.program(), TARGET)
    fixed = ProgramBuilder()
    fixed.add("dve", "memset", dst=sbuf(ROWS, 45056 - 3, 4))
    assert error_of(fixed.program()).code == "NX-RUN-001"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (QueueEntry(), "is empty"),
        (QueueEntry(control="jump", numbers=(1,)), "no control instruction jump of 1 numbers"),
        (QueueEntry(control="reg_move", numbers=(1,)), "no control instruction reg_move of 1 numbers"),
        (QueueEntry(control="reg_move", numbers=(64, 0)), "register 64, the target has 64"),
        (QueueEntry(control="branch_less", numbers=(0, 0, 2)), "jumps to entry 2, the queue has 1"),
        (QueueEntry(control="wait", waits=((5, Affine(1)),)), "names a semaphore outside of 0 to 0"),
        (QueueEntry(control="wait", signal=1), "names a semaphore outside of 0 to 0"),
        (QueueEntry(control="wait", waits=((0, Affine.of(1, {0: 2})),)), "2*$0 + 1 is not a constant plus one of 64"),
    ],
)
def test_malformed_entries(entry: QueueEntry, message: str):
    error = error_of(CoreProgram("trn1", {"sp": [entry]}, [], ("s",)))
    assert error.code == "NX-RUN-004"
    assert error.message.startswith(f"queue sp, entry 0: {message}")


def test_malformed_instructions():
    b = ProgramBuilder()
    x, y = b.variable("x", "input", (4,)), b.variable("y", "output", (4,), "bf16")
    tile = sbuf((0, 1), 0, 4)
    b.add("sp", "dma_copy", ring="q", dst=dram(x, 0, 4), src=tile)
    assert "operand dst writes x, which is an input" in error_of(b.program()).message
    b.queues = {}
    b.add("pe", "tensor_copy", dst=tile, data=tile)
    assert "engine pe does not execute it" in error_of(b.program()).message
    b.queues = {}
    b.add("sp", "dma_copy", ring="q", dst=tile, src=dataclasses.replace(dram(y, 0, 4), dtype="f32"))
    assert "operand src: no f32 variable 1" in error_of(b.program()).message
    b.queues = {}
    b.add("dve", "dma_copy", dst=tile, src=dram(x, 0, 4))
    assert "dma_copy on dve, ring None" in error_of(b.program()).message
    b.queues = {}
    b.add("dve", "memset", dst=sbuf((0, 1), 0, *[(0, 65535)] * 4))
    assert "has 18445618199572250625 elements, limit 134217728" in error_of(b.program()).message
    assert "target trn1 has no engine 'gpu'" in error_of(CoreProgram("trn1", {"gpu": []}, [], ())).message


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no value given for input x"),
        ({"x": np.zeros((4, 9), np.float32)}, "input x is float32[4, 9], must be float32[4, 8]"),
        ({"x": np.zeros((4, 8))}, "input x is float64[4, 8], must be float32[4, 8]"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, np.ndarray], message: str):
    b = ProgramBuilder()
    b.variable("x", "input", (4, 8))
    error = error_of(b.program(), inputs)
    assert (error.code, error.message) == ("NX-RUN-005", message)


def test_too_much_memory():
    b = ProgramBuilder()
    b.variable("y", "output", (1 << 40,))
    error = error_of(b.program())
    assert error.code == "NX-MEM-001"
