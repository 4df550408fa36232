"""The weight store: the data of weights, beside the IR.

A store maps names to arrays that are read only when asked for: from an ONNX initializer, from external data or a
safetensors file that is memory-mapped, or from an array in memory. The IR refers to an entry by `graph.weight @name`.
Files are treated as hostile: every length, offset, shape and path is checked before anything is read through it.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from neuron_dialects.atomic_file import atomic_file
from neuron_dialects.dtypes import DType, dtype_by_name, dtype_of_numpy
from neuron_dialects.errors import NeuronError

Array: TypeAlias = npt.NDArray[Any]

MAX_HEADER_BYTES = 100_000_000
"""Longest safetensors header accepted, as in the format's reference implementation."""
MAX_RANK = 32
"""Highest number of dimensions accepted; numpy has no more than 64."""

_SAFETENSORS_NAMES = {
    "i1": "BOOL",
    "ui8": "U8",
    "i8": "I8",
    "f8e5m2": "F8_E5M2",
    "f8e4m3fn": "F8_E4M3",
    "i16": "I16",
    "ui16": "U16",
    "f16": "F16",
    "bf16": "BF16",
    "i32": "I32",
    "ui32": "U32",
    "f32": "F32",
    "i64": "I64",
    "ui64": "U64",
    "f64": "F64",
}
_BY_SAFETENSORS_NAME = {name: dtype_by_name(row) for row, name in _SAFETENSORS_NAMES.items()}
_CARRIERS = {"tf32": "F32", "f8e4m3": "U8", "f8e3m4": "U8"}
"""Element types that safetensors lacks travel as one of the same size; the metadata entry `dtype:NAME` names them."""


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: DType
    shape: tuple[int, ...]
    read: Callable[[], Array]
    """Gives the elements as an array of the right dtype and number of elements, without a copy where possible."""

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * self.dtype.size_bytes


