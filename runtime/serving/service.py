"""A compiled model as the serving runtime sees it: the cores that it needs, the steps of a request and their times.

Times of core programs are measured once on the machine in timing mode; those of host segments and of transfers are the
partitioner's estimates. All of them are of simulated time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from neuron_dialects.cost import boundary_ns
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.target import Target
from runtime.neff import CORE, OPAQUE, Bucket, GraphNode, Neff, TensorSpec
from runtime.serving.simulation import CHIP_LINK, DELAY, HOST, LINK_IN, LINK_OUT, Step
from runtime.serving.simulation import CORE as CORE_STEP

DOUBLE_BUFFER = 2
"""Buffers between two stages of a pipeline."""


@dataclass(frozen=True)
class CoreUse:
    """How many cores one instance of a model needs, which of them, by position, each core program runs on, and how many
    requests these programs can work on one after the other.
    """

    cores: int
    core_of: Mapping[int, int]
    stages: int


def core_use(neff: Neff) -> CoreUse:
    """The stages of a NeuronCore Pipeline have a core each, or two of them one, which they share with no other model:
    their weights stay in its SBUF. Other core segments, with host segments between them, never run at the same time for
    one request: they share one core.
    """
    callees = sorted({node.callee for bucket in neff.buckets for node in bucket.graph if node.executor == CORE})
    pinned = any(neff.subgraphs[callee].program.pinned for callee in callees)
    if not pinned and not any(map(_has_stages, neff.buckets)):
        return CoreUse(1, dict.fromkeys(callees, 0), 1)
    core_of: dict[int, int] = {}
    for bucket in neff.buckets:
        core_of.update(neff.core_positions(bucket))
    return CoreUse(neff.cores, core_of, max(len(neff.core_positions(bucket)) for bucket in neff.buckets))


def _has_stages(bucket: Bucket) -> bool:
    """Whether a core segment feeds another one without the host between them."""
    return any(first.executor == second.executor == CORE for first, second in itertools.pairwise(bucket.graph))


def switch_ns(neff: Neff, target: Target, use: CoreUse) -> float:
    """Nanoseconds until pinned weights are on chip again after another model had the cores: those of the fullest core,
    at the rate of DRAM. Nothing else of a model has to be brought back.
    """
    rows = [neff.subgraphs[callee].program.pinned_bytes * int(target.partitions) for callee in use.core_of]
    return max(rows, default=0) / float(target.dram_bytes_per_ns)


def service_steps(neff: Neff, target: Target, use: CoreUse, core_ns: Callable[[int], float]) -> tuple[Step, ...]:
    """The steps of one request of the model's first bucket.

    Core segments that follow each other are one launch: its inputs go over the link first, then the request passes from
    core to core through double buffers, then what the host needs comes back. A stage stores into the buffers of the
    next one, so that the way between cores of one chip is part of the stages' own times; to another chip it is longer.

    Args:
        core_ns: nanoseconds of a core program, by its index.
    """
    bucket = neff.buckets[0]
    specs = {spec.name: spec for spec in (*bucket.inputs, *bucket.intermediates, *bucket.outputs)}
    last_use = _host_uses(bucket)
    on_device: set[str] = set()
    on_host = {spec.name for spec in bucket.inputs}
    steps: list[Step] = []
    for is_core, group in itertools.groupby(bucket.graph, lambda node: node.executor == CORE):
        nodes = list(group)
        if not is_core:
            steps += [Step(HOST, host_segment_ns(neff, node, specs, target)) for node in nodes]
            on_host.update(name for node in nodes for name in node.outputs)
            continue
        made = {name for node in nodes for name in node.outputs}
        sent = {name for node in nodes for name in node.inputs} - made - on_device
        fetched = (made & last_use) - on_host
        cores = [use.core_of[node.callee] for node in nodes]
        steps.append(Step(DELAY, float(target.core_launch_ns)))
        steps.append(Step(LINK_IN, _link_ns(sent, specs, target), cores[0]))
        for position, (core, node) in enumerate(zip(cores, nodes, strict=True)):
            steps.append(Step(CORE_STEP, core_ns(node.callee), core, DOUBLE_BUFFER))
            crossing = _needed_from_before(nodes[position + 1 :])
            following = cores[min(position + 1, len(cores) - 1)]
            steps.append(Step(CHIP_LINK, _chip_link_ns(crossing, specs, target), core, to=following))
        steps.append(Step(LINK_OUT, _link_ns(fetched, specs, target), cores[-1]))
        on_device |= made | sent
        on_host |= fetched
    return tuple(step for step in steps if step.time_ns > 0)


def _host_uses(bucket: Bucket) -> set[str]:
    """Tensors that host segments or the caller read."""
    used = {spec.name for spec in bucket.outputs}
    return used.union(*(node.inputs for node in bucket.graph if node.executor != CORE))


def _link_ns(names: set[str], specs: Mapping[str, TensorSpec], target: Target) -> float:
    return sum(boundary_ns(_tensor_bytes(specs[name]), target) for name in sorted(names))


def _needed_from_before(nodes: Sequence[GraphNode]) -> set[str]:
    """Tensors that nodes read and that none of them makes."""
    return {name for node in nodes for name in node.inputs} - {name for node in nodes for name in node.outputs}


def _chip_link_ns(names: set[str], specs: Mapping[str, TensorSpec], target: Target) -> float:
    """Nanoseconds of tensors on their way from one chip to the next, as one transfer."""
    if not names:
        return 0.0
    moved = sum(_tensor_bytes(specs[name]) for name in names)
    return float(target.neuronlink_start_ns) + moved / float(target.neuronlink_bytes_per_ns)


def _tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of a tensor; of one that only the host knows, as if its unknown dimensions were 1."""
    if spec.dtype == OPAQUE:
        return 0
    return prod(max(1, size) for size in spec.shape) * dtype_by_name(spec.dtype).size_bytes


def host_segment_ns(neff: Neff, node: GraphNode, specs: Mapping[str, TensorSpec], target: Target) -> float:
    """Nanoseconds of a host segment: the compile report's estimate, else a launch and its tensors' bytes."""
    for row in _rows(neff.report.get("segments")):
        estimate = row.get("estimated_us")
        if row.get("name") == node.name and isinstance(estimate, int | float) and 0 <= estimate < 1e12:
            return float(estimate) * 1000.0
    touched = sum(_tensor_bytes(specs[name]) for name in (*node.inputs, *node.outputs))
    return float(target.host_launch_ns) + touched / float(target.host_bytes_per_ns)


def _rows(value: Any) -> list[dict[str, Any]]:
    """The objects of a list of a report, which any file may have written."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
