"""Which cores a runtime owns, and which of them a model is loaded on: plain functions on numbers.

A runtime owns a contiguous range of an instance's cores and numbers them from 0. Its NeuronCore Groups are consecutive
parts of that range. A model needs a number of cores; as many instances of it as fit stand side by side in the range
that it is loaded on. `Placement.domain` are the cores that no other model may be working on while an instance runs: its
own ones, or, in a group, the whole group, in which one model runs at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.serving.settings import GroupSize, Settings
from runtime.serving.status import NrtError, Status


@dataclass(frozen=True)
class Group:
    """A NeuronCore Group: its cores, and its number of instances where it is fixed."""

    cores: range
    instances: int | None = None


@dataclass(frozen=True)
class Placement:
    """Where one instance of a model runs: its cores, and the cores that it must have to itself (see the module)."""

    cores: range
    domain: frozenset[int]

    def shifted(self, by: int) -> Placement:
        """The same place where every core has a number that is higher by `by`."""
        moved = range(self.cores.start + by, self.cores.stop + by)
        return Placement(moved, frozenset(core + by for core in self.domain))


@dataclass(frozen=True)
class LoadPlan:
    """Where a model is loaded: one placement for each instance, and what the caller should know about it."""

    placements: tuple[Placement, ...]
    notes: tuple[str, ...] = ()


def owned_cores(settings: Settings, total: int, taken: frozenset[int]) -> range:
    """The cores of an instance with `total` of them, `taken` by other runtimes, that a runtime with `settings` gets.

    NRT_INVALID for cores that the instance does not have, NRT_RESOURCE when there are not enough free ones.
    """
    grouped = sum(group.cores for group in settings.groups)
    cores = settings.visible_cores
    if cores is not None:
        if cores.stop > total:
            raise NrtError(
                Status.NRT_INVALID, f"core {cores.stop - 1} is not visible, the instance has cores 0 to {total - 1}"
            )
        busy = sorted(taken.intersection(cores))
        if busy:
            raise NrtError(Status.NRT_RESOURCE, f"core {busy[0]} belongs to another runtime")
    else:
        count = settings.core_count or grouped or total
        cores = _first_free(count, total, taken)
    if grouped > len(cores):
        raise NrtError(
            Status.NRT_RESOURCE,
            f"the NeuronCore Groups take {grouped} cores, the runtime has {len(cores)}",
            help="lower NEURONCORE_GROUP_SIZES or make more cores visible",
        )
    return cores


def _first_free(count: int, total: int, taken: frozenset[int]) -> range:
    for start in range(total - count + 1):
        if taken.isdisjoint(range(start, start + count)):
            return range(start, start + count)
    raise NrtError(
        Status.NRT_RESOURCE,
        f"{count} NeuronCores side by side are not available: the instance has {total}, {total - len(taken)} are free",
        help="set NEURON_RT_NUM_CORES or NEURON_RT_VISIBLE_CORES so that runtimes do not overlap",
    )


def make_groups(sizes: Sequence[GroupSize]) -> tuple[Group, ...]:
    """Groups of these sizes, one after the other from core 0."""
    groups: list[Group] = []
    start = 0
    for size in sizes:
        groups.append(Group(range(start, start + size.cores), size.instances))
        start += size.cores
    return tuple(groups)


def plan_load(
    needed: int, total: int, groups: Sequence[Group], uses: Sequence[int], *,
    group: int | None = None, start: int = -1, count: int = -1,
) -> LoadPlan:  # fmt: skip
    """Where to load a model that needs `needed` cores, in a runtime of `total` cores.

    Args:
        uses: how many models each core holds.
        group: load into this group; by default into the one that holds the fewest models, the first of equals.
        start, count: cores to load on, as in `nrt_load`. -1 and -1: a group if there are groups, else the least used
            cores for one instance. With `count`, floor(count / needed) instances.

    NRT_INVALID for a group or a core that does not exist, NRT_LOAD_NOT_ENOUGH_NC when the cores do not suffice.
    """
    if start < -1 or count < -1 or count == 0 or start >= total:
        raise NrtError(Status.NRT_INVALID, f"cores {start}, {count} of a runtime with {total} cores")
    if group is not None and not 0 <= group < len(groups):
        raise NrtError(Status.NRT_INVALID, f"no group {group}, the runtime has {len(groups)}")
    if groups and start == -1 and count == -1:
        chosen = min(range(len(groups)), key=lambda k: uses[groups[k].cores[0]]) if group is None else group
        return _in_group(needed, groups, chosen)
    if group is not None:
        raise NrtError(Status.NRT_INVALID, "a load names either a group or cores")
    size = needed if count == -1 else count
    if size < needed:
        raise _not_enough(needed, size)
    if start == -1:
        if size > total:
            raise _not_enough(size, total)
        start = min(range(total - size + 1), key=lambda first: sum(uses[first : first + size]))
    elif start + size > total:
        raise _not_enough(start + size, total)
    return _side_by_side(range(start, start + size), needed, size // needed, groups)


def _in_group(needed: int, groups: Sequence[Group], index: int) -> LoadPlan:
    """Into one group; a model that is larger than it reaches into the groups behind it."""
    group = groups[index]
    if group.instances is not None:
        size = len(group.cores) // group.instances
        if size < needed:
            raise _not_enough(needed, size, f"an instance in group {index}")
        starts = range(group.cores.start, group.cores.stop, size)
        domain = frozenset(group.cores)
        return LoadPlan(tuple(Placement(range(start, start + needed), domain) for start in starts))
    if needed <= len(group.cores):
        return _side_by_side(group.cores, needed, len(group.cores) // needed, groups)
    reach = range(group.cores.start, group.cores.start + needed)
    end = groups[-1].cores.stop
    if reach.stop > end:
        raise _not_enough(needed, end - reach.start, f"group {index} and those behind it")
    plan = _side_by_side(reach, needed, 1, groups)
    note = f"the model needs {needed} cores, group {index} has {len(group.cores)}: it reaches into the next group"
    return LoadPlan(plan.placements, (note, *plan.notes))


def _side_by_side(cores: range, needed: int, instances: int, groups: Sequence[Group]) -> LoadPlan:
    """`instances` from the start of `cores`; each has every group that it touches to itself."""
    placements: list[Placement] = []
    for number in range(instances):
        own = range(cores.start + number * needed, cores.start + (number + 1) * needed)
        touched = [group.cores for group in groups if set(group.cores).intersection(own)]
        placements.append(Placement(own, frozenset(own).union(*touched)))
    idle = len(cores) - instances * needed
    notes = (f"{idle} of {len(cores)} cores stay idle: the model needs {needed}",) if idle else ()
    return LoadPlan(tuple(placements), notes)


def _not_enough(needed: int, available: int, place: str = "the runtime") -> NrtError:
    return NrtError(
        Status.NRT_LOAD_NOT_ENOUGH_NC,
        f"the load needs {needed} cores, {place} has {available}",
        help="use a larger instance or group, or compile for fewer cores",
    )
