"""Random programs: the race check against its definition, and against streams that run in any order."""

import dataclasses
import random
from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_dialects.access import Affine
from neuron_dialects.isa.program import CoreProgram, QueueEntry
from neuron_dialects.target import load_target
from runtime.machine import Machine
from runtime.machine.decode import Access, Entry, decode_program
from runtime.races import check_races
from tests.runtime.core_programs import ProgramBuilder, dram, sbuf

TARGET = load_target("trn1")
BLOCKS, BLOCK = 4, 4
ROWS = ((0, 128), (0, 64), (64, 64), (32, 32))


@st.composite
def programs(draw: st.DrawFn, shared: bool) -> CoreProgram:
    """Up to 12 instructions on three engines and two rings over a few blocks of SBUF, with waits that point back.

    Every stream signals its own semaphore; with `shared`, some of it another one that all have in common. At the end
    everything is stored to `y` once all of it is done.
    """
    b = ProgramBuilder()
    y = b.variable("y", "output", (128, BLOCKS * BLOCK))
    counts: dict[str, int] = {}
    everything = sbuf((0, 128), 0, BLOCKS * BLOCK)
    b.add("pool", "memset", signal="pool", fields={"value": 1.0}, dst=everything)
    counts["pool"] = 1
    careless = draw(st.integers(0, 3)) == 0
    for number in range(draw(st.integers(2, 12))):
        engine = draw(st.sampled_from(["dve", "act", "pool", "sp"]))
        ring = draw(st.sampled_from(["q0", "q1"])) if engine == "sp" else None
        stream = ring or engine
        # The first wait keeps the program's own initialisation out of the way.
        waits: dict[str, int] = {"pool": 1}
        for name, count in counts.items():
            least = draw(
                st.sampled_from([0, 0, 1, count - 1] if careless else [0, count - 1, count, count, count, count])
            )
            waits[name] = max(waits.get(name, 0), least)
        signal = "common" if shared and draw(st.integers(0, 2)) == 0 else stream
        counts[signal] = counts.get(signal, 0) + 1
        rows, width = draw(st.sampled_from(ROWS)), draw(st.integers(1, 2))
        places = [BLOCK * draw(st.integers(0, BLOCKS - width)) for _ in range(2)]
        dst, data = (sbuf(rows, place, BLOCK * width) for place in places)
        if ring is not None:
            b.add(engine, "dma_copy", waits, signal, ring=ring, dst=dst, src=data)
        elif engine == "act":
            b.add(engine, "activation", waits, signal, fields={"scale": float(number + 2)}, dst=dst, data=data)
        elif draw(st.booleans()):
            fields = {"op0": "add", "scalar0": float(number + 2)}
            b.add(engine, "tensor_scalar", waits, signal, fields=fields, dst=dst, data=data)
        else:
            b.add(engine, "memset", waits, signal, fields={"value": float(number + 2)}, dst=dst)
    target = dram(y, 0, (BLOCKS * BLOCK, 128), BLOCKS * BLOCK)
    b.add("sp", "dma_copy", dict(counts), ring="q9", dst=target, src=everything)
    return b.program()


def instructions(program: CoreProgram) -> list[Entry]:
    """All entries with an instruction, in the order of the queues."""
    return [e for queue in decode_program(program, TARGET).queues.values() for e in queue if e.instruction]


def conflict(a: Entry, b: Entry) -> bool:
    """Whether two entries touch the same memory and one of them writes it."""

    def meet(x: Access, y: Access) -> bool:
        same = x.memory == y.memory and (x.writes or y.writes)
        bytes_meet = x.low < y.high and y.low < x.high
        return same and bytes_meet and x.first_partition < y.last_partition and y.first_partition < x.last_partition

    return any(meet(x, y) for x in a.accesses for y in b.accesses)


