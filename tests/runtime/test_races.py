import dataclasses
import gc
import time
from typing import Any

import pytest

from neuron_dialects.access import Affine
from neuron_dialects.isa import Operand
from neuron_dialects.isa.program import CoreProgram, DramVariable
from neuron_dialects.target import load_target
from runtime.races import Race, check_races
from runtime.vector_clocks import VectorClocks
from tests.runtime.core_programs import ProgramBuilder, Waits, dram, matmul_relu, psum, reg, rotating_scale, sbuf

TARGET = load_target("trn1")
ROWS = (0, 128)


def races(program: CoreProgram | ProgramBuilder) -> list[Race]:
    """Races of a program."""
    return check_races(program.program() if isinstance(program, ProgramBuilder) else program, TARGET)


def kinds(program: CoreProgram | ProgramBuilder) -> list[str]:
    """Kinds of the races of a program."""
    return [race.kind for race in races(program)]


def less_one_wait(program: CoreProgram) -> list[tuple[str, CoreProgram]]:
    """The program less each wait in turn."""
    variants: list[tuple[str, CoreProgram]] = []
    for engine, queue in program.queues.items():
        for index, entry in enumerate(queue):
            for wait in range(len(entry.waits)):
                changed = dataclasses.replace(entry, waits=entry.waits[:wait] + entry.waits[wait + 1 :])
                queues = program.queues | {engine: [*queue[:index], changed, *queue[index + 1 :]]}
                variants.append((f"{engine} {index} wait {wait}", dataclasses.replace(program, queues=queues)))
    return variants


PROGRAMS = {"matmul": matmul_relu(), "one buffer": rotating_scale(6, 1), "three buffers": rotating_scale(8, 3)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_ordered_programs_are_free_of_races(name: str):
    assert races(PROGRAMS[name]) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_wait_matters(name: str):
    variants = less_one_wait(PROGRAMS[name])
    assert len(variants) >= 3
    assert [label for label, program in variants if not races(program)] == []


def worked_example(outer: int, inner: int, without: str = "") -> ProgramBuilder:
    """Two nested loops with rotating buffers, unrolled: the worked example of progress counters in loops.

    `without` names a dependence whose waits are left out.
    """
    b = ProgramBuilder()
    x, w, y = (b.variable(name, kind, (128, 4096)) for name, kind in (("A", "input"), ("B", "input"), ("C", "output")))

    def waits(**given: tuple[str, int]) -> Waits:
        return {semaphore: value for name, (semaphore, value) in given.items() if name != without and value > 0}

    def rows(variable: DramVariable, column: int) -> Operand:
        return dram(variable, 64 * column, (4096, 128), 64)

    for i in range(outer):
        a, bank, out = (64 * (i % 2) + start for start in (0, 0, 512))
        a_tile, o_tile, p_tile = sbuf(ROWS, a, 64), sbuf((0, 64), out, 64), psum((0, 64), bank, 64)
        load = waits(reuse_a=("pe", (i - 1) * inner))
        b.add("sp", "dma_copy", load, "q0", ring="q0", dst=a_tile, src=rows(x, i))
        for k in range(inner):
            n = i * inner + k
            b_tile = sbuf(ROWS, 128 + 64 * (n % 3), 64)
            b.add("sp", "dma_copy", waits(reuse_b=("pe", n - 2)), "q1", ring="q1", dst=b_tile, src=rows(w, n))
            needs = waits(load_b=("q1", n + 1), load_a=("q0", i + 1), bank=("act", i - 1 if k == 0 else 0))
            fields = {"accumulate": Affine(k)}
            b.add("pe", "nc_matmul", needs, "pe", fields=fields, dst=p_tile, stationary=a_tile, moving=b_tile)
        evict = waits(matmul=("pe", (i + 1) * inner), reuse_o=("q2", i - 1))
        b.add("act", "activation", evict, "act", dst=o_tile, data=p_tile)
        store = waits(evict=("act", i + 1))
        b.add("pool", "dma_copy", store, "q2", ring="q2", src=o_tile, dst=dram(y, 64 * i, (4096, 64), 64))
    return b


# With all its waits the example is free of races; without any one dependence it is not. With four inner iterations one
# is implied: the load of A comes after loads of B in its queue; the last of them waited for all of iteration i - 2.
@pytest.mark.parametrize(("inner", "implied"), [(2, []), (4, ["reuse_a"])])
def test_worked_example(inner: int, implied: list[str]):
    assert races(worked_example(6, inner)) == []
    dependences = ("load_a", "load_b", "bank", "reuse_a", "reuse_b", "matmul", "reuse_o", "evict")
    assert [name for name in dependences if not races(worked_example(6, inner, name))] == implied


# The report names both sides, what they do, and where they meet.
def test_report():
    program = dict(less_one_wait(matmul_relu()))["act 0 wait 0"]
    (race,) = races(program)
    assert (race.kind, race.memory, race.partitions, race.bytes) == ("write-read", "psum", (0, 128), (0, 2048))
    assert race.second is not None
    assert (race.first.engine, race.first.index, race.first.origin) == ("pe", 0, "MatMul_0")
    assert (race.second.engine, race.second.index, race.second.origin) == ("act", 0, "Relu_1")
    assert str(race) == (
        "nc_matmul of 'MatMul_0' (queue pe, entry 0, execution 1), which writes dst, and activation of 'Relu_1' "
        "(queue act, entry 0, execution 1), which reads data, are not ordered: bytes 0 to 2047 of psum"
    )


# Two engines that touch the same bytes in other partitions, other bytes, or only read, do not race.
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (sbuf((0, 64), 0, 8), sbuf((64, 64), 0, 8), []),
        (sbuf(ROWS, 0, 8), sbuf(ROWS, 8, 8), []),
        (sbuf(ROWS, 0, 8), sbuf(ROWS, 7, 8), ["write-write"]),
        (sbuf((0, 64), 0, 8), sbuf((32, 32), 4, 1), ["write-write"]),
        (sbuf(ROWS, 0, 8), sbuf(ROWS, 16, 4, dtype="bf16"), []),
        (sbuf(ROWS, 0, 8), sbuf(ROWS, 14, 4, dtype="bf16"), ["write-write"]),
        # A box goes from the first to the last element, gaps included.
        (sbuf(ROWS, 0, (4, 4)), sbuf(ROWS, 1, 1), ["write-write"]),
        (sbuf(ROWS, 12, (-4, 4)), sbuf(ROWS, 1, 1), ["write-write"]),
        (sbuf(ROWS, 0, 8), psum(ROWS, 0, 8), []),
    ],
)
def test_overlap(first: Operand, second: Operand, expected: list[str]):
    b = ProgramBuilder("trn1")
    b.add("dve", "memset", dst=first)
    if second.space == "psum":
        b.add("act", "activation", dst=second, data=sbuf((0, second.pattern.partitions), 2048, 8))
        assert kinds(b) == [*expected, "uninitialised"]
    else:
        b.add("pool", "memset", dst=second)
        assert kinds(b) == expected


