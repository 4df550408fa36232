"""The runtime that serves models: instances, NeuronCore Groups, queues, statuses, and serving in simulated time."""

from runtime.serving.status import NrtError, Status

__all__ = ["NrtError", "Status"]
