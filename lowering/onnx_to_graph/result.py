"""What an import leaves behind: the module, its weights, and what there is to report."""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.weights import WeightStore


@dataclass(frozen=True, slots=True)
class HostNode:
    """An ONNX node that became a `graph.onnx_node`."""

    name: str
    """Name of the node in the model, or its operator and position where it has none."""
    op_type: str
    """Operator, with its domain in front when it is not ONNX's own."""
    reason: str
    """Why the node has no graph operator."""


@dataclass(frozen=True, slots=True)
class SymbolUse:
    """The places of a symbolic dimension in the inputs."""

    axes: tuple[tuple[str, int], ...]
    """Input and axis."""
    is_batch: bool
    """Whether it is a first dimension only, and not called a length."""


@dataclass(slots=True)
class ImportInfo:
    """What an import decided, for the compile report."""

    producer: str = ""
    """Tool that wrote the model, as the file says."""
    original_opset: int = 0
    """Version of ONNX's own operator set in the file."""
    opset: int = 0
    """Version imported; differs from the original when the model was converted."""
    bound_dimensions: dict[str, int] = field(default_factory=dict[str, int])
    """Symbolic dimension -> size; an unnamed one is called INPUT[POSITION]."""
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    """Input tensor -> shape that it was bound to."""
    symbols: dict[str, SymbolUse] = field(default_factory=dict[str, "SymbolUse"])
    """Symbolic dimension -> where the inputs have it."""
    shape_branches: list[str] = field(default_factory=list[str])
    """If nodes of which one branch was imported because the condition is known with the shapes."""
    notes: list[str] = field(default_factory=list[str])
    """Decisions taken for the user, one sentence each."""
    onnx_nodes: list[HostNode] = field(default_factory=list[HostNode])
    """The nodes left to the host, in program order."""
    node_count: int = 0
    """Nodes of the model's main graph."""
    operators: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Operator of the model (without its domain) -> names of its nodes, in program order."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The imported model."""

    module: ModuleOp
    weights: WeightStore
    info: ImportInfo
