"""A compiled model as plain data: what the compiler writes into a NEFF and what the runtime gets out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuron_dialects.isa.program import CoreProgram

Parameter = np.ndarray[Any, np.dtype[Any]] | bytes
"""A parameter's values: an array of the variable's shape and element type, or its raw little-endian row-major bytes."""

CORE, HOST = "core", "host"
OPAQUE = "opaque"
"""Element type of a tensor that only the host touches and that no machine type describes (strings, sequences)."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor between the nodes of a model, or at its boundary.

    `dtype` is the element type that the caller or the host sees, `device_dtype` the one that a core program uses; where
    they differ (i64 and i32) the runtime converts. `shape` in elements, framework order. A tensor that only host models
    touch may have dimensions that are not known before it is made (-1), and the element type `OPAQUE`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    device_dtype: str


@dataclass(frozen=True)
class GraphNode:
    """One step of the model: call core program or host model `callee` (an index) with the tensors of these names.

    `executor` is "core" or "host". A core program's input and output variables correspond to `inputs` and `outputs` by
    position, in the order of its variables; a host model's likewise to the inputs and outputs of its ONNX graph.
    """

    executor: str
    callee: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""


@dataclass
class CoreImage:
    """The program of one core and the values of its parameters, by name of the variable of kind `file`."""

    program: CoreProgram
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True)
class Bucket:
    """The model at one set of input shapes: its nodes in execution order and its tensors.

    `intermediates` describes every tensor that a node makes and that is not an output. Nodes of several buckets call
    programs and host models out of the same lists.
    """

    graph: list[GraphNode]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    intermediates: list[TensorSpec] = field(default_factory=list)


@dataclass(frozen=True)
class DynamicDimension:
    """A dimension that the caller chooses with every run. `inputs` and `outputs`: (tensor, axis) that have its size.

    The inputs of a run may be smaller than a bucket's along it: they are padded behind their end, and the outputs are
    cut to the caller's size. `independent`: what the outputs hold at one position depends on the inputs at this
    position only, so any size can also be run in pieces.
    """

    name: str
    independent: bool
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass
class Neff:
    """A compiled model.

    `graph`, `inputs`, `outputs` and `intermediates` are the first bucket's (see `Bucket`), `further_buckets` holds the
    model at other shapes of the same inputs and outputs. `host_models` are serialised ONNX models. `report` is the
    compile report, plain JSON data; it is part of the file and must not hold what differs from run to run (times,
    paths), or equal models no longer give equal bytes. `padding`: input -> value of the elements that are added to it
    along dynamic `dimensions`, where it is not 0.
    """

    name: str
    target: str
    subgraphs: list[CoreImage]
    host_models: list[bytes]
    graph: list[GraphNode]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    intermediates: list[TensorSpec] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    further_buckets: list[Bucket] = field(default_factory=list)
    dimensions: list[DynamicDimension] = field(default_factory=list)
    padding: dict[str, int | float] = field(default_factory=dict)

    @property
    def buckets(self) -> list[Bucket]:
        """The model at every set of shapes that it was compiled for."""
        return [Bucket(self.graph, self.inputs, self.outputs, self.intermediates), *self.further_buckets]

    @property
    def cores(self) -> int:
        """Cores that a run takes at most: one for each core program of its bucket, or for those that share one."""
        return max(max(self.core_positions(bucket).values(), default=-1) + 1 for bucket in self.buckets)

    def core_positions(self, bucket: Bucket) -> dict[int, int]:
        """Core program that a bucket calls -> position of its core, in the order of first calls."""
        positions: dict[tuple[str, int], int] = {}
        found: dict[int, int] = {}
        for node in bucket.graph:
            if node.executor == CORE:
                core = self.subgraphs[node.callee].program.core
                owner = ("alone", node.callee) if core is None else ("shared", core)
                found[node.callee] = positions.setdefault(owner, len(positions))
        return found


def parameter_file_name(index: int, name: str) -> str:
    """A member name for parameter `index` that is safe on every file system and still readable: `params/0003-fc1_w`."""
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[-60:]
    return f"params/{index:04d}-{readable or 'unnamed'}"


def shared_file_name(subgraph: str, file_name: str) -> str:
    """How another subgraph calls the parameter file `file_name` of `subgraph`: `../sg00/params/0003-fc1_w`."""
    return f"../{subgraph}/{file_name}"


def is_shared(file_name: str) -> bool:
    """Whether a parameter's values lie in the file of another subgraph."""
    return file_name.startswith("../")


def parameter_member(subgraph: str, file_name: str) -> str:
    """The archive's member that a parameter of `subgraph` is in."""
    return file_name.removeprefix("../") if is_shared(file_name) else f"{subgraph}/{file_name}"
