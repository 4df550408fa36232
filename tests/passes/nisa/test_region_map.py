"""The memory of earlier accesses: what a later one must still look at, and what it need not."""

from neuron_dialects.access import Affine
from neuron_dialects.isa import Instruction
from passes.nisa.memory_access import Access, Region
from passes.nisa.program_tree import Loop, Slot, Statement
from passes.nisa.region_map import RegionMap


def access(
    number: int,
    low: int,
    high: int,
    writes: bool = True,
    engine: str = "act",
    partitions: tuple[int, int] = (0, 127),
) -> Access:
    """An access of statement `number`, on `engine`, to bytes low to high of all partitions."""
    statement = Statement(number, Instruction("memset", engine, {}), engine)
    return Access(statement, "sbuf", writes, *partitions, Affine(low), 0, high - low, 0)


def remembered(map_: RegionMap, low: int, high: int) -> list[int]:
    """Statement numbers of the accesses that touch bytes low to high."""
    return sorted(a.statement.number for a in map_.touching([Region(low, high, True)]))


# A write takes the place of everything that it covers, and of nothing else.
def test_a_write_replaces_what_it_covers() -> None:
    map_ = RegionMap()
    map_.enter([access(0, 0, 99)])
    map_.enter([access(1, 0, 49, writes=False, engine="pe")])
    map_.enter([access(2, 0, 63)])
    assert remembered(map_, 0, 63) == [2]
    assert remembered(map_, 64, 99) == [0]
    assert remembered(map_, 0, 99) == [0, 2]
    assert remembered(map_, 100, 200) == []


# Reads stay beside the write that they follow; a later read of the same stream replaces an earlier one.
def test_reads_of_one_stream_replace_each_other() -> None:
    map_ = RegionMap()
    map_.enter([access(0, 0, 99)])
    for number, engine in enumerate(["pe", "act", "pe", "act"], start=1):
        map_.enter([access(number, 0, 99, writes=False, engine=engine)])
    assert remembered(map_, 0, 99) == [0, 3, 4]


# A write of half of the partitions does not cover one of all of them.
def test_partitions_must_be_covered() -> None:
    map_ = RegionMap()
    map_.enter([access(0, 0, 99)])
    map_.enter([access(1, 0, 99, partitions=(0, 63))])
    assert remembered(map_, 0, 99) == [0, 1]


# Accesses of one statement do not replace each other: its iterations interleave them.
def test_accesses_of_one_nest_stay() -> None:
    map_ = RegionMap()
    map_.enter([access(0, 0, 99), access(1, 0, 99)])
    assert remembered(map_, 0, 99) == [0, 1]


# A loop covers a region when its blocks adjoin, and does not when there are gaps.
def test_regions_of_loops() -> None:
    loop = Loop(0, 4)
    statement = Statement(0, Instruction("memset", "dve", {}), "dve", loops=(loop,))

    def block(step: int) -> Access:
        return Access(statement, "sbuf", True, 0, 127, Affine.of(100, {0: step}), 0, 7, 0)

    assert block(8).regions == [Region(100, 131, True)]
    assert block(16).regions == [Region(100, 155, False)]
    assert block(-8).regions == [Region(76, 107, True)]


# A rotating buffer has a region for each copy that is used: two executions use two of three copies.
def test_regions_of_copies() -> None:
    loop = Loop(0, 2)
    statement = Statement(0, Instruction("memset", "dve", {}), "dve", loops=(loop,))
    slot = Slot(1, 3, (loop,))
    rotating = Access(statement, "sbuf", True, 0, 127, Affine(64), 0, 31, 0, slot, 64)
    assert rotating.regions == [Region(64, 95, True), Region(128, 159, True)]
