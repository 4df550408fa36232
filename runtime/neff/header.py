"""The 1024-byte header of a NEFF, as documented: what it says, packing it, and refusing one that is not ours."""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from neuron_dialects.errors import NeuronError
from neuron_dialects.version import VERSION
from runtime.neff.layout import Layout

HEADER_LAYOUT = Layout(
    (
        ("pkg_version", "Q", "version of the packaging; 1: the hash is a SHA-256"),
        ("header_size", "Q", "1024"),
        ("data_size", "Q", "bytes of the archive behind the header"),
        ("neff_version_major", "Q", "2"),
        ("neff_version_minor", "Q", "0"),
        ("neff_build_version", "128s", "who wrote the file: `neuron-toolkit VERSION open-encoding`"),
        ("num_tpb", "I", "number of cores: one per subgraph that a run of the model calls"),
        ("hash", "32s", "SHA-256 of the archive as stored"),
        ("uuid", "16s", "identity of the file, derived from the hash"),
        ("name", "256s", "name of the model, UTF-8"),
        ("requested_tpb_count", "I", "number of cores that the compiler was asked for"),
        ("tpb_per_node", "64s", "cores of each kelf node, one byte each"),
        ("feature_bits", "Q", "features a reader must know; bit 62: instructions in the toolkit's own encoding"),
        ("lnc_size", "I", "physical cores per logical core: 1"),
        ("pad", "468s", "zeros"),
    )
)

HEADER_BYTES = HEADER_LAYOUT.size_bytes
PKG_VERSION = 1
NEFF_VERSION = (2, 0)
OPEN_ENCODING_FEATURE = 1 << 62
"""Our feature bit. Vendor runtimes know bits 0 to 7 and 63 and refuse files with any other."""

BUILD_VERSION = f"neuron-toolkit {VERSION} open-encoding"
MAX_CORES = 64
"""Cores of one model."""

_UUID_NAMESPACE = uuid.UUID("6e787466-6f72-5d61-9b1e-6e6566662d31")
_COMPILE_AGAIN = "compile the model with this toolkit; it does not read instructions in other encodings"


@dataclass(frozen=True)
class NeffHeader:
    """The fields of a header that vary between our files; `HEADER_LAYOUT` documents all of them."""

    name: str
    num_tpb: int
    hash: bytes
    data_size: int
    build_version: str = BUILD_VERSION

    @property
    def uuid(self) -> uuid.UUID:
        """Identity of the file: the same contents have the same one."""
        return uuid.uuid5(_UUID_NAMESPACE, self.hash.hex())

    def pack(self) -> bytes:
        """The header's 1024 bytes."""
        return HEADER_LAYOUT.codec.pack(
            PKG_VERSION,
            HEADER_BYTES,
            self.data_size,
            *NEFF_VERSION,
            self.build_version.encode(),
            self.num_tpb,
            self.hash,
            self.uuid.bytes,
            self.name.encode(),
            self.num_tpb,
            bytes([self.num_tpb]) if self.num_tpb else b"",
            OPEN_ENCODING_FEATURE,
            1,
            b"",
        )


def header_name(name: str) -> str:
    """The part of a model's name that the header can hold: up to 255 bytes of UTF-8, without control characters."""
    printable = "".join(character if character.isprintable() else "_" for character in name)
    return printable.encode()[:255].decode("utf-8", "ignore")


def parse_header(data: bytes, file_bytes: int) -> NeffHeader:
    """The header in the first 1024 bytes of a file of `file_bytes`.

    Raises:
        NeuronError: NX-NEFF-001 if it is malformed or does not fit the file's size, NX-NEFF-002 if it is a NEFF, but
            of a version or with features that are not ours.
    """
    if len(data) < HEADER_BYTES:
        raise NeuronError("NX-NEFF-001", f"the file has {file_bytes} bytes, the header of a NEFF has {HEADER_BYTES}")
    values = dict(zip(HEADER_LAYOUT.offsets, HEADER_LAYOUT.codec.unpack_from(data), strict=True))
    if values["header_size"] != HEADER_BYTES:
        raise NeuronError(
            "NX-NEFF-001", f"the file is not a NEFF: its header size is {values['header_size']}, must be {HEADER_BYTES}"
        )
    _check_versions(values)
    if values["data_size"] != file_bytes - HEADER_BYTES:
        raise NeuronError(
            "NX-NEFF-001",
            f"the header announces {values['data_size']} bytes of archive, the file has {file_bytes - HEADER_BYTES}",
            help="the file is truncated or has something appended; copy it again",
        )
    header = NeffHeader(
        name=_text(values["name"], "name"),
        num_tpb=values["num_tpb"],
        hash=values["hash"],
        data_size=values["data_size"],
        build_version=_text(values["neff_build_version"], "neff_build_version"),
    )
    # What is left (uuid, core counts, padding) follows from these: a header that we would not write is malformed.
    if header.num_tpb > MAX_CORES or header.pack() != data[:HEADER_BYTES]:
        raise NeuronError("NX-NEFF-001", "the header's uuid, core counts or padding contradict the rest of it")
    return header


def verify_hash(header: NeffHeader, payload: memoryview) -> None:
    """Raise NX-NEFF-003 unless the archive's bytes have the header's hash."""
    if hashlib.sha256(payload).digest() != header.hash:
        raise NeuronError(
            "NX-NEFF-003",
            "the archive's SHA-256 is not the one in the header: the file is damaged",
            help="copy it again, or compile the model again",
        )


def _check_versions(values: dict[str, int | bytes]) -> None:
    version = (values["neff_version_major"], values["neff_version_minor"])
    build = values["neff_build_version"]
    checks: tuple[tuple[str, object, object, Callable[[object], str]], ...] = (
        ("features", values["feature_bits"], OPEN_ENCODING_FEATURE, lambda v: f"{v:#018x}"),
        ("NEFF version", version, NEFF_VERSION, str),
        ("packaging version", values["pkg_version"], PKG_VERSION, str),
        ("logical core size", values["lnc_size"], 1, str),
    )
    for label, found, supported, text in checks:
        if found != supported:
            assert isinstance(build, bytes)
            writer = build.split(b"\0")[0].decode("ascii", "replace")
            raise NeuronError(
                "NX-NEFF-002",
                f"{label} {text(found)}, supported: {text(supported)} (the file was written by {writer!a})",
                help=_COMPILE_AGAIN,
            )


def _text(field: bytes, name: str) -> str:
    """A text that a zero ends; NX-NEFF-001 for anything that `NeffHeader.pack` would not write."""
    try:
        text = field.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        raise NeuronError("NX-NEFF-001", f"the header's {name} is not UTF-8") from None
    if not text.isprintable() or len(text.encode()) == len(field):
        raise NeuronError("NX-NEFF-001", f"the header's {name} holds control characters or has no end")
    return text
