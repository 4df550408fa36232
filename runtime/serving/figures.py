"""Figures of a simulated service: throughput, latency, queueing, utilisation and bubble, as plain JSON data.

Percentiles are nearest-rank: the smallest latency that at least p % of the requests do not exceed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runtime.serving.simulation import Served, Service, Simulation

PERCENTILES = (50, 90, 99)
_MS, _S = 1e-6, 1e-9
_STEADY_MARGIN = 0.2
"""Share of the requests at the beginning, and at the end, that the steady throughput leaves out."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of ascending values; 0.0 for none."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else 0.0


def steady_throughput(finished_ns: Sequence[float]) -> float:
    """Requests per second from the end of one request to the end of another, without those at both margins, in which
    pipelines fill and clients run out. 0.0 when there are too few, or all end at once.
    """
    ends = sorted(finished_ns)
    margin = int(len(ends) * _STEADY_MARGIN)
    first, last = margin, len(ends) - 1 - margin
    if last <= first or ends[last] == ends[first]:
        return 0.0
    return (last - first) / (ends[last] - ends[first]) / _S


def serving_figures(simulation: Simulation, services: Sequence[Service]) -> dict[str, Any]:
    """The figures of all requests, of each model, each core that a model is on, and each instance of a model.

    Times in milliseconds; `throughput` and `steady_throughput` in requests per second of simulated time; utilisation
    and bubble from 0 to 1. `queueing_ms` is all the time that a request waits: for an instance, a core, a link or the
    host. `mean_in_system` and `mean_waiting` are numbers of requests.
    """
    seconds = simulation.end_ns * _S
    cores = sorted({core for use in simulation.instances for core in use.cores})
    busy = {core: simulation.core_busy_ns[core] / simulation.end_ns if simulation.end_ns else 0.0 for core in cores}
    names = {core: _models_on(core, simulation, services) for core in cores}
    return {
        "simulated_seconds": seconds,
        **_request_figures(simulation.requests, seconds),
        "utilisation": sum(busy.values()) / len(busy) if busy else 0.0,
        "bubble": _bubble(simulation, None),
        "models": [
            {
                "name": service.name,
                "instances": len(service.placements),
                "cores_per_instance": len(service.placements[0].cores),
                **_request_figures([r for r in simulation.requests if r.model == number], seconds),
                "bubble": _bubble(simulation, number),
            }
            for number, service in enumerate(services)
        ],
        "cores": [{"core": core, "utilisation": busy[core], "models": names[core]} for core in cores],
    }


def _models_on(core: int, simulation: Simulation, services: Sequence[Service]) -> list[str]:
    return list(dict.fromkeys(services[use.model].name for use in simulation.instances if core in use.cores))


def _bubble(simulation: Simulation, model: int | None) -> float:
    """Share of core-time without work in instances that had requests."""
    uses = [use for use in simulation.instances if model is None or use.model == model]
    whole = sum(use.occupied_ns * len(use.cores) for use in uses)
    return 1.0 - sum(use.busy_ns for use in uses) / whole if whole else 0.0


def _waited_ns(request: Served) -> float:
    """All the time that a request waited; 0 where less than a femtosecond of rounding is left."""
    return max(0.0, round(request.finished_ns - request.arrived_ns - request.served_ns, 6))


def _request_figures(requests: Sequence[Served], seconds: float) -> dict[str, Any]:
    latencies = sorted((request.finished_ns - request.arrived_ns) * _MS for request in requests)
    waited = sorted(_waited_ns(request) * _MS for request in requests)
    count = len(requests)
    latency = {f"p{p}": percentile(latencies, p) for p in PERCENTILES}
    waits = {f"p{p}": percentile(waited, p) for p in PERCENTILES}
    return {
        "requests": count,
        "throughput": count / seconds if seconds else 0.0,
        "steady_throughput": steady_throughput([request.finished_ns for request in requests]),
        "latency_ms": {"mean": sum(latencies) / count if count else 0.0, **latency, "max": percentile(latencies, 100)},
        "queueing_ms": {"mean": sum(waited) / count if count else 0.0, **waits, "max": percentile(waited, 100)},
        "mean_in_system": sum(latencies) * 1e-3 / seconds if seconds else 0.0,
        "mean_waiting": sum(waited) * 1e-3 / seconds if seconds else 0.0,
    }