# An earlier wait of the queue orders what comes later, transfers included; so does what the other side had waited for.
def test_order_is_transitive():
    b = ProgramBuilder()
    y = b.variable("y", "output", (128, 8))
    a, c = sbuf(ROWS, 0, 8), sbuf(ROWS, 8, 8)
    b.add("dve", "memset", signal="dve", dst=a)
    b.add("pool", "memset", {"dve": 1}, "pool", dst=c)
    b.add("act", "activation", {"pool": 1}, "act", dst=sbuf(ROWS, 16, 8), data=c)
    b.add("act", "activation", signal="act", dst=sbuf(ROWS, 24, 8), data=a)
    b.add("act", "dma_copy", ring="q", dst=dram(y, 0, (8, 128), 8), src=a)
    assert races(b) == []


# A signal says that everything before it in its stream is done, instructions without a signal included.
def test_streams_complete_in_order():
    b = ProgramBuilder()
    a = sbuf(ROWS, 0, 8)
    b.add("dve", "memset", dst=a)
    b.add("dve", "memset", signal="dve", dst=sbuf(ROWS, 8, 8))
    b.add("act", "activation", {"dve": 1}, dst=sbuf(ROWS, 16, 8), data=a)
    assert races(b) == []


# Transfers of one ring are in order; of two rings, or triggered by two engines, they are not.
@pytest.mark.parametrize(
    ("second", "expected"), [(("sp", "q0"), []), (("sp", "q1"), ["write-write"]), (("pool", "q0"), ["write-write"])]
)
def test_rings(second: tuple[str, str], expected: list[str]):
    b = ProgramBuilder()
    x = b.variable("x", "input", (128, 8))
    for engine, ring in (("sp", "q0"), second):
        b.add(engine, "dma_copy", ring=ring, dst=sbuf(ROWS, 0, 8), src=dram(x, 0, (8, 128), 8))
    assert kinds(b) == expected


