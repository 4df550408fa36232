"""The compile cache: a model that was compiled before with the same options is read instead of compiled again.

The key is a hash of everything that a compiled file depends on: the bytes of the model and of its external data, the
options, the toolkit's version and code, and the plug-ins that are loaded. An entry is a NEFF, whose hash is checked
when it is read: one that is damaged counts as missing and is replaced. Entries appear and disappear as whole files, so
any number of compilers may share a cache; those that were used longest ago go first when it grows beyond its limit.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_dialects.errors import NeuronError
from neuron_dialects.version import VERSION
from neuron_toolkit.plugin import loaded_plugins

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from lowering.compiler import CompileOptions
    from runtime.neff import Neff

FOLDER_VARIABLE = "NEURON_TOOLKIT_CACHE"
"""Environment variable: the cache's folder. Empty: nothing is cached."""
LIMIT_VARIABLE = "NEURON_TOOLKIT_CACHE_BYTES"
"""Environment variable: most bytes of all entries."""
DEFAULT_LIMIT_BYTES = 4 << 30
ABANDONED_SECONDS = 24 * 3600
"""A file that is still being written after so long is no more."""
_PIECE_BYTES = 1 << 20
_PACKAGES = ("neuron_dialects", "passes", "lowering", "runtime", "neuron_toolkit")


def cache_folder() -> Path | None:
    """Where entries lie; None when caching is turned off."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given is not None:
        return Path(given) if given else None
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "neuron-toolkit"


def cache_limit_bytes() -> int:
    """Most bytes that the cache may hold. NeuronError NX-ARG-002 when the environment does not give a number."""
    given = os.environ.get(LIMIT_VARIABLE, "")
    if not given:
        return DEFAULT_LIMIT_BYTES
    if not given.isdecimal():
        raise NeuronError("NX-ARG-002", f"{LIMIT_VARIABLE}={given}: expected a number of bytes")
    return int(given)


class CompileCache:
    """The entries of one folder.

    Args:
        folder: made when the first entry is stored.
        limit_bytes: most bytes of all entries together; an entry that is larger by itself is not stored.
    """

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def load(self, key: str) -> Neff | None:
        """The entry of this key, marked as used now; None when there is none that is whole."""
        from runtime.neff import read_neff

        path = self._path(key)
        try:
            neff = read_neff(path)
            os.utime(path)
        except (NeuronError, OSError):
            return None
        return neff

    def store(self, key: str, neff: Neff) -> bool:
        """Add an entry, or replace a damaged one; whether it is there now. Never raises."""
        from runtime.neff import write_neff

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_neff(neff, self._path(key))
        except (NeuronError, OSError):
            return False
        self._shrink()
        return self._path(key).exists()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.neff"

    def _shrink(self) -> None:
        """Remove what was used longest ago until the limit is kept, and what writers have left behind."""
        entries: list[tuple[float, int, Path]] = []
        for path, status in self._files():
            if path.suffix == ".tmp" and status.st_mtime < time.time() - ABANDONED_SECONDS:
                with suppress(OSError):
                    path.unlink()
            elif path.suffix == ".neff":
                entries.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit_bytes:
                return
            with suppress(OSError):
                path.unlink()
            total -= size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.folder) as found:
            for entry in found:
                # Another process may have removed it.
                with suppress(OSError):
                    yield Path(entry.path), entry.stat()


def default_cache() -> CompileCache | None:
    """The user's cache, None when it is turned off."""
    folder = cache_folder()
    return None if folder is None else CompileCache(folder, cache_limit_bytes())


# -- keys --------------------------------------------------------------------------------------------------------------


def cache_key(source: str | os.PathLike[str] | ModelProto, name: str, options: CompileOptions) -> str:
    """The key of an ONNX file, or of an ONNX model in memory, compiled under a name with these options.

    Raises:
        NeuronError: as reading the model does, when the file or its external data cannot be read.
    """
    digest = hashlib.sha256()
    for part in (VERSION, code_digest(), name, plain_text(options)):
        digest.update(f"{len(part)} {part}\n".encode())
    for plugin in loaded_plugins():
        digest.update(f"{plugin.name} {plugin.digest}\n".encode())
    if isinstance(source, str | os.PathLike):
        _add_file(digest, Path(source))
        for path in external_files(Path(source)):
            digest.update(f"{path.name}\n".encode())
            _add_file(digest, path)
    else:
        digest.update(source.SerializeToString(deterministic=True))
    return digest.hexdigest()


def plain_text(value: Any) -> str:
    """Options as text: the same for equal options, whatever the order in which a mapping was filled."""
    if is_dataclass(value):
        return plain_text({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name!r}: {plain_text(value[name])}' for name in sorted(value))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(plain_text(part) for part in value)}]"
    return repr(value)


@functools.cache
def code_digest() -> str:
    """What tells the toolkit's code from an edited one: path, size and time of change of every source file."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".toml", ".lark"):
                status = path.stat()
                digest.update(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX model that hold its external data, by name; those that are missing are left out."""
    import onnx

    from lowering.onnx_to_graph.model_file import is_external

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:
        # What is wrong with the file is the compiler's to say.
        return []
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    tensors = [*model.graph.initializer, *(tensor for nodes in bodies for tensor in _inner_tensors(nodes))]
    external = [tensor for tensor in tensors if is_external(tensor)]
    names = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    folder = path.resolve().parent
    inside = (folder / name for name in sorted(names) if not Path(name).is_absolute() and ".." not in Path(name).parts)
    return [file for file in inside if file.is_file()]


def _inner_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    """The tensors in attributes of nodes, and in the graphs that nodes hold."""
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer
                yield from _inner_tensors(graph.node)


def _add_file(digest: hashlib._Hash, path: Path) -> None:  # pyright: ignore[reportPrivateUsage]
    """The bytes of a file, preceded by their number."""
    try:
        with path.open("rb") as file:
            digest.update(f"{os.fstat(file.fileno()).st_size}\n".encode())
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise NeuronError("NX-ONNX-001", f"{path}: {error.strerror or error}") from error
