"""Cutting a graph into as few host and core segments as possible: pure algorithms on numbered nodes.

Nodes are numbered in an order in which producers come first. Two questions are answered: which cheap nodes had better
stay with the host although a core could run them (`keep_with_host`), and in which segment each node runs
(`assign_segments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Node:
    """One operation."""

    on_host: bool
    """It must run on the host."""
    producers: list[int]
    """Nodes that must run before it, each at most once."""
    moves_only: bool = False
    """It costs nothing but moving its result, so that it may as well run on the host."""
    is_returned: bool = False
    """A result of it is a result of the program."""
    reads_host_input: bool = False
    """It reads an input of the program that some node on the host reads too."""
    reads_core_input: bool = False
    """It reads an input of the program that no node on the host reads."""
    result_bytes: int = 0


def keep_with_host(nodes: Sequence[Node]) -> set[int]:
    """Moving nodes that a core could run and that had better run on the host.

    They are those that only the host uses, unless moving them brings more bytes over the boundary; and those between
    what the host has anyway and the program's results.
    """
    users = _users(nodes)
    host = {number for number, node in enumerate(nodes) if node.on_host}
    crossing = {producer for number in host for producer in nodes[number].producers}
    kept: set[int] = set()
    for number in reversed(range(len(nodes))):
        node = nodes[number]
        if node.on_host or not node.moves_only or not users[number] or not host.issuperset(users[number]):
            continue
        # What the host gets anyway costs nothing more.
        brought = [producer for producer in node.producers if producer not in host and producer not in crossing]
        if sum(nodes[producer].result_bytes for producer in brought) <= node.result_bytes:
            kept.add(number)
            host.add(number)
            crossing.update(node.producers)
    ends = _only_moved_to_results(nodes, users, host)
    for number, node in enumerate(nodes):
        has_it = host.issuperset(node.producers) and not node.reads_core_input
        if number in ends and has_it and (node.producers or node.reads_host_input):
            kept.add(number)
            host.add(number)
    return kept


def _only_moved_to_results(nodes: Sequence[Node], users: Sequence[Sequence[int]], host: set[int]) -> set[int]:
    """Moving nodes whose result reaches only the host and the program's results, through such nodes."""
    ends: set[int] = set()
    for number in reversed(range(len(nodes))):
        node = nodes[number]
        used = node.is_returned or bool(users[number])
        if number not in host and node.moves_only and used and all(u in ends or u in host for u in users[number]):
            ends.add(number)
    return ends


def assign_segments(on_host: Sequence[bool], producers: Sequence[Sequence[int]]) -> list[int]:
    """The segment of each node, numbered in the order in which segments run, without gaps.

    A segment is all on the host or all on the core, and no node runs before its producers. There are as few segments
    as possible: segments alternate, so that only which side begins is to be chosen, and each node runs in the first
    segment of its side that comes after its producers.
    """
    candidates = [_first_fit(on_host, producers, host_begins) for host_begins in (True, False)]
    return min(candidates, key=lambda levels: len(set(levels)))


def _first_fit(on_host: Sequence[bool], producers: Sequence[Sequence[int]], host_begins: bool) -> list[int]:
    levels: list[int] = []
    for number, host in enumerate(on_host):
        level = max((levels[producer] for producer in producers[number]), default=0)
        # Even levels are of the side that begins.
        levels.append(level + ((level % 2 == 0) != (host == host_begins)))
    order = {level: position for position, level in enumerate(sorted(set(levels)))}
    return [order[level] for level in levels]


def _users(nodes: Sequence[Node]) -> list[list[int]]:
    users: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        for producer in node.producers:
            users[producer].append(number)
    return users
