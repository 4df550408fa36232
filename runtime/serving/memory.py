"""Device memory: what a loaded model takes on each core, and keeping count of it.

Device memory is DRAM. A core's share of it holds, for each model: code, constants (the parameters), tensors (inputs and
outputs, one set for each request inside) and DMA rings; and one scratchpad, as large as the most that one of its models
needs, because only one of them runs at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neuron_dialects.cost import dma_cost
from neuron_dialects.target import Target
from runtime.neff import Neff, encode_queue
from runtime.neff.manifest import subgraph_name
from runtime.neff.model import parameter_member
from runtime.serving.status import NrtError, Status

DESCRIPTOR_BYTES = 16
"""Bytes of one DMA descriptor in a ring."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of device memory that one instance of a model takes on one of its cores."""

    code: int = 0
    constants: int = 0
    tensors: int = 0
    scratchpad: int = 0
    dma_rings: int = 0

    @property
    def own_bytes(self) -> int:
        """All but the scratchpad, which the core's models share."""
        return self.code + self.constants + self.tensors + self.dma_rings


def footprints(neff: Neff, target: Target, core_of: Mapping[int, int], cores: int, depth: int) -> list[Footprint]:
    """The footprint on each core of an instance.

    Args:
        core_of: core program -> the position of its core in the instance.
        depth: requests inside of the instance at a time, each with inputs and outputs of its own.
    """
    rows = [Footprint() for _ in range(cores)]
    members: list[set[str]] = [set() for _ in range(cores)]
    for callee, position in core_of.items():
        program, row = neff.subgraphs[callee].program, rows[position]
        files = [v for v in program.variables if v.kind == "file"]
        # Buckets of a model name the same parameter files; one copy of each is on the core.
        stored = {parameter_member(subgraph_name(callee), v.file_name or v.name): v for v in files}
        new = [v.size_bytes for name, v in stored.items() if name not in members[position]]
        members[position].update(stored)
        queues = [*program.queues.values(), *([program.pinned] if program.pinned else [])]
        transfers = [entry.instruction for queue in queues for entry in queue if entry.ring is not None]
        descriptors = sum(dma_cost(transfer, target).descriptors for transfer in transfers if transfer is not None)
        sizes = Counter[str]()
        for variable in program.variables:
            sizes[variable.kind] += variable.size_bytes
        rows[position] = Footprint(
            code=row.code + sum(len(encode_queue(queue)) for queue in queues),
            constants=row.constants + sum(new),
            tensors=row.tensors + depth * (sizes["input"] + sizes["output"]),
            scratchpad=max(row.scratchpad, sizes["tmp"]),
            dma_rings=row.dma_rings + descriptors * DESCRIPTOR_BYTES,
        )
    return rows


class DeviceMemory:
    """Who has how much of each core's device memory. Not thread-safe."""

    def __init__(self, cores: int, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._rows: list[dict[Hashable, Footprint]] = [{} for _ in range(cores)]

    def used_bytes(self, core: int) -> int:
        """Bytes of a core's share that are taken."""
        return _used(self._rows[core].values())

    def allocate(self, owner: Hashable, wanted: Sequence[tuple[int, Footprint]]) -> None:
        """Take memory on cores; either all of it or, with NRT_RESOURCE, nothing."""
        for core, footprint in wanted:
            used = _used([*self._rows[core].values(), footprint])
            if used > self.capacity_bytes:
                raise NrtError(
                    Status.NRT_RESOURCE,
                    f"core {core} would need {used} bytes of device memory, it has {self.capacity_bytes}"
                    f" (the model: {_text(footprint)}; taken before: {self.used_bytes(core)})",
                    help="load fewer models on the core, or a smaller one",
                )
        for core, footprint in wanted:
            self._rows[core][owner] = footprint

    def free(self, owner: Hashable) -> None:
        """Give back all that an owner has."""
        for row in self._rows:
            row.pop(owner, None)

    def report(self) -> list[dict[str, Any]]:
        """For each core: bytes by category, their sum and the capacity."""
        table: list[dict[str, Any]] = []
        for core, row in enumerate(self._rows):
            parts = {key: sum(getattr(f, key) for f in row.values()) for key in ("code", "constants", "tensors")}
            parts["scratchpad"] = max((f.scratchpad for f in row.values()), default=0)
            parts["dma_rings"] = sum(f.dma_rings for f in row.values())
            table.append({"core": core, **parts, "used": sum(parts.values()), "capacity": self.capacity_bytes})
        return table


def _used(footprints: Iterable[Footprint]) -> int:
    rows = list(footprints)
    return sum(row.own_bytes for row in rows) + max((row.scratchpad for row in rows), default=0)


def _text(footprint: Footprint) -> str:
    names = ("code", "constants", "tensors", "scratchpad", "dma_rings")
    return ", ".join(f"{name} {getattr(footprint, name)}" for name in names)


def without_constants(footprint: Footprint) -> Footprint:
    """The footprint of an instance that uses the constants of another one on its chip."""
    return replace(footprint, constants=0)
