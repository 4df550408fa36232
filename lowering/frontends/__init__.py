"""Models of other frameworks, turned into ONNX models in memory.

`to_onnx` is given what a user names on a command line and leaves what the importer takes: an ONNX file or an
`onnx.ModelProto` as it is, and for a file of another framework the ModelProto that its exporter, or our own converter,
makes of it. `lowering.frontends.pytorch.compile` does the same for a PyTorch module that is in memory. The frameworks'
packages are optional extras, imported only when a file of theirs is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

SYMBOL_SUFFIX = "-symbol.json"
"""How MXNet names the graph of a model; the parameters are beside it."""


def frontend_of(path: Path) -> str:
    """Name of the frontend that reads `path`; ONNX's where nothing speaks for another."""
    if path.suffix == ".pt2":
        return "pytorch"
    if path.suffix == ".keras" or path.is_dir():
        return "tensorflow"
    return "mxnet" if path.name.endswith(SYMBOL_SUFFIX) else "onnx"


def model_name(path: Path) -> str:
    """The model's name, for the files that are made of it: the path's without what tells its kind."""
    return path.name.removesuffix(SYMBOL_SUFFIX) if frontend_of(path) == "mxnet" else path.stem


def to_onnx(source: str | os.PathLike[str] | ModelProto) -> str | os.PathLike[str] | ModelProto:
    """The ONNX model of a file of any framework; ONNX files and models in memory are returned as they are.

    NeuronError: NX-FRAME-001 when the framework's package is not installed, 002 when the file is malformed or holds
    parts that are not loaded, 003 when the exporter fails, 004 for an operator that has no converter.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    path = Path(source)
    match frontend_of(path):
        case "pytorch":
            from lowering.frontends.pytorch import read_pt2

            return read_pt2(path)
        case "tensorflow":
            from lowering.frontends.tensorflow import read_tensorflow

            return read_tensorflow(path)
        case "mxnet":
            from lowering.frontends.mxnet import read_mxnet

            return read_mxnet(path)
        case _:
            return source
