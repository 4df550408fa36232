"""A profile with what can be worked out from it, each thing once and only when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neuron_dialects.target import Target
from runtime.profile.causes import Causes, causes_of
from runtime.profile.columns import Array
from runtime.profile.critical_path import Step, critical_path
from runtime.profile.idle import Idle, idle_of
from runtime.profile.memory import MemoryMap, memory_map
from runtime.profile.model import Profile, ProgramProfile


@dataclass(frozen=True)
class ProgramAnalysis:
    """One program of a profile. `starts_ns`: when each of its launches begins; `target`: what timed it."""

    profile: ProgramProfile
    target: Target
    starts_ns: tuple[float, ...]

    @cached_property
    def causes(self) -> Causes:
        """Why each event started when it did."""
        return causes_of(self.profile, self.target)

    @cached_property
    def path(self) -> list[Step]:
        """The critical path."""
        return critical_path(self.profile, self.causes)

    @cached_property
    def idle(self) -> Idle:
        """The idle time of its streams."""
        return idle_of(self.profile, self.causes)

    @cached_property
    def memory(self) -> MemoryMap:
        """What lies where on chip, and when."""
        return memory_map(self.profile, self.target)


@dataclass(frozen=True)
class Analysis:
    """A whole profile."""

    profile: Profile

    @cached_property
    def programs(self) -> tuple[ProgramAnalysis, ...]:
        """Its programs, with the times of their launches one after the other."""
        starts: list[list[float]] = [[] for _ in self.profile.programs]
        time = 0.0
        for launch in self.profile.launches:
            starts[launch].append(time)
            time += self.profile.programs[launch].total_ns
        parts = zip(self.profile.programs, starts, strict=True)
        return tuple(ProgramAnalysis(part, self.profile.target, tuple(own)) for part, own in parts)

    @property
    def total_ns(self) -> float:
        """Time of all launches."""
        return sum(self.profile.programs[launch].total_ns for launch in self.profile.launches)


def union_ns(start: Array, end: Array) -> float:
    """Length of the union of intervals."""
    if not len(start):
        return 0.0
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    reached = np.concatenate([[start[0]], np.maximum.accumulate(end)[:-1]])
    return float(np.maximum(0.0, end - np.maximum(start, reached)).sum())