# DRAM scratch: disjoint ranges of a variable are apart, overlapping ones are not, and two variables never meet.
@pytest.mark.parametrize(("offset", "expected"), [(512, []), (511, ["write-read"]), (None, [])])
def test_dram(offset: int | None, expected: list[str]):
    b = ProgramBuilder()
    first, other = b.variable("t", "tmp", (2048,)), b.variable("u", "tmp", (2048,))
    b.add("dve", "memset", signal="dve", dst=sbuf((0, 1), 0, 512))
    b.add("sp", "dma_copy", {"dve": 1}, ring="q0", src=sbuf((0, 1), 0, 512), dst=dram(first, 0, 512))
    source = dram(other, 0, 512) if offset is None else dram(first, offset, 512)
    b.add("pool", "dma_copy", ring="q1", dst=sbuf((0, 1), 1024, 512), src=source)
    assert kinds(b) == expected


# The table of a gather is all its rows.
def test_gather_reads_the_whole_table():
    b = ProgramBuilder()
    table, index = b.variable("t", "tmp", (16, 8)), sbuf((0, 4), 0, 1, dtype="i32")
    b.add("dve", "memset", signal="dve", dst=sbuf((0, 4), 0, 64))
    b.add("sp", "dma_copy", {"dve": 1}, ring="q0", src=sbuf((0, 1), 8, 8), dst=dram(table, 120, 8))
    b.add(
        "pool", "dma_gather", {"dve": 1}, ring="q1", fields={"rows": 16, "row_stride": 8},
        dst=sbuf((0, 4), 32, 8), table=dram(table, 0, 8), indices=index,
    )  # fmt: skip
    assert kinds(b) == ["write-read"]


# -- memory that nobody wrote ------------------------------------------------------------------------------------------


def test_uninitialised():
    b = ProgramBuilder()
    b.add("dve", "memset", dst=sbuf((0, 32), 0, 8))
    b.add("dve", "tensor_copy", dst=sbuf((0, 64), 16, 8), data=sbuf((0, 64), 0, 8), origin="Add_2")
    (race,) = races(b)
    assert (race.kind, race.second, race.memory, race.partitions, race.bytes) == (
        "uninitialised", None, "sbuf", (0, 64), (0, 32),
    )  # fmt: skip
    assert str(race) == (
        "tensor_copy of 'Add_2' (queue dve, entry 1, execution 2) reads data from bytes 0 to 31 of sbuf, "
        "which nothing has written in full before"
    )


# It is exact: reading every second element that was written is fine, reading the gaps is not; types do not matter.
@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (sbuf(ROWS, 0, (2, 8)), []),
        (sbuf(ROWS, 1, (2, 8)), ["uninitialised"]),
        (sbuf(ROWS, 0, 15), ["uninitialised"]),
        (sbuf(ROWS, 0, (4, 8), 2, dtype="bf16"), []),
        (sbuf(ROWS, 0, (4, 8), 3, dtype="bf16"), ["uninitialised"]),
    ],
)
def test_strided_initialisation(read: Operand, expected: list[str]):
    b = ProgramBuilder()
    b.add("dve", "memset", dst=sbuf(ROWS, 0, (2, 8)))
    count = read.pattern.free_elements
    b.add("dve", "tensor_copy", dst=sbuf(ROWS, 64, count, dtype=read.dtype), data=read)
    assert kinds(b) == expected


# A matmul that overwrites does not read its bank, one that accumulates does.
@pytest.mark.parametrize(("accumulate", "expected"), [(0, []), (1, ["uninitialised"])])
def test_accumulating_into_nothing(accumulate: int, expected: list[str]):
    b = ProgramBuilder()
    b.add("dve", "memset", signal="dve", dst=sbuf(ROWS, 0, 128))
    tile = sbuf(ROWS, 0, 128)
    fields = {"accumulate": Affine(accumulate)}
    b.add("pe", "nc_matmul", {"dve": 1}, fields=fields, dst=psum(ROWS, 0, 128), stationary=tile, moving=tile)
    assert kinds(b) == expected


# -- semaphores of several streams -------------------------------------------------------------------------------------


def _two_producers(needed: int) -> ProgramBuilder:
    """dve and pool each write a tile and increment one semaphore; act reads dve's tile after `needed` increments."""
    b = ProgramBuilder()
    b.add("dve", "memset", signal="both", dst=sbuf(ROWS, 0, 8))
    b.add("pool", "memset", signal="both", dst=sbuf(ROWS, 8, 8))
    b.add("act", "activation", {"both": needed}, dst=sbuf(ROWS, 16, 8), data=sbuf(ROWS, 0, 8))
    return b