class WeightStore:
    """Named, lazily read, read-only arrays."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._read: weakref.WeakValueDictionary[str, Array] = weakref.WeakValueDictionary()
        self._mapped: dict[Path, Array] = {}

    # Reading

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> tuple[str, ...]:
        """Names of all entries, in the order they were added."""
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an entry; NeuronError when there is no such entry."""
        return self._entry(name).shape

    def dtype(self, name: str) -> DType:
        """Element type of an entry; NeuronError when there is no such entry."""
        return self._entry(name).dtype

    def size_bytes(self, name: str) -> int:
        """Bytes of an entry's elements; NeuronError when there is no such entry."""
        return self._entry(name).size_bytes

    def get(self, name: str) -> Array:
        """The array of an entry, read-only, in the entry's shape and `dtype.numpy`.

        Reads the entry now; the array is shared between callers for as long as one of them holds it. NeuronError when
        there is no such entry, or when its bytes do not fit its shape.
        """
        entry = self._entry(name)
        array = self._read.get(name)
        if array is None:
            array = entry.read()
            if array.dtype != entry.dtype.numpy or array.size != prod(entry.shape):
                raise NeuronError(
                    "NX-WEIGHT-004",
                    f"weight '{name}' holds {array.size} elements of {array.dtype},"
                    f" not {prod(entry.shape)} of {entry.dtype}",
                )
            array = array.reshape(entry.shape).view()
            array.flags.writeable = False
            self._read[name] = array
        return array

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise NeuronError("NX-WEIGHT-003", f"there is no weight '{name}' in the weight store")
        return entry

    # Adding

    def add(self, name: str, array: Array, dtype: DType | None = None) -> None:
        """Add an array (not copied: the caller no longer writes to it); `dtype` tells tf32 from f32."""
        row = dtype or dtype_of_numpy(array.dtype)
        if array.dtype != row.numpy:
            raise ValueError(f"an array of {array.dtype} cannot hold {row}")
        self.add_lazy(name, row, array.shape, lambda: array)

    def add_lazy(self, name: str, dtype: DType, shape: Sequence[int], read: Callable[[], Array]) -> None:
        """Add an entry whose elements `read()` gives when they are asked for.

        `read` returns an array of `dtype.numpy` with as many elements as `shape` has, in row-major order. An entry of
        the same name is replaced.
        """
        if len(shape) > MAX_RANK or any(dim < 0 for dim in shape):
            raise NeuronError("NX-WEIGHT-004", f"weight '{name}' has the impossible shape {list(shape)}")
        self._entries[name] = _Entry(dtype, tuple(int(dim) for dim in shape), read)
        self._read.pop(name, None)

    def add_mapped(self, name: str, dtype: DType, shape: Sequence[int], path: Path, offset: int, length: int) -> None:
        """Add an entry of `length` bytes at `offset` of a file, which is memory-mapped.

        NeuronError when the file is missing or shorter, or when the length is not that of shape and dtype.
        """
        expected = prod(shape) * dtype.size_bytes
        if length != expected:
            raise NeuronError("NX-WEIGHT-004", f"weight '{name}' has {length} bytes but its shape needs {expected}")
        buffer = self._map(path)
        if offset < 0 or offset + length > buffer.size:
            raise NeuronError(
                "NX-WEIGHT-001",
                f"weight '{name}' is at bytes {offset} to {offset + length} of '{path.name}',"
                f" which has only {buffer.size} bytes",
            )
        self.add_lazy(name, dtype, shape, lambda: buffer[offset : offset + length].view(dtype.numpy))

    def add_external(
        self,
        name: str,
        dtype: DType,
        shape: Sequence[int],
        *,
        folder: Path,
        location: str,
        offset: int = 0,
        length: int | None = None,
    ) -> None:
        """Add an entry stored in a file beside the model (ONNX external data).

        `location` is relative to `folder`. NeuronError when it leads out of the folder (also through a symbolic link),
        when the file is missing, or when the bytes are out of its bounds.
        """
        path = _inside(folder, location, name)
        expected = prod(shape) * dtype.size_bytes
        self.add_mapped(name, dtype, shape, path, offset, expected if length is None else length)

    def discard(self, name: str) -> None:
        """Drop an entry, if there is one of that name."""
        self._entries.pop(name, None)
        self._read.pop(name, None)

    def retain(self, names: Collection[str]) -> None:
        """Drop all entries but those named."""
        self._entries = {name: entry for name, entry in self._entries.items() if name in names}

    def _map(self, path: Path) -> Array:
        """The bytes of a file, memory-mapped once per store."""
        mapped = self._mapped.get(path)
        if mapped is None:
            try:
                empty = path.stat().st_size == 0
                mapped = np.zeros(0, np.uint8) if empty else np.asarray(np.memmap(path, np.uint8, mode="r"))
            except OSError as error:
                raise NeuronError(
                    "NX-WEIGHT-001",
                    f"weight data '{path.name}' cannot be read: {error.strerror or error}",
                    help="keep the data files beside the model file",
                ) from error
            self._mapped[path] = mapped
        return mapped

    # Files

    def save_safetensors(self, path: str | os.PathLike[str]) -> None:
        """Write all entries to a safetensors file. The same entries give the same bytes.

        Entries are ordered by decreasing element size, then by name, so that every array is aligned to its element.
        """
        target = Path(path)
        names = sorted(self._entries, key=lambda name: (-self._entries[name].dtype.size_bytes, name))
        header = _encode_header([(name, self._entries[name]) for name in names])
        try:
            with atomic_file(target) as temporary, temporary.open("wb") as file:
                file.write(header)
                for name in names:
                    self._write_elements(file, name)
        except OSError as error:
            raise NeuronError("NX-WEIGHT-002", f"cannot write '{target}': {error.strerror or error}") from error

    def _write_elements(self, file: BinaryIO, name: str) -> None:
        array = np.ascontiguousarray(self.get(name))
        file.write(array.reshape(-1).view(np.uint8).data)

    @classmethod
    def load_safetensors(cls, path: str | os.PathLike[str]) -> WeightStore:
        """A store over a memory-mapped safetensors file; NeuronError when the file is missing or malformed."""
        source = Path(path)
        store = cls()
        buffer = store._map(source)
        header, start = _decode_header(source.name, buffer)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise _malformed(source.name, "its metadata is not an object")
        spans: list[tuple[int, int]] = []
        for name, entry in header.items():
            dtype, shape, begin, end = _checked_entry(source.name, name, entry, metadata.get(f"dtype:{name}"))
            if not 0 <= begin <= end <= buffer.size - start:
                raise _malformed(source.name, f"tensor '{name}' is outside the file")
            spans.append((begin, end))
            store.add_mapped(name, dtype, shape, source, start + begin, end - begin)
        _check_no_holes(source.name, spans, buffer.size - start)
        return store


