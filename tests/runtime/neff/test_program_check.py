"""A program that refers to something it does not have is refused, with the entry, the figure and the limit."""

from dataclasses import replace

import pytest

from neuron_dialects.access import Affine
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import Instruction
from neuron_dialects.isa.program import CoreProgram, DramVariable, QueueEntry
from runtime.neff.encoding import encode_queue
from runtime.neff.program_check import check_program
from tests.runtime.neff.samples import dma, dram, matmul_program, psum, register, sbuf

TILE = (1, 128)
MEMSET = Instruction("memset", "dve", {"dst": sbuf("f32", 32, 0, TILE)}, {})
ON_CHIP = sbuf("f32", 64, 0, TILE)


def refused(program: CoreProgram) -> NeuronError:
    with pytest.raises(NeuronError) as caught:
        check_program(program, "sg00")
    assert caught.value.code == "NX-NEFF-007"
    return caught.value


def with_entry(entry: QueueEntry, engine: str = "dve") -> CoreProgram:
    program = matmul_program("trn1")
    program.queues = {**program.queues, engine: [QueueEntry(control="wait"), entry]}
    return program


@pytest.mark.parametrize("target", ["inf1", "trn1", "inf2", "trn2"])
def test_the_sample_is_whole(target: str) -> None:
    check_program(matmul_program(target), "sg00")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (QueueEntry(control="wait", waits=((4, Affine(1)),)), "waits for semaphore 4, the program has 4"),
        (QueueEntry(control="wait", waits=((0, register(64)),)), "not a constant plus one of 64 registers"),
        (QueueEntry(MEMSET, signal=4), "signals semaphore 4, the program has 4"),
        (QueueEntry(MEMSET, origin=3), "origin 3, the program has 3"),
        (QueueEntry(control="reg_move", numbers=(64, 0)), "register 64, the target has 64"),
        (QueueEntry(control="reg_add_register", numbers=(0, 0, -1)), "register -1"),
        (QueueEntry(control="reg_rotate", numbers=(0, 1, 0)), "limit 0 is not positive"),
        (QueueEntry(control="branch_less", numbers=(0, 1, 2)), "jumps to entry 2, the queue has 2"),
        (QueueEntry(control="branch_less", numbers=(0, 1, -1)), "jumps to entry -1"),
        (QueueEntry(replace(MEMSET, engine="pool")), "memset of engine pool in the queue of dve"),
        (QueueEntry(replace(MEMSET, operands={"dst": sbuf("f32", 129, 0, TILE)})), "spans 129 partitions, limit 128"),
        (
            QueueEntry(Instruction("max8", "dve", {"dst": sbuf("f32", 32, 0, TILE), "data": sbuf("f32", 32, 0, TILE)})),
            "dst has 128 elements per partition, allowed 8 to 8",
        ),
        (QueueEntry(replace(MEMSET, operands={"dst": sbuf("f32", 32, register(64), TILE)})), "one of 64 registers"),
        (dma(ON_CHIP, dram(9, "f32", 0, (256, 64), TILE), "q_load", 2), "operand src: no variable 9"),
        (dma(ON_CHIP, dram(0, "f32", 0, (256, 64), TILE), "q_load", 2), "src is f32, its variable bf16"),
        (dma(ON_CHIP, dram(2, "f32", 0, (256, 64), (1, 64)), "q_load", 2), "dst 8192, src 4096"),
    ],
)
def test_entries_that_refer_to_nothing(entry: QueueEntry, reason: str) -> None:
    program = with_entry(entry)
    encode_queue(program.queues["dve"])
    error = refused(program)
    assert reason in error.message
    assert error.message.startswith("sg00 dve: entry 1: ")


# The message names the framework node that the entry comes from.
def test_the_node_is_named() -> None:
    error = refused(with_entry(QueueEntry(MEMSET, signal=9, origin=1)))
    assert error.node == "/fc/MatMul"


# An instruction that one target has and another has not.
def test_targets_differ() -> None:
    iota = Instruction("iota", "pool", {"dst": sbuf("f32", 32, 0, TILE)}, {})
    program = with_entry(QueueEntry(iota), "pool")
    check_program(program, "sg00")
    program.target = "inf1"
    assert "target inf1 has no such instruction" in refused(program).message


def test_a_matmul_beyond_the_array() -> None:
    operands = {
        "dst": psum(128, TILE),
        "stationary": sbuf("bf16", 128, 0, (1, 128)),
        "moving": sbuf("bf16", 128, 0, TILE),
    }
    program = with_entry(QueueEntry(Instruction("nc_matmul", "pe", operands, {})), "pe")
    check_program(program, "sg00")
    program.target = "inf1"
    assert "M = 128, limit 64" in refused(program).message


X = DramVariable(20, "v", "tmp", "f32", (2, 2))


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        (replace(X, id=0), "id 0 is used twice"),
        (replace(X, id=-1), "id -1"),
        (replace(X, id=(1 << 32) - 1), "out of range"),
        (replace(X, name="x"), "empty or used twice"),
        (replace(X, name=""), "empty or used twice"),
        (replace(X, kind="weird"), "unknown kind 'weird'"),
        (replace(X, dtype="f99"), "unknown element type 'f99'"),
        (replace(X, shape=(-1,)), "a shape has at most 32 dimensions"),
        (replace(X, shape=(1,) * 33), "a shape has at most 32 dimensions"),
        (replace(X, shape=(1 << 40,)), "its variables have"),
        (replace(X, kind="file"), "exactly a parameter has a file name"),
        (replace(X, file_name="params/x"), "exactly a parameter has a file name"),
        (replace(X, kind="file", file_name="params/0000-fc_w_0"), "each its own"),
        (replace(X, kind="file", file_name="pe.bin"), "is not in params/"),
    ],
)
def test_variables(variable: DramVariable, reason: str) -> None:
    program = matmul_program("trn1")
    program.variables = [*program.variables, variable]
    assert reason in refused(program).message


def test_names_and_counts() -> None:
    program = matmul_program("trn1")
    assert "a name is used twice" in refused(replace(program, semaphores=("pe",) * 4)).message
    assert "is not a name" in refused(replace(program, semaphores=("pe", "", "q_load", "q_store"))).message
    assert (
        "257, the target has 256" in refused(replace(program, semaphores=tuple(map("s{}".format, range(257))))).message
    )
    assert "has no engine 'gpu'" in refused(replace(program, queues={"gpu": []})).message
    assert "unknown target" in refused(replace(program, target="trn9")).message
    entry = dma(ON_CHIP, dram(2, "f32", 0, (256, 64), TILE), "q", 0)
    rings = [replace(entry, ring=f"q{number}") for number in range(17)]
    assert "DMA rings: 17, the target has 16" in refused(replace(program, queues={"sp": rings})).message
