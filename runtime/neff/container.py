"""Writing and reading NEFF files: a `Neff` on one side, the documented header and archive on the other.

Writing streams every parameter once through the hash into a temporary file that takes the target's place when it is
complete. Reading checks header, hash, archive, JSON, instructions and their references, in this order, and maps
parameters from the file instead of reading them; it never writes to disk.
"""

import hashlib
import io
import mmap
import os
import stat
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from neuron_dialects.atomic_file import atomic_file
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram, DramVariable, QueueEntry
from runtime.neff import manifest
from runtime.neff.archive import END_OF_ARCHIVE, Member, expand, read_index, unpack_members, write_member
from runtime.neff.encoding import decode_queue, encode_queue
from runtime.neff.header import HEADER_BYTES, NeffHeader, header_name, parse_header, verify_hash
from runtime.neff.json_check import Description, dump_json, load_json
from runtime.neff.limits import DEFAULT_LIMITS, Limits
from runtime.neff.model import CoreImage, Neff, Parameter, is_shared, parameter_member
from runtime.neff.neff_check import check_neff, parameter_bytes

Source = str | os.PathLike[str] | bytes
"""A NEFF to read: a path, or the file's bytes."""


# -- writing -----------------------------------------------------------------------------------------------------------


def write_neff(neff: Neff, path: str | os.PathLike[str], *, compress: bool = False) -> None:
    """Write `neff` to `path`, which holds either the whole new file or what it held before.

    Args:
        neff: the model; parameters are streamed from where they lie.
        path: the file; its folder must exist.
        compress: gzip the archive. A plain archive loads faster: its parameters can be mapped.

    Raises:
        NeuronError: NX-NEFF-005, -007, -008, -009, -010 for a model that is not whole, NX-FILE-001 if writing fails.
    """
    try:
        with atomic_file(path) as temporary, temporary.open("xb") as file:
            _write(neff, file, compress)
    except OSError as error:
        raise NeuronError("NX-FILE-001", f"{path}: cannot be written: {error.strerror or error}") from error


def neff_bytes(neff: Neff, *, compress: bool = False) -> bytes:
    """The bytes that `write_neff` would write. Raises as it does."""
    stream = io.BytesIO()
    _write(neff, stream, compress)
    return stream.getvalue()


LARGE_BYTES = 1 << 20
"""Pieces of this size or more are worth another thread."""


class _PayloadWriter:
    """Passes the archive on to a stream, compressed on the way or not, counting and hashing what is stored.

    `beside`: where large pieces are hashed while they are written.
    """

    def __init__(self, stream: BinaryIO, compress: bool, beside: Executor) -> None:
        self.stream = stream
        self.beside = beside
        self.digest = hashlib.sha256()
        self.size = 0
        self.compressor = zlib.compressobj(6, zlib.DEFLATED, 31) if compress else None

    def write(self, data: bytes | memoryview) -> None:
        self._store(data if self.compressor is None else self.compressor.compress(data))

    def finish(self) -> None:
        if self.compressor is not None:
            self._store(self.compressor.flush())

    def _store(self, data: bytes | memoryview) -> None:
        size = memoryview(data).nbytes
        if size < LARGE_BYTES:
            self.stream.write(data)
            self.digest.update(data)
        else:
            # Both let other threads run.
            hashed = self.beside.submit(self.digest.update, data)
            self.stream.write(data)
            hashed.result()
        self.size += size


def _write(neff: Neff, stream: BinaryIO, compress: bool) -> None:
    small = _small_members(neff)
    stream.write(bytes(HEADER_BYTES))
    with ThreadPoolExecutor(1, "neuron-neff") as beside:
        payload = _PayloadWriter(stream, compress, beside)
        for name, data in small.items():
            write_member(payload.write, name, data)
        for name, data in _parameter_members(neff):
            write_member(payload.write, name, data)
        payload.write(END_OF_ARCHIVE)
        payload.finish()
    header = NeffHeader(header_name(neff.name), neff.cores, payload.digest.digest(), payload.size)
    stream.seek(0)
    stream.write(header.pack())


def _small_members(neff: Neff) -> dict[str, bytes]:
    """Every member but the parameters. Encoding comes first: the checks rely on instructions that can be encoded."""
    code: dict[str, bytes] = {}
    for index, image in enumerate(neff.subgraphs):
        subgraph = manifest.subgraph_name(index)
        for engine in manifest.queue_engines(image.program):
            name = f"{subgraph}/{engine}.bin"
            code[name] = encode_queue(image.program.queues[engine], name)
        if image.program.pinned:
            name = f"{subgraph}/{manifest.PINNED_CODE}"
            code[name] = encode_queue(image.program.pinned, name)
    check_neff(neff)
    members = {name: dump_json(value) for name, value in manifest.json_members(neff).items()}
    members |= code
    return members | {manifest.host_model_name(index): model for index, model in enumerate(neff.host_models)}