# One increment may be the other producer's; two can only be both.
def test_two_producers():
    assert kinds(_two_producers(1)) == ["write-read"]
    assert races(_two_producers(2)) == []


# A barrier that is used round after round: what the producers will signal later cannot have counted earlier.
@pytest.mark.parametrize(("per_round", "expected"), [(2, []), (1, ["write-read"])])
def test_barrier_in_a_loop(per_round: int, expected: list[str]):
    b, rounds = ProgramBuilder(), 5

    def loop(engine: str, start: int, step: int, waits: Waits, **entry: Any) -> None:
        b.control(engine, "reg_move", 0, 0)
        b.control(engine, "reg_move", 1, start)
        body = b.add(engine, waits=waits, **entry)
        b.control(engine, "reg_add", 1, 1, step)
        b.control(engine, "reg_add", 0, 0, 1)
        b.control(engine, "branch_less", 0, rounds, body)

    loop("dve", 0, 1, {"act": reg(1)}, name="memset", signal="both", dst=sbuf(ROWS, 0, 8))
    loop("pool", 0, 1, {"act": reg(1)}, name="memset", signal="both", dst=sbuf(ROWS, 8, 8))
    reads = {"name": "activation", "dst": sbuf(ROWS, 16, 16), "data": sbuf(ROWS, 0, 16)}
    loop("act", per_round, 2, {"both": reg(1)}, signal="act", **reads)
    found = kinds(b)
    assert sorted(set(found)) == sorted(set(expected)) if not expected else found[0] in ("write-read", "read-write")


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_deadlock_is_reported():
    b = ProgramBuilder()
    b.add("dve", "memset", {"act": 1}, "dve", origin="Add_1", dst=sbuf(ROWS, 0, 8))
    b.control("act", "wait", waits={"dve": 1}, signal="act")
    (race,) = races(b)
    assert race.kind == "deadlock"
    assert race.first.origin == "Add_1"
    assert race.message == "streams wait for ever: dve at entry 0 for act >= 1; act at entry 0 for dve >= 1"


# A control instruction may signal; it does so at once, not behind its engine's instructions.
def test_control_signals_do_not_wait_for_the_datapath():
    b = ProgramBuilder()
    b.add("dve", "memset", dst=sbuf(ROWS, 0, 8))
    b.control("dve", "wait", signal="dve")
    b.add("act", "activation", {"dve": 1}, dst=sbuf(ROWS, 16, 8), data=sbuf(ROWS, 0, 8))
    assert kinds(b) == ["write-read"]


# One report for a pair of entries however often a loop executes them, and no more than asked for.
def test_reports_are_limited():
    b = ProgramBuilder()
    for engine in ("dve", "pool"):
        body = b.here(engine)
        for block in range(4):
            b.add(engine, "memset", dst=sbuf(ROWS, 8 * block, 8))
        b.control(engine, "reg_add", 0, 0, 1)
        b.control(engine, "branch_less", 0, 10, body)
    assert len(races(b)) == 4
    assert len(check_races(b.program(), TARGET, limit=3)) == 3


# 20,000 instructions with 3 accesses each are checked in seconds, and four times as many in about four times the time.
# The least of three runs counts: one collection of garbage takes as long as the short check.
def test_time_is_linear():
    def seconds(tiles: int) -> float:
        program = rotating_scale(tiles, 4, 1)
        gc.collect()
        started = time.process_time()
        assert check_races(program, TARGET) == []
        return time.process_time() - started

    short, long = (min(seconds(tiles) for _ in range(3)) for tiles in (1500, 6000))
    assert long < 8 * short
    assert long < 6


def test_vector_clocks():
    clocks = VectorClocks(sequencers=2, streams=2)
    assert clocks.issue(0, 0) == 1
    assert clocks.issue(0, 0) == 2
    assert clocks.known(0) == (0, 0)
    clocks.observe(1, 0, 1)
    assert clocks.known(1) == (1, 0)
    # The second sequencer's piece starts after piece 1 of stream 0: who knows of it knows of that, too.
    assert clocks.issue(1, 1) == 1
    clocks.observe(0, 1, 1)
    assert clocks.known(0) == (1, 1)
    clocks.observe(0, 0, 1)
    assert clocks.known(0) == (1, 1)
