"""The tar archive behind a NEFF's header: deterministic when written, and trusted in nothing when read.

Written: plain files only, in the order given, with fixed owner, mode and time, so that equal contents are equal bytes.
Read: the index of a tar that lies in memory or is mapped; no member is ever created on disk by reading. Only `unpack`
writes files, into a folder that is empty before, under names that cannot leave it.
"""

import re
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from neuron_dialects.errors import NeuronError
from runtime.neff.limits import Limits

BLOCK_BYTES = 512
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)
MAX_NAME_BYTES = 100
"""A longer name needs an extension header, which we neither write nor read."""

MAX_MEMBER_BYTES = 8**11 - 1
"""What eleven octal digits can say: just under 8 GiB."""

GZIP_MAGIC = b"\x1f\x8b"

_MEMBER_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_OCTAL = re.compile(rb"0*[0-7]{1,11}[\0 ]*")
_TYPE_NAMES = {
    "1": "a hard link",
    "2": "a symbolic link",
    "3": "a device",
    "4": "a device",
    "5": "a folder",
    "6": "a pipe",
}
_MAX_TRAILING_BYTES = 20 * BLOCK_BYTES  # tar programs fill the last record of 20 blocks
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One file of the archive. `offset`: of its first byte within the tar; a multiple of 512."""

    name: str
    offset: int
    size: int


def check_member_name(name: str) -> None:
    """Raise NX-NEFF-004 unless `name` is a relative path that stays inside its folder on every system."""
    if not _MEMBER_NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        raise _malformed(f"member name {name[:120]!a} is not a plain relative path")
    if len(name) > MAX_NAME_BYTES:
        raise _malformed(f"member name '{name[:120]}' has {len(name)} characters, limit {MAX_NAME_BYTES}")


# -- writing -----------------------------------------------------------------------------------------------------------


def write_member(write: Callable[[bytes | memoryview], object], name: str, data: bytes | memoryview) -> None:
    """Append one member through `write`; `data` is passed on in place, never copied."""
    check_member_name(name)
    size = memoryview(data).nbytes
    if size > MAX_MEMBER_BYTES:
        raise NeuronError("NX-NEFF-010", f"member {name} has {size} bytes, limit {MAX_MEMBER_BYTES}")
    info = tarfile.TarInfo(name)  # owner 0, time 0, mode 644
    info.size = size
    write(info.tobuf(tarfile.USTAR_FORMAT))
    write(data)
    write(bytes(-size % BLOCK_BYTES))


# -- reading -----------------------------------------------------------------------------------------------------------


def expand(payload: memoryview, limits: Limits) -> memoryview:
    """The tar itself: `payload`, or what is in it if it is compressed with gzip, up to `limits.expanded_bytes`."""
    if bytes(payload[:2]) != GZIP_MAGIC:
        return payload
    expander = zlib.decompressobj(wbits=31)
    expanded = bytearray()
    position = 0
    try:
        while not expander.eof:
            # The output of one step is bounded, so what does not fit stays in `unconsumed_tail` or in the expander.
            pending = expander.unconsumed_tail or payload[position : position + _CHUNK_BYTES]
            position += 0 if expander.unconsumed_tail else len(pending)
            part = expander.decompress(pending, _CHUNK_BYTES)
            if not part and not len(pending):
                break
            expanded += part
            if len(expanded) > limits.expanded_bytes:
                raise NeuronError("NX-NEFF-010", f"the archive expands beyond {limits.expanded_bytes} bytes")
    except zlib.error as error:
        raise _malformed(f"it cannot be expanded: {error}") from None
    if not expander.eof or expander.unused_data or position < len(payload):
        raise _malformed("its compressed data is truncated or has something behind it")
    return memoryview(expanded).toreadonly()


def read_index(tar: memoryview, limits: Limits) -> dict[str, Member]:
    """The members of a tar by name, in order.

    Raises:
        NeuronError: NX-NEFF-004 for whatever we would not write, NX-NEFF-010 for too many members.
    """
    members: dict[str, Member] = {}
    position = 0
    while True:
        block = bytes(tar[position : position + BLOCK_BYTES])
        if len(block) < BLOCK_BYTES:
            raise _malformed(f"it ends at byte {len(tar)} within a member or without its end marks")
        if not any(block):
            break
        member = _parse_member(block, position + BLOCK_BYTES, len(tar))
        if member.name in members:
            raise _malformed(f"member {member.name} exists twice")
        members[member.name] = member
        if len(members) > limits.members:
            raise NeuronError("NX-NEFF-010", f"the archive has more than {limits.members} members")
        position = member.offset + member.size + -member.size % BLOCK_BYTES
    if len(tar) - position > _MAX_TRAILING_BYTES or any(tar[position:]):
        raise _malformed(f"there is something behind its end at byte {position}")
    _check_folders(members)
    return members


def _parse_member(block: bytes, offset: int, tar_bytes: int) -> Member:
    """The member of a ustar header block whose data starts at `offset`."""
    at = f"the member at byte {offset - BLOCK_BYTES}"
    checksum = _octal(block[148:156], at)
    if checksum != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise _malformed(f"{at} has a wrong checksum")
    if block[257:262] != b"ustar":
        raise _malformed(f"{at} is not in ustar format")
    kind = chr(block[156])
    if kind not in "0\0":
        raise _malformed(f"{at} is {_TYPE_NAMES.get(kind, f'of type {kind!a}')}; only files are allowed")
    parts = [block[345:500].split(b"\0")[0], block[0:100].split(b"\0")[0]]
    name = "/".join(part.decode("ascii", "backslashreplace") for part in parts if part)
    check_member_name(name)
    size = _octal(block[124:136], at)
    if size > tar_bytes - offset:
        raise _malformed(f"member {name} has {size} bytes, the archive has {tar_bytes - offset} left")
    return Member(name, offset, size)


def _octal(field: bytes, at: str) -> int:
    if not _OCTAL.fullmatch(field):
        raise _malformed(f"{at} has a malformed number")
    return int(field.rstrip(b"\0 "), 8)


def _check_folders(members: Mapping[str, Member]) -> None:
    """No member is at the same time the folder of another."""
    for name in members:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in members:
                raise _malformed(f"member {folder} is also the folder of {name}")


def unpack_members(tar: memoryview, members: Mapping[str, Member], folder: Path) -> None:
    """Write every member below `folder`, which must be empty or not exist: so nothing in it can lead elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise NeuronError("NX-FILE-001", f"{folder}: the folder is not empty", help="name a folder that does not exist")
    for member in members.values():
        check_member_name(member.name)
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(tar[member.offset : member.offset + member.size])


def _malformed(message: str) -> NeuronError:
    return NeuronError("NX-NEFF-004", f"the archive is malformed: {message}")
