"""Requests of the serving runtime on their way, and what is counted about them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.serving.status import Status

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Execution:
    """A request that succeeded: outputs by name, the instance of the model that ran it, the cores of that instance, and
    how many seconds of this computer's time it waited and ran.
    """

    outputs: dict[str, Array]
    instance: int
    cores: range
    queued_seconds: float
    run_seconds: float


@dataclass(eq=False)
class Request:
    """A request on its way."""

    inputs: Mapping[str, Array]
    is_async: bool
    future: Future[Execution] = field(default_factory=Future[Execution])
    since: float = field(default_factory=time.perf_counter)


@dataclass
class Statistics:
    """Counts of a model's requests: by status, cancelled ones, outstanding asynchronous ones; seconds of waiting and
    running of those that ran.
    """

    statuses: Counter[Status] = field(default_factory=Counter[Status])
    cancelled: int = 0
    outstanding_async: int = 0
    queued_seconds: float = 0.0
    run_seconds: float = 0.0


class CoreClock:
    """A core of this runtime: only one program runs on it at a time, and for how many seconds so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.busy_seconds = 0.0

    @contextmanager
    def running(self) -> Generator[None]:
        """Hold the core."""
        with self._lock:
            start = time.perf_counter()
            try:
                yield
            finally:
                self.busy_seconds += time.perf_counter() - start