def _parameter_members(neff: Neff) -> Iterator[tuple[str, memoryview]]:
    for index, image in enumerate(neff.subgraphs):
        subgraph = manifest.subgraph_name(index)
        for variable in image.program.variables:
            if variable.kind == "file" and not is_shared(variable.file_name):
                values = parameter_bytes(variable, image.parameters[variable.name], subgraph)
                yield f"{subgraph}/{variable.file_name}", values


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NeffFile:
    """An opened NEFF: header and archive index are checked, members are not looked into yet."""

    header: NeffHeader
    members: dict[str, Member]
    tar: memoryview
    compressed: bool

    def view(self, name: str) -> memoryview:
        """The bytes of a member in place; NX-NEFF-004 if there is none."""
        member = self.members.get(name)
        if member is None:
            raise NeuronError("NX-NEFF-004", f"the archive has no member {name}")
        return self.tar[member.offset : member.offset + member.size]


def open_neff(source: Source, limits: Limits = DEFAULT_LIMITS) -> NeffFile:
    """Check header, hash and archive of a NEFF.

    Raises:
        NeuronError: NX-FILE-001 if the file cannot be read, else NX-NEFF-001 to -004 or -010.
    """
    data = memoryview(source) if isinstance(source, bytes) else _map(Path(source))
    if len(data) > limits.file_bytes:
        raise NeuronError("NX-NEFF-010", f"the file has {len(data)} bytes, limit {limits.file_bytes}")
    header = parse_header(bytes(data[:HEADER_BYTES]), len(data))
    payload = data[HEADER_BYTES:]
    verify_hash(header, payload)
    tar = expand(payload, limits)
    return NeffFile(header, read_index(tar, limits), tar, tar is not payload)


def read_neff(source: Source, limits: Limits = DEFAULT_LIMITS) -> Neff:
    """The model in a NEFF file. Parameters are read-only arrays; those of a plain archive are mapped from the file.

    Raises:
        NeuronError: NX-FILE-001 if the file cannot be read, NX-NEFF-... for whatever is wrong with its contents.
    """
    return decode_neff(open_neff(source, limits), limits)


def decode_neff(file: NeffFile, limits: Limits = DEFAULT_LIMITS) -> Neff:
    """The model in an opened NEFF. Raises as `read_neff`."""
    reader = _Reader(file, limits)
    neff = reader.neff()
    check_neff(neff)
    reader.check_members(neff)
    return neff


