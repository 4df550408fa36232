"""MXNet's files as MXNet would write them: graphs built node by node, and the container of parameters."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_TYPE_FLAGS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


@dataclass
class SymbolWriter:
    """A graph in the order of its nodes. Nodes are referred to by their number, or by (number, output)."""

    nodes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def variable(self, name: str, **attributes: str) -> int:
        return self.add("null", name, **attributes)

    def add(self, op: str, name: str, *inputs: int | tuple[int, int], **attributes: object) -> int:
        entries = [[i, 0, 0] if isinstance(i, int) else [*i, 0] for i in inputs]
        node: dict[str, Any] = {"op": op, "name": name, "inputs": entries}
        if attributes:
            node["attrs"] = {key: str(value) for key, value in attributes.items()}
        self.nodes.append(node)
        return len(self.nodes) - 1

    def text(self, *heads: int | tuple[int, int]) -> str:
        results = [[h, 0, 0] if isinstance(h, int) else [*h, 0] for h in heads or (len(self.nodes) - 1,)]
        variables = [number for number, node in enumerate(self.nodes) if node["op"] == "null"]
        return json.dumps({"nodes": self.nodes, "arg_nodes": variables, "heads": results})


def params_bytes(arrays: Mapping[str, Array], version: int = 2) -> bytes:
    """The container, its arrays written as MXNet's versions 0 to 3 write them."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    for array in arrays.values():
        size = "I" if version == 0 else "q"
        if version:
            parts.append(struct.pack("<I", 0xF993FAC7 + version))
        if version >= 2:
            parts.append(struct.pack("<i", 0))
        parts.append(struct.pack(f"<I{array.ndim}{size}", array.ndim, *array.shape))
        parts.append(struct.pack("<iii", 1, 0, _TYPE_FLAGS[array.dtype.name]) + array.tobytes())
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts.append(struct.pack("<Q", len(name)) + name.encode())
    return b"".join(parts)


def write_model(
    folder: Path, name: str, symbol: SymbolWriter, arrays: Mapping[str, Array], heads: Sequence[int] = ()
) -> Path:
    """Both files of a model; gives the graph's."""
    (folder / f"{name}-0000.params").write_bytes(params_bytes(arrays))
    path = folder / f"{name}-symbol.json"
    path.write_text(symbol.text(*heads), encoding="utf-8")
    return path
