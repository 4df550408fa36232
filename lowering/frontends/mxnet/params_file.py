"""MXNet's container of named arrays, `.params`.

Little-endian: a magic number (8 bytes), 8 reserved, the number of arrays (8), the arrays, the number of names (8), and
the names, each with its length (8) in front. An array is a magic number of its version (4), the storage type (4, from
version 2 on), the number of dimensions (4), the sizes (8 each), the device (2 x 4), the element type (4) and the data.
Before version 1 the magic number's place is taken by the number of dimensions, and sizes have 4 bytes. Everything is
checked against the file's size before it is believed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from neuron_dialects.errors import NeuronError

Array = np.ndarray[Any, np.dtype[Any]]

FILE_MAGIC = 0x112
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
"""With 8-byte sizes; with storage types; with scalars and empty tensors (numpy's shapes)."""
ELEMENT_TYPES: tuple[Any, ...] = (
    np.float32, np.float64, np.float16, np.uint8, np.int32, np.int8, np.int64, np.bool_, np.int16, np.uint16,
    np.uint32, np.uint64, ml_dtypes.bfloat16,
)  # fmt: skip
"""Element types by their number in the file."""
MAX_FILE_BYTES = 16 << 30
MAX_ARRAYS = 1 << 20
MAX_DIMENSIONS = 32
MAX_NAME_BYTES = 4096


def read_params(path: Path) -> dict[str, Array]:
    """Arrays by name, without the prefixes `arg:` and `aux:`. They share the file's bytes.

    NeuronError NX-FRAME-002 when the file cannot be read, is malformed, or has sparse arrays.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise _malformed(path, f"it has {size} bytes, limit {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise NeuronError("NX-FRAME-002", f"'{path}' cannot be read: {error.strerror}") from error
    return _Reader(path, memoryview(data)).arrays()


def _malformed(path: Path, why: str) -> NeuronError:
    return NeuronError("NX-FRAME-002", f"'{path.name}' is no MXNet parameter file: {why}")


@dataclass(slots=True)
class _Reader:
    """A position in the file."""

    path: Path
    data: memoryview
    at: int = 0

    def arrays(self) -> dict[str, Array]:
        if len(self.data) < 24 or self.numbers("QQ")[0] != FILE_MAGIC:
            raise _malformed(self.path, f"it does not begin with {FILE_MAGIC:#x}")
        arrays = [self.array() for _ in range(self.count())]
        names = [self.name() for _ in range(self.count())]
        if len(names) != len(arrays):
            raise _malformed(self.path, f"it has {len(arrays)} arrays but {len(names)} names")
        if len(set(names)) != len(names):
            raise _malformed(self.path, "a name occurs twice")
        return dict(zip(names, arrays, strict=True))

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise _malformed(self.path, f"it ends at byte {len(self.data)} inside of something of {size} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, format: str) -> tuple[int, ...]:
        return struct.unpack(f"<{format}", self.take(struct.calcsize(f"<{format}")))

    def count(self) -> int:
        (count,) = self.numbers("Q")
        if count > MAX_ARRAYS:
            raise _malformed(self.path, f"it claims {count} arrays, limit {MAX_ARRAYS}")
        return count

    def name(self) -> str:
        (size,) = self.numbers("Q")
        if size > MAX_NAME_BYTES:
            raise _malformed(self.path, f"a name of {size} bytes, limit {MAX_NAME_BYTES}")
        try:
            name = bytes(self.take(size)).decode()
        except UnicodeDecodeError as error:
            raise _malformed(self.path, "a name is not UTF-8") from error
        return name.removeprefix("arg:").removeprefix("aux:")

    def array(self) -> Array:
        (version,) = self.numbers("I")
        if version in (VERSION_2, VERSION_3) and self.numbers("i") != (0,):
            raise _malformed(self.path, "it has sparse arrays, which are not supported")
        is_current = version in (VERSION_1, VERSION_2, VERSION_3)
        (rank,) = self.numbers("I") if is_current else (version,)
        if rank > MAX_DIMENSIONS:
            raise _malformed(self.path, f"an array of {rank} dimensions, limit {MAX_DIMENSIONS}")
        shape = self.numbers(f"{rank}{'q' if is_current else 'I'}")
        if any(size < 0 for size in shape):
            raise _malformed(self.path, f"an array of shape {shape}")
        if rank == 0 and version != VERSION_3:
            return np.zeros(0, np.float32)  # "none": nothing follows
        *_, type_ = self.numbers("iii")
        if not 0 <= type_ < len(ELEMENT_TYPES):
            raise _malformed(self.path, f"an array of element type {type_}")
        dtype = np.dtype(ELEMENT_TYPES[type_])
        return np.frombuffer(self.take(prod(shape) * dtype.itemsize), dtype).reshape(shape)
