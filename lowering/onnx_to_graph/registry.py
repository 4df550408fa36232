"""The table of ONNX operators that become graph operators.

One row per operator: the converter and the operator-set versions it understands. Rows are grouped in one module per
family. An operator without a row is expanded through ONNX's own function body where it has one, else left to the host.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lowering.onnx_to_graph.node import Node
from lowering.onnx_to_graph.values import Value

Converter: TypeAlias = Callable[[Node], Sequence[Value]]
"""Emits the graph operators of a node and returns its outputs; raises Unsupported or ShapeError where it cannot."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one ONNX operator is converted."""

    convert: Converter
    since: int = 7
    """First version of the operator set whose form of the operator the converter understands."""
    until: int | None = None
    """Last such version, or None."""

    def covers(self, opset: int) -> bool:
        """Whether the converter understands the operator in this version of its set."""
        return self.since <= opset and (self.until is None or opset <= self.until)


Table: TypeAlias = Mapping[str, Row]
"""ONNX operator type -> row."""


_FAMILIES = (
    "attention",
    "bits",
    "contraction",
    "elementwise",
    "indexing",
    "linear",
    "movement",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resizing",
    "sampling",
    "scattering",
    "spectral",
    "trigonometry",
)
"""Modules with a table CONVERTERS, by what their operators do; imported on first use, since they import this one."""


ADDED: dict[str, Row] = {}
"""Rows of plug-ins, by `operator_key`."""


def operator_key(domain: str, op_type: str) -> str:
    """How the table calls an operator: by its type in ONNX's own domain, else `domain.type`."""
    return op_type if domain in ("", "ai.onnx") else f"{domain}.{op_type}"


def converters() -> Table:
    """The whole table, for operators of ONNX's own domain and of the domains of plug-ins, by `operator_key`."""
    table: dict[str, Row] = {}
    for family in _FAMILIES:
        rows: Table = importlib.import_module(f"lowering.onnx_to_graph.{family}").CONVERTERS
        for op_type, row in rows.items():
            if op_type in table:
                raise ValueError(f"two converters for {op_type}")
            table[op_type] = row
    return table | ADDED
