"""The runtime that serves models: instances, NeuronCore Groups, queues, statuses, and serving in simulated time."""

from runtime.serving.batching import DataParallel, DynamicBatcher
from runtime.serving.instance import SimulatedInstance
from runtime.serving.runtime import Execution, LoadedModel, Runtime
from runtime.serving.status import NrtError, Status

__all__ = [
    "DataParallel",
    "DynamicBatcher",
    "Execution",
    "LoadedModel",
    "NrtError",
    "Runtime",
    "SimulatedInstance",
    "Status",
]
