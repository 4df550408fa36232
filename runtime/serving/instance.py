"""A simulated instance: chips with cores and device memory, and which runtime owns which cores."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import Any

from neuron_dialects.target import find_instance, load_target
from runtime.serving.memory import DeviceMemory, Footprint
from runtime.serving.placement import owned_cores
from runtime.serving.settings import Settings
from runtime.serving.simulation import Hardware


class SimulatedInstance:
    """An instance of the target files by its name (`inf1.6xlarge`). Thread-safe.

    Several runtimes may use one, as several processes do: each owns its cores until it is closed.
    NeuronError NX-TARGET-004 for an unknown name.
    """

    def __init__(self, name: str = "inf1.xlarge") -> None:
        self.shape = find_instance(name)
        self.target = load_target(self.shape.target)
        self.cores_per_chip = int(self.target.cores_per_chip)
        self.cores = self.shape.chips * self.cores_per_chip
        self._lock = threading.Lock()
        self._owners: dict[int, object] = {}
        self._memory = DeviceMemory(self.cores, int(self.target.dram_bytes))

    @property
    def name(self) -> str:
        """Its name."""
        return self.shape.name

    @property
    def hardware(self) -> Hardware:
        """The instance as the simulation of queues sees it: the rates of a host segment are those of one core's share
        of the virtual CPUs, so there are as many host servers as cores.
        """
        return Hardware(self.cores, self.cores_per_chip, self.cores)

    def claim(self, settings: Settings, owner: object) -> range:
        """Give a runtime its cores; NRT_INVALID or NRT_RESOURCE as `owned_cores` says."""
        with self._lock:
            cores = owned_cores(settings, self.cores, frozenset(self._owners))
            self._owners.update(dict.fromkeys(cores, owner))
            return cores

    def release(self, owner: object) -> None:
        """Take back the cores of a runtime."""
        with self._lock:
            self._owners = {core: other for core, other in self._owners.items() if other is not owner}

    def allocate(self, model: Hashable, wanted: Sequence[tuple[int, Footprint]]) -> None:
        """Take device memory for a model, all of it or with NRT_RESOURCE nothing."""
        with self._lock:
            self._memory.allocate(model, wanted)

    def free(self, model: Hashable) -> None:
        """Give back the device memory of a model."""
        with self._lock:
            self._memory.free(model)

    def memory_report(self) -> list[dict[str, Any]]:
        """Bytes of device memory of each core by category."""
        with self._lock:
            return self._memory.report()
