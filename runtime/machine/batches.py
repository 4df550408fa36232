"""Which products are computed in one call because they share an operand, as a pure algorithm.

Given the groups of multiplications of a program (`products.find_groups`), leaves batches: groups with the same moving
data and as many rows, whose stationary data is there when the first of them is computed. One product with all their
stationary matrices side by side takes less time than one for each, since what all share is prepared once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from runtime.machine.products import Content, Group

MAX_COLUMNS = 512
"""Stationary columns of a batch: more are no quicker, and leave the caches."""

RESULT_BYTES = 256 << 20
"""Size of all results that may wait, from the end of the first group of a batch on, for its other groups to end."""


@dataclass(eq=False)
class Batch:
    """Groups that are computed together when the first of them ends, at the time `end`.

    `starts`: the first stationary column of each; `operands`: how many stationary operands there are before its own.
    `constant`: all stationary data is the same in every run.
    """

    end: int
    constant: bool
    groups: list[Group] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    operands: list[int] = field(default_factory=list)
    columns: int = 0

    def add(self, group: Group, columns: int) -> None:
        """Take one more group with so many stationary columns."""
        self.operands.append(sum(len(other.members) for other in self.groups[-1:]) + sum(self.operands[-1:]))
        self.groups.append(group)
        self.starts.append(self.columns)
        self.columns += columns

    @property
    def stationary(self) -> list[Content]:
        """Stationary contents, group after group."""
        return [content for group in self.groups for content in group.stationary]

    def alone(self) -> list[Batch]:
        """Each of the groups by itself; `end` is that of the batch."""
        ends = [*self.starts[1:], self.columns]
        batches: list[Batch] = []
        for group, start, end in zip(self.groups, self.starts, ends, strict=True):
            batch = Batch(self.end, self.constant)
            batch.add(group, end - start)
            batches.append(batch)
        return batches


def was_there(contents: Sequence[Content], time: int) -> bool:
    """Whether all contents had been written before `time`."""
    return all(content.written < time for content in contents)


def find_batches(
    groups: Sequence[Group],
    ends: Mapping[int, int],
    sizes: Mapping[Group, tuple[int, int]],
    result_bytes: int = RESULT_BYTES,
) -> list[Batch]:
    """Batches of all groups, in the order of their ends.

    Args:
        groups: the groups to be computed.
        ends: when each execution writes, by its number.
        sizes: stationary and moving columns of each group.
        result_bytes: where batches that more groups may join have larger results, none joins the oldest any more.
    """
    batches: list[Batch] = []
    latest: dict[tuple[Hashable, int, int], Batch] = {}
    waiting_bytes = 0
    for group in sorted(groups, key=lambda group: ends[group.members[-1]]):
        stationary, moving = sizes[group]
        key = tuple(group.moving), moving, group.rows
        constant = all(content.constant for content in group.stationary)
        batch = latest.get(key)
        joins = (
            batch is not None
            and batch.columns + stationary <= MAX_COLUMNS
            and batch.constant == constant
            and (constant or was_there(group.stationary, batch.end))
        )
        if batch is None or not joins:
            waiting_bytes -= 4 * moving * batch.columns if batch is not None else 0
            # Behind all others: the first one is the oldest.
            latest.pop(key, None)
            batch = latest[key] = Batch(ends[group.members[-1]], constant)
            batches.append(batch)
        batch.add(group, stationary)
        waiting_bytes += 4 * moving * stationary
        while waiting_bytes > result_bytes:
            oldest = next(iter(latest))
            waiting_bytes -= 4 * oldest[1] * latest.pop(oldest).columns
    return batches
