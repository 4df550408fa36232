"""Pure arithmetic of attention: which heads share a PSUM bank or a tile of partitions, and tiles of queries."""

from dataclasses import dataclass
from math import ceil, lcm

from lowering.graph_to_tile.tensors import LANES
from neuron_dialects.access import Affine
from neuron_dialects.graph.attention import packs_heads
from neuron_dialects.target import Target


@dataclass(frozen=True)
class HeadGroups:
    """How heads are taken together. Pure arithmetic.

    `group`: heads whose scores share a PSUM bank. `period`: heads after which the places of heads within tiles of 128
    partitions, and the sharing of key heads, repeat; a multiple of `group`.
    """

    group: int
    period: int

    @staticmethod
    def plan(heads: int, kv_heads: int, size: int, value_size: int, keys: int, bank: int) -> "HeadGroups":
        """Groups of `heads` query heads of `size` elements over `keys` keys; `bank` f32 elements fill a PSUM bank."""
        most = max(1, min(bank // min(keys, bank), bank // value_size))
        group = max(n for n in range(1, min(heads, most) + 1) if heads % n == 0)
        per_tile = heads_per_tile(size)
        period = lcm(group, per_tile, heads // kv_heads * per_tile)
        return HeadGroups(group, period)


def heads_per_tile(size: int) -> int:
    """Heads of `size` elements that share a tile of 128 partitions; one where they cannot be packed, or fill tiles."""
    return LANES // size if packs_heads(size) and size < LANES else 1


def heads_together(group: int, value_size: int) -> int:
    """Heads whose values fill whole tiles of partitions, a group or several; 0 where none do."""
    elements = group * value_size
    return group * max(1, LANES // elements) if elements % LANES == 0 or LANES % elements == 0 else 0


def even_tiles(extent: int, most: int) -> tuple[int, int, int] | None:
    """(number, size, step) of as few tiles of one size as cover `extent`, overlapping where they must; None if none do.

    What lies in two tiles is computed twice, with the same result, and one loop serves all tiles.
    """
    count = ceil(extent / most)
    if count == 1:
        return 1, extent, 0
    sizes = range(ceil(extent / count), most + 1)
    return next(((count, n, (extent - n) // (count - 1)) for n in sizes if (extent - n) % (count - 1) == 0), None)


@dataclass(frozen=True)
class PlanFigures:
    """One head of a tile of queries: `rows` queries, all `keys` of its sequence, `value_size` elements of a value.

    `masked`: a mask is added to its scores. `shifted`: their maxima are not asked for.
    """

    rows: int
    keys: int
    value_size: int
    masked: bool = False
    shifted: bool = False


def sequences_together(batch: int, units: int, least: int, most: int) -> int | None:
    """The fewest sequences of `units` units each, a divisor of `batch`, that have `least` to `most`; None if none."""
    numbers = (n for n in range(1, batch + 1) if batch % n == 0)
    return next((n for n in numbers if least <= n * units <= most), None)


def keys_pay(figures: PlanFigures, target: Target) -> bool:
    """Whether scores that are made twice, the second time with keys on partitions, cost less than turning the powers.

    Both are estimated by the busiest of the tensor engine and what reads PSUM: one port where the engines share it.
    """
    rows, keys, size = figures.rows, figures.keys, figures.value_size
    tiles, least = ceil(keys / LANES), int(target.min_issue_cycles)
    turned, context = tiles * rows, tiles * max(least, size)

    def busiest(pe: int, act: int, dve: int) -> float:
        readers = (act / target.clock_ghz("act"), dve / target.clock_ghz("dve"))
        return max(pe / target.clock_ghz("pe"), sum(readers) if target.shared_psum_port else max(readers))

    # A mask is added by the array in both orders; else by dve, as scores leave PSUM.
    masks = keys + turned if figures.masked else 0
    if figures.shifted:
        once = busiest(turned + context, turned, size)
        return once < busiest(keys + turned + context, keys + least + turned, keys + size)
    twice = busiest(keys + 2 * turned + context + tiles * least + masks, turned, keys + size + least)
    return twice < busiest(keys + turned + context, keys + least + turned, keys + size)


@dataclass(frozen=True)
class Tile:
    """Queries `start` to `start + rows` of a sequence; they see its first `keys` keys."""

    start: Affine
    rows: int
    keys: int


@dataclass(frozen=True)
class HeadGroup:
    """`group` heads from head `turn * period + first` on, of one tile of queries; `last` of that tile or not."""

    tile: Tile
    turn: Affine
    period: int
    first: int
    group: int
    last: bool

    @property
    def head(self) -> Affine:
        """The first head."""
        return self.turn * self.period + self.first


LEAST_UNITS, MOST_UNITS = 4, 16
"""Units of an iteration over several short sequences: so many that its stages overlap, and at most so many."""


def sequences_in_iteration(sequences: int, period: int, units: int) -> int:
    """How many of `sequences` sequences of `units` units each one iteration works on.

    It is a multiple of `period`, after which masks repeat, or a divisor of it: then a loop goes over each period.
    """
    whole = [n for n in range(period, sequences + 1, period) if sequences % n == 0]
    chosen = next((n for n in whole if n * units >= LEAST_UNITS), whole[-1])
    if chosen * units <= MOST_UNITS or period == 1:
        return chosen
    parts = [n for n in range(1, period + 1) if period % n == 0]
    return next((n for n in parts if n * units >= LEAST_UNITS), period)
