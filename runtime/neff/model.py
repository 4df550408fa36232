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


@dataclass
class Neff:
    """A compiled model.

    `graph` is in execution order. `intermediates` describes every tensor that a node makes and that is not an output.
    `host_models` are serialised ONNX models. `report` is the compile report, plain JSON data; it is part of the file
    and must not hold what differs from run to run (times, paths), or equal models no longer give equal bytes.
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


def parameter_file_name(index: int, name: str) -> str:
    """A member name for parameter `index` that is safe on every file system and still readable: `params/0003-fc1_w`."""
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[-60:]
    return f"params/{index:04d}-{readable or 'unnamed'}"