def unpack(source: Source, folder: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """Write the members of a NEFF as files into `folder`, which must be empty or not exist; returns their names.

    Raises:
        NeuronError: as `open_neff`; NX-FILE-001 if the folder is not empty or cannot be written.
    """
    file = open_neff(source, limits)
    try:
        unpack_members(file.tar, file.members, Path(folder))
    except OSError as error:
        raise NeuronError("NX-FILE-001", f"{error.filename or folder}: {error.strerror or error}") from error
    return list(file.members)


def _map(path: Path) -> memoryview:
    """A read-only view of a whole regular file, which stays valid when the file is replaced."""
    try:
        # Not waiting for a writer: opening a pipe must not hang.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NeuronError("NX-FILE-001", f"{path}: not a file")
            if status.st_size == 0:
                return memoryview(b"")  # which cannot be mapped
            return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise NeuronError("NX-FILE-001", f"{path}: {reason or error}") from error


class _Reader:
    """Rebuilds a `Neff` from the members of an opened file."""

    def __init__(self, file: NeffFile, limits: Limits) -> None:
        self.file = file
        self.limits = limits
        self.json: dict[str, Any] = {}

    def load(self, name: str, description: Description) -> Any:
        view = self.file.view(name)
        if len(view) > self.limits.json_bytes:  # before it is copied
            raise NeuronError("NX-NEFF-010", f"{name} has {len(view)} bytes, limit {self.limits.json_bytes}")
        self.json[name] = load_json(bytes(view), name, description, self.limits)
        return self.json[name]

    def neff(self) -> Neff:
        info = self.load(manifest.INFO, manifest.INFO_JSON)
        graph = self.load(manifest.TOP_GRAPH, manifest.TOP_GRAPH_JSON)
        subgraphs = 0
        if manifest.KELF in self.file.members:
            subgraphs = len(self.load(manifest.KELF, manifest.KELF_JSON)["graphs"])
        report = self.load(manifest.METRICS, manifest.METRICS_JSON)
        host_models = [
            bytes(self.file.view(manifest.host_model_name(index))) for index in range(len(graph["host_models"]))
        ]
        own = graph.get("neuron_toolkit", {"buckets": [], "dimensions": [], "padding": {}})
        first, *further = (
            manifest.bucket_from_json(bucket, subgraphs, len(host_models)) for bucket in (graph, *own["buckets"])
        )
        return Neff(
            name=info["name"],
            target=info["target"],
            subgraphs=[self.image(manifest.subgraph_name(index), subgraphs) for index in range(subgraphs)],
            host_models=host_models,
            graph=first.graph,
            inputs=first.inputs,
            outputs=first.outputs,
            intermediates=first.intermediates,
            report=report,
            further_buckets=further,
            dimensions=manifest.dimensions_from_json(own["dimensions"]),
            padding=own["padding"],
        )

    def image(self, subgraph: str, subgraphs: int) -> CoreImage:
        definition = self.load(f"{subgraph}/def.json", manifest.DEFINITION_JSON)
        tensor_map = self.load(f"{subgraph}/tensor_map.json", manifest.TENSOR_MAP_JSON)
        debug = self.load(manifest.debug_name(subgraph), manifest.DEBUG_JSON)
        own = definition["neuron_toolkit"]
        variables = manifest.variables_from_json(definition, tensor_map)
        program = CoreProgram(
            target=own["target"],
            queues={engine: self.queue(subgraph, engine) for engine in manifest.ENGINES if engine in definition},
            variables=variables,
            semaphores=tuple(definition["semaphore"]),
            origins=tuple(debug["origins"]),
            macs=own["macs"],
            compulsory_bytes=own["compulsory_bytes"],
            statistics=own["statistics"],
            pinned=self.code(f"{subgraph}/{manifest.PINNED_CODE}") if "pinned" in own else [],
            core=own.get("core"),
            reserved_bytes=own.get("reserved_bytes_per_partition", 0),
            hand_overs=manifest.hand_overs_from_json(definition, subgraphs),
        )
        parameters = {v.name: self.parameter(subgraph, v) for v in variables if v.kind == "file"}
        return CoreImage(program, parameters)

    def queue(self, subgraph: str, engine: str) -> list[QueueEntry]:
        self.load(f"{subgraph}/{engine}.json", manifest.ENGINE_JSON)
        return self.code(f"{subgraph}/{engine}.bin")

    def code(self, name: str) -> list[QueueEntry]:
        view = self.file.view(name)
        if len(view) > self.limits.queue_bytes:
            raise NeuronError("NX-NEFF-010", f"{name} has {len(view)} bytes, limit {self.limits.queue_bytes}")
        return decode_queue(view, name)

    def parameter(self, subgraph: str, variable: DramVariable) -> Parameter:
        name = parameter_member(subgraph, variable.file_name)
        view = self.file.view(name)
        if len(view) != variable.size_bytes:
            size = f"{variable.dtype} {variable.shape} has {variable.size_bytes}"
            raise NeuronError("NX-NEFF-008", f"{name} has {len(view)} bytes, {size}")
        try:
            return np.frombuffer(view, dtype_by_name(variable.dtype).numpy).reshape(variable.shape)
        except ValueError as error:  # a dimension beyond what numpy can count
            raise NeuronError("NX-NEFF-008", f"{name}: {error}") from None

    def check_members(self, neff: Neff) -> None:
        """The JSON members say what we would write for `neff`, and there are no members but those we would write."""
        expected = manifest.json_members(neff)
        expected[manifest.INFO]["tool_version"] = self.file.header.build_version
        for name, value in expected.items():
            if name not in self.json or self.json[name] != value:
                raise NeuronError("NX-NEFF-005", f"{name} contradicts the other members or the header")
        if self.file.header != _expected_header(neff, self.file.header):
            raise NeuronError("NX-NEFF-005", "the header's name or number of cores contradicts the archive")
        names = {*expected, *(manifest.host_model_name(index) for index in range(len(neff.host_models)))}
        for index, image in enumerate(neff.subgraphs):
            subgraph = manifest.subgraph_name(index)
            names |= {f"{subgraph}/{engine}.bin" for engine in image.program.queues}
            names |= {f"{subgraph}/{manifest.PINNED_CODE}"} if image.program.pinned else set()
            names |= {parameter_member(subgraph, v.file_name) for v in image.program.variables if v.kind == "file"}
        unexpected = [name for name in self.file.members if name not in names]
        if unexpected:
            raise NeuronError("NX-NEFF-004", f"the archive has a member {unexpected[0]} that nothing refers to")


def _expected_header(neff: Neff, header: NeffHeader) -> NeffHeader:
    return NeffHeader(header_name(neff.name), neff.cores, header.hash, header.data_size, header.build_version)
