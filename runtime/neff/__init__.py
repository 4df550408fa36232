"""NEFF, the compiled file: a model as plain data (`Neff`), its writer, and a reader that trusts no byte."""

from runtime.neff.container import NeffFile, decode_neff, neff_bytes, open_neff, read_neff, unpack, write_neff
from runtime.neff.encoding import decode_queue, encode_queue
from runtime.neff.limits import Limits
from runtime.neff.model import (
    CORE,
    HOST,
    OPAQUE,
    Bucket,
    CoreImage,
    DynamicDimension,
    GraphNode,
    Neff,
    Parameter,
    TensorSpec,
    parameter_file_name,
    shared_file_name,
)

__all__ = [
    "CORE",
    "HOST",
    "OPAQUE",
    "Bucket",
    "CoreImage",
    "DynamicDimension",
    "GraphNode",
    "Limits",
    "Neff",
    "NeffFile",
    "Parameter",
    "TensorSpec",
    "decode_neff",
    "decode_queue",
    "encode_queue",
    "neff_bytes",
    "open_neff",
    "parameter_file_name",
    "read_neff",
    "shared_file_name",
    "unpack",
    "write_neff",
]
