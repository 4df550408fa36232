"""Which counters each instruction must wait for, before anything redundant is removed.

Given a tree with addresses, leaves for every statement a number of waits that order all conflicting accesses: pairs
within a top-level loop nest are looked at one by one (the nest's buffers share no memory, so these are the accesses of
one buffer), pairs of different top-level statements through a `RegionMap`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from neuron_dialects.access import Affine
from passes.nisa.dependence import Dependences
from passes.nisa.memory_access import Access
from passes.nisa.program_tree import Loop, Node, ProgramTree, Statement
from passes.nisa.progress import Progress
from passes.nisa.region_map import RegionMap, regions_of


@dataclass
class WaitSet:
    """The waits of one statement: numbers by stream, none of which another one of the same stream dominates."""

    statement: Statement
    counts: dict[str, list[Affine]] = field(default_factory=dict)

    def add(self, stream: str, count: Affine) -> None:
        """Wait for `count` completions of `stream`, unless a wait for at least as many is there already."""
        counts = self.counts.setdefault(stream, [])
        trips = self.statement.trips
        if not any((other - count).bounds(trips)[0] >= 0 for other in counts):
            counts[:] = [*(other for other in counts if (count - other).bounds(trips)[0] < 0), count]

    def waits(self) -> Iterator[tuple[str, Affine]]:
        """All (stream, count), in the order of the streams' names."""
        for stream in sorted(self.counts):
            yield from ((stream, count) for count in self.counts[stream])


def generate_waits(tree: ProgramTree, progress: Progress, accesses: Sequence[list[Access]]) -> list[WaitSet]:
    """The waits of every statement, by its number, as are its `accesses`."""
    sets = [WaitSet(statement) for statement in tree.statements]
    dependences = Dependences(progress)
    maps: dict[str | int, RegionMap] = {}
    for node in tree.body:
        own = [access for statement in statements_below(node) for access in accesses[statement.number]]
        by_memory: dict[str | int, list[Access]] = {}
        for access in own:
            by_memory.setdefault(access.memory, []).append(access)
        for memory, group in by_memory.items():
            earlier = maps.setdefault(memory, RegionMap())
            for consumer in group:
                for producer in earlier.touching(regions_of(consumer)):
                    _order(producer, consumer, sets, dependences)
            if isinstance(node, Loop):
                for producer, consumer in _pairs_within(group):
                    _order(producer, consumer, sets, dependences)
            earlier.enter(group)
    return sets


def statements_below(node: Node) -> Iterator[Statement]:
    """The statements of a node that are executed at least once, in the order of the text."""
    if isinstance(node, Statement):
        yield node
    elif isinstance(node, Loop) and node.trip_count > 0:
        for child in node.body:
            yield from statements_below(child)


def _order(producer: Access, consumer: Access, sets: list[WaitSet], dependences: Dependences) -> None:
    """Let the consumer wait for the producer, unless both only read or one stream orders them."""
    stream = producer.statement.stream
    if not (producer.writes or consumer.writes) or stream == consumer.statement.stream:
        return
    for count in dependences.required_counts(producer, consumer):
        sets[consumer.statement.number].add(stream, count)


def _pairs_within(accesses: Sequence[Access]) -> Iterator[tuple[Access, Access]]:
    """All ordered pairs of accesses that may touch the same bytes of one memory."""
    reach = {access: access.reach() for access in accesses}
    ordered = sorted(accesses, key=lambda access: reach[access][0])
    group: list[Access] = []
    end = 0
    for access in ordered:
        if group and reach[access][0] > end:
            yield from ((p, c) for p in group for c in group if p is not c)
            group = []
        end = max(end, reach[access][1]) if group else reach[access][1]
        group.append(access)
    yield from ((p, c) for p in group for c in group if p is not c)
