"""Batches of any size on a loaded model: cut over its instances, or gathered from single requests.

`DataParallel` takes one large batch: it is cut to the batch that the model was compiled for, the pieces run on all
instances at once, the last one padded, and the outputs are put together. `DynamicBatcher` takes many small requests: it
puts those that come within a short time into one batch, and gives each its rows of the outputs. Both need rows that the
compiler has proven independent (docs/shapes.md).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuron_dialects.errors import NeuronError
from runtime.neff import DynamicDimension
from runtime.serving.requests import Execution
from runtime.serving.runtime import LoadedModel
from runtime.serving.status import NrtError, Status, as_nrt_error

Array = np.ndarray[Any, np.dtype[Any]]


class DataParallel:
    """Runs batches of any size on all instances of a model. Thread-safe.

    Args:
        model: the loaded model.
        workers: pieces that are outstanding at a time; two for each instance by default.
    """

    def __init__(self, model: LoadedModel, workers: int | None = None) -> None:
        self.model = model
        self.workers = 2 * len(model.plan.placements) if workers is None else max(1, workers)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs with any number of rows. Raises NrtError as `LoadedModel.run`."""
        try:
            runs, assembly = self.model.split(inputs)
        except NeuronError as error:
            raise as_nrt_error(error) from error
        outstanding: deque[tuple[Any, Future[Execution]]] = deque()
        try:
            for piece, values in runs:
                if len(outstanding) == self.workers:
                    done, future = outstanding.popleft()
                    assembly.add(done, future.result().outputs)
                outstanding.append((piece, self.model.submit(values)))
            while outstanding:
                done, future = outstanding.popleft()
                assembly.add(done, future.result().outputs)
        finally:
            for _, future in outstanding:
                future.cancel()
        return assembly.outputs


@dataclass(eq=False)
class _Small:
    """A request of a few rows that waits to be part of a batch."""

    inputs: dict[str, Array]
    rows: int
    future: Future[dict[str, Array]] = field(default_factory=Future[dict[str, Array]])


class DynamicBatcher:
    """Puts single requests together into batches. Thread-safe; use as a context, or call `close`.

    Args:
        model: the loaded model, with one independent dynamic dimension that all inputs and outputs have.
        delay_seconds: how long the first request of a batch waits for others, in this computer's time.

    Raises NrtError: NRT_INVALID for a model without such a dimension.
    """

    def __init__(self, model: LoadedModel, delay_seconds: float = 0.002) -> None:
        self.model, self.delay_seconds = model, delay_seconds
        dimension = _row_dimension(model)
        self._inputs, self._outputs = dict(dimension.inputs), dict(dimension.outputs)
        self.batch_rows = max(_rows_of_buckets(model, dimension))
        """Rows of the largest batch that the model was compiled for."""
        self._waiting: deque[_Small] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._gather, name="neuron-batcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> DynamicBatcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, inputs: Mapping[str, Array]) -> Future[dict[str, Array]]:
        """The outputs for a few rows as a future. NRT_EXEC_BAD_INPUT for inputs that the model does not take,
        NRT_CLOSED after `close`.
        """
        try:
            bound = self.model.bind(inputs)
        except NeuronError as error:
            raise as_nrt_error(error) from error
        name, axis = next(iter(self._inputs.items()))
        small = _Small(bound, bound[name].shape[axis])
        with self._changed:
            if self._is_closed:
                raise NrtError(Status.NRT_CLOSED, "the batcher has been closed")
            self._waiting.append(small)
            self._changed.notify()
        return small.future

    def run(self, inputs: Mapping[str, Array], timeout: float | None = None) -> dict[str, Array]:
        """The outputs for a few rows; NRT_TIMEOUT when they are not there after `timeout` seconds."""
        future = self.submit(inputs)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise NrtError(Status.NRT_TIMEOUT, f"model {self.model.name}: no batch was done in {timeout} s") from None

    def close(self) -> None:
        """Run what waits and take no more requests."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _gather(self) -> None:
        """The batcher's thread: makes batches until the batcher is closed and nothing waits."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                deadline = time.monotonic() + self.delay_seconds
                while not self._is_closed and self._rows_waiting() < self.batch_rows:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        break
                batch = self._take()
            if batch:
                self._run(batch)

    def _rows_waiting(self) -> int:
        return sum(small.rows for small in self._waiting)

    def _take(self) -> list[_Small]:
        """The first requests that fit into a batch; at least one. Cancelled ones are dropped."""
        batch: list[_Small] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].rows <= self.batch_rows):
            small = self._waiting.popleft()
            if small.future.set_running_or_notify_cancel():
                batch.append(small)
                rows += small.rows
        return batch

    def _run(self, batch: list[_Small]) -> None:
        """Run one batch; its end fulfils the futures of its requests."""
        joined = {
            name: np.concatenate([small.inputs[name] for small in batch], axis) for name, axis in self._inputs.items()
        }
        try:
            self.model.submit(joined).add_done_callback(lambda future: self._share(batch, future))
        except NrtError as error:
            for small in batch:
                small.future.set_exception(error)

    def _share(self, batch: list[_Small], future: Future[Execution]) -> None:
        """Give each request its rows of the outputs, or the error of the batch."""
        error = future.exception()
        first = 0
        for small in batch:
            if error is not None:
                small.future.set_exception(error)
                continue
            outputs = future.result().outputs
            rows = range(first, first + small.rows)
            small.future.set_result({n: outputs[n].take(rows, axis) for n, axis in self._outputs.items()})
            first += small.rows


def _row_dimension(model: LoadedModel) -> DynamicDimension:
    """The one independent dimension of a model, which all its tensors have; else NRT_INVALID."""
    dimensions = model.neff.dimensions
    inputs, outputs = ({spec.name for spec in specs} for specs in (model.neff.inputs, model.neff.outputs))
    if len(dimensions) == 1 and dimensions[0].independent:
        (dimension,) = dimensions
        if {name for name, _ in dimension.inputs} == inputs and {name for name, _ in dimension.outputs} == outputs:
            return dimension
    raise NrtError(
        Status.NRT_INVALID,
        f"model {model.name} cannot be batched: it needs one dynamic dimension of independent rows in all its tensors",
        help="compile it with --dynamic-batch-size require",
    )


def _rows_of_buckets(model: LoadedModel, dimension: DynamicDimension) -> list[int]:
    name, axis = dimension.inputs[0]
    return [next(spec.shape[axis] for spec in bucket.inputs if spec.name == name) for bucket in model.neff.buckets]
