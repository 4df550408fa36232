"""The live view of `neuron-run --top`: cores and models in the manner of neuron-top, drawn with rich on a terminal.

`TopView` shows the serving runtime while requests are computed, in this computer's time, and then the simulation of
queues, in simulated time. Both give rows of plain data, which `picture` draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from runtime.serving import Runtime
    from runtime.serving.simulation import Observer, Service, Simulation

REFRESH_SECONDS = 0.1


@dataclass(frozen=True)
class CoreRow:
    """A core: its index, utilisation from 0 to 1 since the last picture, the model on it, bytes of device memory."""

    core: int
    utilisation: float
    model: str
    used_bytes: int
    capacity_bytes: int


@dataclass(frozen=True)
class ModelRow:
    """A model: its instances, requests that wait, run and are done, and how many of them ended a second."""

    name: str
    instances: int
    waiting: int
    running: int
    done: int
    per_second: float = 0.0


def picture(title: str, cores: Sequence[CoreRow], models: Sequence[ModelRow]) -> Group:
    """The tables of a moment."""
    core_table = Table("core", "utilisation", "", "model", "device memory", expand=False)
    for row in cores:
        bar = ProgressBar(total=1.0, completed=min(1.0, row.utilisation), width=24)
        memory = f"{row.used_bytes / 2**20:.2f} of {row.capacity_bytes / 2**20:.0f} MiB"
        core_table.add_row(str(row.core), f"{row.utilisation:.0%}", bar, row.model, memory)
    model_table = Table("model", "instances", "waiting", "running", "done", "per second", expand=False)
    for model in models:
        numbers = (model.instances, model.waiting, model.running, model.done)
        model_table.add_row(model.name, *map(str, numbers), f"{model.per_second:.1f}")
    return Group(Text(title), core_table, model_table)


class TopView:
    """Draws while requests run: use as a context, `observer` for the simulation inside of it."""

    def __init__(self, runtime: Runtime, console: Console | None = None) -> None:
        self._runtime = runtime
        self._before: dict[str, Any] | None = None
        self._live = Live(
            get_renderable=self._runtime_picture,
            console=console or Console(stderr=True),
            refresh_per_second=1 / REFRESH_SECONDS,
        )

    def __enter__(self) -> TopView:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    # -- the runtime --------------------------------------------------------------------------------------------------

    def _runtime_picture(self) -> Group:
        """What the runtime does right now; rates are those since the last picture."""
        now = self._runtime.snapshot()
        before, self._before = self._before or now, now
        seconds = max(1e-9, now["seconds"] - before["seconds"])
        busy = {row["core"]: row["busy_seconds"] for row in before["cores"]}
        cores = [
            CoreRow(
                row["core"],
                (row["busy_seconds"] - busy.get(row["core"], 0.0)) / seconds,
                row["model"] or "",
                row["memory"]["used"],
                row["memory"]["capacity"],
            )
            for row in now["cores"]
        ]
        done = {row["name"]: sum(row["statuses"].values()) for row in before["models"]}
        models = [
            ModelRow(
                row["name"], row["instances"], row["waiting"], row["running"], total,
                (total - done.get(row["name"], 0)) / seconds,
            )
            for row in now["models"]
            for total in (sum(row["statuses"].values()),)
        ]  # fmt: skip
        return picture(f"{now['instance']}  computing, {now['seconds']:.1f} s", cores, models)

    # -- the simulation -----------------------------------------------------------------------------------------------

    def observer(self, services: Sequence[Service]) -> Observer:
        """What the simulation of queues calls after each request; draws when it is time to."""
        self._live.stop()
        self._live = Live(console=self._live.console, auto_refresh=False)
        self._live.start()
        memory = {row["core"]: row for row in self._runtime.instance.memory_report()}
        drawn = 0.0
        last_ns, last_busy, last_done = 0.0, list[float](), [0] * len(services)

        def observe(now_ns: float, simulation: Simulation) -> None:
            nonlocal drawn, last_ns, last_busy, last_done
            is_last = all(use.inside == 0 for use in simulation.instances)
            if not is_last and time.monotonic() - drawn < REFRESH_SECONDS:
                return
            drawn, span = time.monotonic(), max(1e-9, now_ns - last_ns)
            busy = last_busy or [0.0] * len(simulation.core_busy_ns)
            cores = [
                CoreRow(
                    core, (simulation.core_busy_ns[core] - busy[core]) / span, services[use.model].name,
                    memory[core]["used"], memory[core]["capacity"],
                )
                for use in simulation.instances
                for core in use.cores
            ]  # fmt: skip
            rows = [_model_row(number, services, simulation) for number in range(len(services))]
            rates = [(row.done - done) / (span * 1e-9) for row, done in zip(rows, last_done, strict=True)]
            models = [replace(row, per_second=rate) for row, rate in zip(rows, rates, strict=True)]
            self._live.update(picture(f"serving, {now_ns * 1e-6:.3f} ms simulated", cores, models), refresh=True)
            last_ns, last_busy, last_done = now_ns, list(simulation.core_busy_ns), [row.done for row in rows]

        return observe


def _model_row(number: int, services: Sequence[Service], simulation: Simulation) -> ModelRow:
    """Counts of one model at a moment of the simulation."""
    uses = [use for use in simulation.instances if use.model == number]
    own = [request for request in simulation.requests if request.model == number]
    arrived = sum(request.arrived_ns >= 0 for request in own)
    done = sum(request.finished_ns >= 0 for request in own)
    inside = sum(use.inside for use in uses)
    return ModelRow(services[number].name, len(uses), arrived - done - inside, inside, done)
