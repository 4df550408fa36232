"""Which counters each instruction must wait for, before anything redundant is removed.

Given a tree with addresses, leaves for every statement a number of waits that order all conflicting accesses: pairs
within a top-level loop nest are looked at one by one (the nest's buffers share no memory, so these are the accesses of
one buffer), pairs of different top-level statements through a `RegionMap`. A stream completes in order, so that of all
that a consumer may depend on the last instructions of each stream come first: whatever is over before them needs no
further look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from neuron_dialects.access import Affine
from passes.nisa.dependence import Dependences
from passes.nisa.memory_access import Access
from passes.nisa.program_tree import Loop, Node, ProgramTree, Statement
from passes.nisa.progress import Progress
from passes.nisa.region_map import RegionMap


@dataclass
class WaitSet:
    """The waits of one statement: numbers by stream, none of which another one of the same stream dominates."""

    statement: Statement
    counts: dict[str, list[Affine]] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    """By stream: what all instances of the statement wait for."""

    def add(self, stream: str, count: Affine) -> None:
        """Wait for `count` completions of `stream`, unless a wait for at least as many is there already."""
        counts = self.counts.setdefault(stream, [])
        trips = self.statement.trips
        if not any(other.at_least(count, trips) for other in counts):
            counts[:] = [*(other for other in counts if not count.at_least(other, trips)), count]
            self.least[stream] = max(self.least.get(stream, 0), count.bounds(trips)[0])

    def waits(self) -> Iterator[tuple[str, Affine]]:
        """All (stream, count), in the order of the streams' names."""
        for stream in sorted(self.counts):
            yield from ((stream, count) for count in self.counts[stream])


def generate_waits(tree: ProgramTree, progress: Progress, accesses: Sequence[list[Access]]) -> list[WaitSet]:
    """The waits of every statement, by its number, as are its `accesses`."""
    sets = [WaitSet(statement) for statement in tree.statements]
    dependences = Dependences(progress)
    last = {access: dependences.last(access) for own in accesses for access in own}
    maps: dict[str | int, RegionMap] = {}
    for node in tree.body:
        own = [access for statement in statements_below(node) for access in accesses[statement.number]]
        by_memory: dict[str | int, list[Access]] = {}
        for access in own:
            by_memory.setdefault(access.memory, []).append(access)
        for memory, group in by_memory.items():
            earlier = maps.setdefault(memory, RegionMap())
            for consumer in group:
                _order(earlier.touching(consumer.regions), consumer, sets, dependences, last)
            if isinstance(node, Loop):
                for together in _groups_within(group):
                    for consumer in together:
                        _order(together, consumer, sets, dependences, last)
            earlier.enter(group)
    return sets


def statements_below(node: Node) -> Iterator[Statement]:
    """The statements of a node that are executed at least once, in the order of the text."""
    if isinstance(node, Statement):
        yield node
    elif isinstance(node, Loop) and node.trip_count > 0:
        for child in node.body:
            yield from statements_below(child)


def _order(
    producers: Iterable[Access],
    consumer: Access,
    sets: list[WaitSet],
    dependences: Dependences,
    last: Mapping[Access, int],
) -> None:
    """Let the consumer wait for the producers, but for those that only read as it does, or that its stream orders.

    `last`: the number of each producer's last instance in its stream.
    """
    stream, writes = consumer.stream, consumer.writes
    others = [p for p in producers if (writes or p.writes) and p.stream != stream]
    others.sort(key=last.__getitem__, reverse=True)
    waits = sets[consumer.statement.number]
    for producer in others:
        if last[producer] > waits.least.get(producer.stream, 0):
            for count in dependences.required_counts(producer, consumer):
                waits.add(producer.stream, count)


def _groups_within(accesses: Sequence[Access]) -> Iterator[list[Access]]:
    """Accesses of one memory, in groups such that those of different groups touch no byte in common."""
    reach = {access: access.reach() for access in accesses}
    ordered = sorted(accesses, key=lambda access: reach[access][0])
    group: list[Access] = []
    end = 0
    for access in ordered:
        if group and reach[access][0] > end:
            yield group
            group = []
        end = max(end, reach[access][1]) if group else reach[access][1]
        group.append(access)
    yield group
