"""Which tables of a recommender stay on chip, and on which cores of gpsimd: plain arithmetic on sizes.

One instruction of gpsimd gathers rows for all of its cores, and takes as long for one core as for eight. `local_groups`
weighs that time against that of the DMA, which fetches the rows of the other tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.cost import issue_ns
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.isa.limits import CORE_PARTITIONS, GATHERED_ELEMENTS, MAX_LOCAL_INDICES, MAX_SIZE
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES

TABLE_SHARE = 0.25
"""Part of SBUF that tables may take."""

USABLE_SHARE = 0.7
"""Part of SBUF that resident tensors and tables take together; the rest is for rows in passing, and for what is loaded
for the next kernels.
"""

MOST_ROUNDS = 8
"""Instructions for 128 samples."""


@dataclass(frozen=True)
class Lookup:
    """`count` rows for each sample, of `width` elements of type `dtype`, of a table of `rows`; `packs`: whether the
    table can be laid out as it is wanted when the program is made.
    """

    rows: int
    count: int
    width: int
    dtype: str
    packs: bool = True

    @property
    def elements(self) -> int:
        """Elements of a row on each partition of a core."""
        return self.width // CORE_PARTITIONS

    @property
    def row_bytes(self) -> int:
        """Bytes of a row on each partition of a core."""
        return self.elements * dtype_by_name(self.dtype).size_bytes

    def is_local(self, target: Target) -> bool:
        """Whether gpsimd can gather the rows, of whole tiles of samples."""
        return (
            self.packs
            and self.dtype in target.matmul_dtypes
            and self.width % CORE_PARTITIONS == 0
            and self.elements in GATHERED_ELEMENTS
            and held_rows(self.rows, _cores(target)) * self.elements <= MAX_SIZE
            and self.count * LANES <= MAX_LOCAL_INDICES
            and self.width * 4 <= int(target.psum_bank_bytes)
        )


@dataclass(frozen=True)
class Share:
    """Lookup `number`, whose table lies on so many `cores`."""

    number: int
    cores: int


Group = tuple[Share, ...]
"""What one instruction gathers from, core by core."""


def held_rows(rows: int, cores: int) -> int:
    """Rows that each of some cores holds of a table: a part of them and, where these are several, one of zeros."""
    return ceil(rows / cores) + int(cores > 1)


def local_groups(lookups: Sequence[Lookup], samples: int, room_bytes: int, target: Target) -> list[Group]:
    """The lookups whose rows gpsimd gathers, by the instruction that does so; `room_bytes`: what tables may take of a
    partition.

    The smallest tables of each kind, as many as take the busiest of the DMA, which fetches the rows of the others, and
    of what takes turns with gpsimd, the vector engine, which adds them up, the least time.
    """
    tiles = samples // LANES
    if "pool" not in target.compute_engines or "local_gather" in target.unsupported_instructions or not tiles:
        return []
    dma = sum(tiles * _fetched_ns(lookup, target) for lookup in lookups)
    vector = sum(tiles * _added_ns(lookup, target) for lookup in lookups)
    found: list[Group] = []
    for numbers in _kinds(lookups, target):
        best: tuple[float, int, float, float, list[Group]] = (max(dma, vector), 0, dma, vector, [])
        for count in range(1, len(numbers) + 1):
            here = [lookups[number] for number in numbers[:count]]
            fetched = dma - sum(tiles * _fetched_ns(lookup, target) for lookup in here)
            adding = vector - sum(tiles * _added_ns(lookup, target) for lookup in here)
            for rounds in range(ceil(count / _together(here[0], target)), MOST_ROUNDS + 1):
                busy = adding + tiles * rounds * _gathered_ns(here[0], target)
                groups = _packed(lookups, numbers[:count], rounds, target) or []
                taken = sum(_group_bytes(lookups, group) for group in groups)
                after = fetched + sum(_loaded_ns(lookups, group, tiles, target) for group in groups)
                plan = (max(after, busy), taken, after, busy, groups)
                if groups and taken <= room_bytes and plan[:2] < best[:2]:
                    best = plan
        _, taken, dma, vector, groups = best
        room_bytes -= taken
        found += groups
    return found


def _cores(target: Target) -> int:
    """Cores of gpsimd whose lanes one product adds up."""
    return min(LANES, int(target.pe_columns)) // CORE_PARTITIONS


def _together(lookup: Lookup, target: Target) -> int:
    """Tables of one kind that one instruction gathers from at most: their sums share a PSUM bank."""
    return min(_cores(target), int(target.psum_bank_bytes) // (4 * lookup.width))


def _kinds(lookups: Sequence[Lookup], target: Target) -> list[list[int]]:
    """Lookups that one instruction can serve, those in the smallest tables first."""
    kinds: dict[tuple[int, int, str], list[int]] = {}
    for number in sorted(range(len(lookups)), key=lambda n: lookups[n].rows):
        lookup = lookups[number]
        if lookup.is_local(target):
            kinds.setdefault((lookup.count, lookup.width, lookup.dtype), []).append(number)
    return list(kinds.values())


def _packed(lookups: Sequence[Lookup], numbers: Sequence[int], rounds: int, target: Target) -> list[Group] | None:
    """Lookups of one kind in so many groups; None where there is no place for all of them.

    Cores that are left over go to the tables of which one core would hold the most rows.
    """
    together, most = _together(lookups[numbers[0]], target), _cores(target)
    cores = dict.fromkeys(numbers, 1)

    def held(number: int) -> int:
        return held_rows(lookups[number].rows, cores[number])

    for _ in range(rounds * most - len(numbers)):
        largest = max(numbers, key=held)
        if cores[largest] < most:
            cores[largest] += 1
    groups: list[list[Share]] = [[] for _ in range(rounds)]
    for number in sorted(numbers, key=lambda n: (-held(n), n)):
        left = [most - sum(share.cores for share in group) if len(group) < together else 0 for group in groups]
        place = next((i for i, free in enumerate(left) if free >= cores[number]), left.index(max(left)))
        if not left[place]:
            return None
        groups[place].append(Share(number, min(cores[number], left[place])))
    if any(
        held_rows(lookups[s.number].rows, s.cores) * lookups[s.number].elements > MAX_SIZE for g in groups for s in g
    ):
        return None
    return [tuple(group) for group in groups if group]


def _group_bytes(lookups: Sequence[Lookup], group: Group) -> int:
    """Bytes of a partition that the tables of a group take."""
    return max(held_rows(lookups[s.number].rows, s.cores) * lookups[s.number].row_bytes for s in group)


def _fetched_ns(lookup: Lookup, target: Target) -> float:
    """DMA time for the rows of 128 samples."""
    return lookup.count * float(target.dma_stagger_ns) * int(target.dma_engines)


def _loaded_ns(lookups: Sequence[Lookup], group: Group, tiles: int, target: Target) -> float:
    """DMA time for the tables of a group, and for their indices on each core."""
    rate, each = target.dma_rate_bytes_per_ns, float(target.dma_descriptor_ns) / int(target.dma_engines)
    tables = sum(CORE_PARTITIONS * lookups[s.number].rows * lookups[s.number].row_bytes for s in group) / rate
    return tables + sum(s.cores for s in group) * tiles * LANES * each


def _added_ns(lookup: Lookup, target: Target) -> float:
    """Time of the vector engine to add them up."""
    return max(int(target.min_issue_cycles), lookup.count * lookup.width) / target.clock_ghz("dve")


def _gathered_ns(lookup: Lookup, target: Target) -> float:
    """Time of gpsimd for the rows of 128 samples in all tables of a group of such lookups."""
    count, elements = LANES * lookup.count, lookup.elements

    def tile(dtype: str, size: int) -> Operand:
        return Operand("sbuf", dtype, AccessPattern(Affine(), LANES, Affine(), ((1, size),)))

    operands = {
        "dst": tile(lookup.dtype, count * elements),
        "data": tile(lookup.dtype, elements),
        "indices": tile("ui16", count // CORE_PARTITIONS),
    }
    return issue_ns(Instruction("local_gather", "pool", operands, {"elements": elements}), target)