def racing_pairs(program: CoreProgram) -> set[frozenset[tuple[str, int]]]:
    """Racing pairs by definition: paths in the graph of what must come before what. Semaphores have one stream each."""
    queues = decode_program(program, TARGET).queues
    # Nodes: ("at", entry): its waits are over; ("start", entry) and ("end", entry).
    edges: dict[tuple[str, int], set[tuple[str, int]]] = {}
    signals: dict[int, list[int]] = {}
    last: dict[str, int] = {}
    entries: dict[int, Entry] = {}
    for queue in queues.values():
        before = None
        for entry in queue:
            key = id(entry)
            entries[key] = entry
            edges.setdefault(("at", key), set()).add(("start", key))
            edges.setdefault(("start", key), set()).add(("end", key))
            if before is not None:
                edges[("at", before)].add(("at", key))
            before = key
            if entry.instruction is None:
                continue
            stream = entry.ring or entry.engine
            if stream in last:
                edges.setdefault(("end", last[stream]), set()).add(("start", key))
            last[stream] = key
            signals.setdefault(entry.signal, []).append(key)
    for key, entry in entries.items():
        for semaphore, value, _ in entry.waits:
            if value > 0:
                edges.setdefault(("end", signals[semaphore][value - 1]), set()).add(("at", key))

    def reached(source: tuple[str, int]) -> set[tuple[str, int]]:
        seen, pending = {source}, [source]
        while pending:
            for following in edges.get(pending.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    pending.append(following)
        return seen

    after = {key: reached(("end", key)) for key in entries}
    found: set[frozenset[tuple[str, int]]] = set()
    for a, first in entries.items():
        for b, second in entries.items():
            ordered = ("start", b) in after[a] or ("start", a) in after[b]
            if a != b and conflict(first, second) and not ordered:
                found.add(frozenset({(first.engine, first.index), (second.engine, second.index)}))
    return found


# What is reported is a race by definition, and something is reported whenever there is one.
@settings(max_examples=150)
@given(programs(shared=False))
def test_the_check_agrees_with_the_definition(program: CoreProgram):
    expected = racing_pairs(program)
    found = {
        frozenset({(race.first.engine, race.first.index), (race.second.engine, race.second.index)})
        for race in check_races(program, TARGET)
        if race.second is not None
    }
    assert found <= expected
    assert bool(found) == bool(expected)


class AnyOrder:
    """Runs a program's streams in a random order that semaphores, queues and streams allow.

    Memory holds, for each box of partitions x bytes, who wrote it last and from what: equal memories mean equal values.
    """

    def __init__(self, program: CoreProgram, chooser: random.Random) -> None:
        self.queues = [[e for e in queue if e.instruction] for queue in decode_program(program, TARGET).queues.values()]
        self.chooser, self.counts = chooser, [0] * len(program.semaphores)
        self.issued: dict[str, list[Entry]] = {}
        self.running: dict[str, tuple[Entry, object]] = {}
        self.memory: dict[tuple[int, int], object] = {}

    def cells(self, access: Access) -> list[tuple[int, int]]:
        """Quarters of the partitions x blocks that an access covers."""
        if access.memory != "sbuf":
            return []
        rows = range(access.first_partition // 32, access.last_partition // 32)
        return [(row, block) for row in rows for block in range(access.low // (4 * BLOCK), access.high // (4 * BLOCK))]

    def choices(self) -> Iterator[tuple[str, str]]:
        """What may happen next."""
        for position, queue in enumerate(self.queues):
            if queue and all(self.counts[semaphore] >= value for semaphore, value, _ in queue[0].waits):
                yield "issue", str(position)
        for stream, entries in self.issued.items():
            if stream in self.running:
                yield "complete", stream
            elif entries:
                yield "start", stream

    def run(self) -> dict[tuple[int, int], object]:
        """The final memory."""
        while options := list(self.choices()):
            kind, where = self.chooser.choice(options)
            if kind == "issue":
                entry = self.queues[int(where)].pop(0)
                self.issued.setdefault(entry.ring or entry.engine, []).append(entry)
            elif kind == "start":
                entry = self.issued[where].pop(0)
                read = tuple(self.memory.get(c) for a in entry.accesses if a.reads for c in self.cells(a))
                self.running[where] = entry, hash((entry.engine, entry.index, read))
            else:
                entry, value = self.running.pop(where)
                self.memory.update({c: (value, c) for a in entry.accesses if a.writes for c in self.cells(a)})
                self.counts[entry.signal] += 1
        assert not any(self.queues)
        return self.memory


# A program that passes gives the same values in whatever order its streams run; semaphores of several streams included.
@settings(max_examples=150)
@given(programs(shared=True), st.integers(0, 2**32))
def test_programs_that_pass_are_deterministic(program: CoreProgram, seed: int):
    if check_races(program, TARGET):
        return
    chooser = random.Random(seed)
    expected = AnyOrder(program, chooser).run()
    for _ in range(5):
        assert AnyOrder(program, chooser).run() == expected


def in_one_queue(program: CoreProgram) -> Iterator[QueueEntry]:
    """The entries in one order that the semaphores allow."""
    queues, counts = {e: list(q) for e, q in program.queues.items()}, [0] * len(program.semaphores)
    while any(queues.values()):
        for queue in queues.values():
            while queue and all(counts[semaphore] >= value.constant for semaphore, value in queue[0].waits):
                entry = queue.pop(0)
                counts[entry.signal or 0] += entry.signal is not None
                yield entry


# On the machine, a program that passes computes what its instructions give one after the other.
@settings(max_examples=40)
@given(programs(shared=True))
def test_programs_that_pass_are_right_on_the_machine(program: CoreProgram):
    if check_races(program, TARGET):
        return
    # One at a time: each entry waits for everything before it.
    serial: dict[str, list[QueueEntry]] = {engine: [] for engine in program.queues}
    for number, entry in enumerate(in_one_queue(program)):
        engine = next(e for e, queue in program.queues.items() if any(entry is own for own in queue))
        serial[engine].append(dataclasses.replace(entry, waits=((0, Affine(number)),), signal=0))
    ordered = dataclasses.replace(program, queues=serial)
    expected = Machine(ordered, TARGET).run({}, {}).outputs["y"]
    assert np.array_equal(Machine(program, TARGET).run({}, {}).outputs["y"], expected)