def _inside(folder: Path, location: str, name: str) -> Path:
    """The file `location` below `folder`; NeuronError when it is not below it or is not a regular file."""
    root = folder.resolve()
    refused = NeuronError(
        "NX-WEIGHT-001",
        f"weight '{name}' refers to '{location}', which is not a file inside the model's folder",
        help="external data must lie beside the model file",
    )
    if not location or "\0" in location or Path(location).is_absolute():
        raise refused
    try:
        path = (root / location).resolve()
        regular = path.is_file()
    except OSError as error:
        raise refused from error
    if not path.is_relative_to(root) or not regular:
        raise refused
    return path


def _encode_header(entries: Sequence[tuple[str, _Entry]]) -> bytes:
    """Length and JSON header of a safetensors file holding these entries one after the other."""
    tensors: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    position = 0
    for name, entry in entries:
        if name == "__metadata__":
            raise NeuronError("NX-WEIGHT-002", "a weight cannot be called '__metadata__' in a safetensors file")
        kind = _SAFETENSORS_NAMES.get(entry.dtype.name)
        if kind is None:
            kind = _CARRIERS[entry.dtype.name]
            metadata[f"dtype:{name}"] = entry.dtype.name
        end = position + entry.size_bytes
        tensors[name] = {"dtype": kind, "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    header: dict[str, Any] = {"__metadata__": metadata, **tensors} if metadata else tensors
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _malformed(file: str, what: str) -> NeuronError:
    return NeuronError("NX-WEIGHT-002", f"'{file}' is not a valid safetensors file: {what}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _decode_header(file: str, buffer: Array) -> tuple[dict[str, Any], int]:
    """The JSON header and the position where the data begins."""
    if buffer.size < 8:
        raise _malformed(file, f"{buffer.size} bytes are fewer than 8")
    length = int.from_bytes(buffer[:8].tobytes(), "little")
    if length > min(MAX_HEADER_BYTES, buffer.size - 8):
        raise _malformed(file, f"a header of {length} bytes does not fit")
    try:
        header = json.loads(buffer[8 : 8 + length].tobytes().decode(), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _malformed(file, f"its header is not JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise _malformed(file, "its header is not an object")
    return header, 8 + length


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _checked_entry(file: str, name: str, entry: object, carried: object) -> tuple[DType, tuple[int, ...], int, int]:
    """Element type, shape, first byte and end of one header entry; `carried` is the dtype that the metadata names."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(file, f"tensor '{name}' lacks dtype, shape or data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _BY_SAFETENSORS_NAME.get(kind) if isinstance(kind, str) else None
    if isinstance(carried, str) and _CARRIERS.get(carried) == kind:
        dtype = dtype_by_name(carried)
    if dtype is None:
        raise _malformed(file, f"tensor '{name}' has the unknown dtype {kind!r}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_natural, shape)):
        raise _malformed(file, f"tensor '{name}' has a malformed shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
        raise _malformed(file, f"tensor '{name}' has malformed data_offsets")
    begin, end = offsets
    if prod(shape) * dtype.size_bytes != end - begin:
        raise _malformed(file, f"tensor '{name}' has {end - begin} bytes, which its shape does not need")
    return dtype, tuple(shape), begin, end


def _check_no_holes(file: str, spans: Sequence[tuple[int, int]], size: int) -> None:
    """The tensors cover the data exactly once, as the format demands: no overlap, no unused bytes."""
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _malformed(file, f"bytes {min(begin, position)} to {max(begin, position)} are unused or used twice")
        position = end
    if position != size:
        raise _malformed(file, f"the last {size - position} bytes are unused")
