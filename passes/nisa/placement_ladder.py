"""Which algorithm places the occupants of a memory: a ladder from the quickest to the most thorough.

1. `greedy`: several orders, first fit and best fit (`allocation`). It is enough where there is room to spare.
2. `search`: canonical placements, in bounded steps (`canonical_placement`). It fills a memory to the last piece.
3. `exact`: a constraint solver (`exact_placement`), which may be asked for where it is installed.

A rung is tried only where those below found nothing that fits. What none of them can place has to give way: copies of
rotating buffers first, then buffers that are spilled, which `memory_plan` decides. Where memory allows it, addresses
are spread after that, so that transfers need not wait for whoever used a place just now.
"""

from __future__ import annotations

from collections.abc import Sequence

from passes.nisa.allocation import Interval, Placement, place_spread, place_tight
from passes.nisa.canonical_placement import SearchResult, search_placement
from passes.nisa.exact_placement import place_exactly

RUNGS = ("greedy", "search", "exact")
"""From the quickest to the most thorough."""

DEFAULT_RUNG = "search"


def place(
    intervals: Sequence[Interval], capacity: int, highest: str = DEFAULT_RUNG, tightest: bool = True
) -> Placement:
    """Offsets for all intervals: spread over the whole capacity if that works, else from the lowest rung that fits.

    `highest`: the last rung that is tried. Unless the `tightest` is asked for, `needed` may be more than greedy orders
    would find. With misfits: the tightest placement of the greedy orders. NeuronError NX-PASS-004 where the solver is
    needed and not installed.
    """
    tight = climb(intervals, capacity, highest, tightest)
    if tight.misfits:
        return tight
    spread = place_spread(intervals, capacity)
    return tight if spread is None else Placement(spread, tight.needed, (), tight.rung)


def climb(
    intervals: Sequence[Interval], capacity: int, highest: str = DEFAULT_RUNG, tightest: bool = True
) -> Placement:
    """The placement of the lowest rung that fits, or that of the greedy orders with its misfits."""
    greedy = place_tight(intervals, capacity, tightest)
    if not greedy.misfits or highest == "greedy":
        return greedy
    found, rung = search_placement(intervals, capacity), "search"
    if found.offsets is None and not found.proved and highest == "exact":
        hint = [greedy.offsets[i.key] for i in intervals]
        found, rung = place_exactly(intervals, capacity, hint), "exact"
    if found.offsets is None:
        return Placement(greedy.offsets, greedy.needed, greedy.misfits, rung, found.proved)
    return _placed(intervals, found, rung)


def _placed(intervals: Sequence[Interval], found: SearchResult, rung: str) -> Placement:
    assert found.offsets is not None
    pairs = list(zip(intervals, found.offsets, strict=True))
    needed = max((offset + interval.size for interval, offset in pairs), default=0)
    return Placement({interval.key: offset for interval, offset in pairs}, needed, (), rung)
