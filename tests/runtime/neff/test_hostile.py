"""Files that were damaged or made to do harm: always a NeuronError, never another exception, a hang or a stray file."""

import io
import json
import random
import stat
import struct
import tarfile
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron_dialects.errors import NeuronError
from runtime.neff import Limits, Neff, neff_bytes, open_neff, read_neff, unpack
from runtime.neff.archive import END_OF_ARCHIVE
from runtime.neff.header import HEADER_BYTES, HEADER_LAYOUT
from tests.runtime.neff.samples import sample_bytes, sealed

PLAIN, COMPRESSED = sample_bytes(), sample_bytes(compress=True)


def members() -> dict[str, bytes]:
    file = open_neff(PLAIN)
    return {name: bytes(file.view(name)) for name in file.members}


def tar_entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def archive(contents: dict[str, bytes]) -> bytes:
    return b"".join(tar_entry(name, data) for name, data in contents.items()) + END_OF_ARCHIVE


def file_of(contents: dict[str, bytes]) -> bytes:
    """A file with these members and a header that fits them."""
    return sealed(archive(contents), PLAIN)


def read_or_refuse(data: bytes) -> Neff | NeuronError:
    """The model, which must be one that could be written, or the refusal; any other exception passes through."""
    try:
        neff = read_neff(data)
    except NeuronError as error:
        return error
    neff_bytes(neff)
    return neff


def refused(data: bytes, code: str, limits: Limits | None = None) -> str:
    with pytest.raises(NeuronError) as caught:
        read_neff(data) if limits is None else read_neff(data, limits)
    assert caught.value.code == code
    return caught.value.message


def edited(data: bytes, generator: random.Random, low: int = 0) -> bytes:
    """`data` with one bit flipped, or a byte or a short run replaced, inserted or removed, at `low` or later."""
    changed = bytearray(data)
    at = generator.randrange(low, len(changed))
    match generator.randrange(6):
        case 0 | 1:
            changed[at] ^= 1 << generator.randrange(8)
        case 2:
            changed[at] = generator.randrange(256)
        case 3:
            changed[at : at + 8] = generator.choice((b"\xff" * 8, bytes(8), b"\0\0\0\x80" * 2))
        case 4:
            changed[at:at] = generator.randbytes(generator.randrange(1, 9))
        case _:
            del changed[at : at + generator.randrange(1, 9)]
    return bytes(changed)


# -- damage ------------------------------------------------------------------------------------------------------------


# Every change of a file is noticed: what the hash does not cover, the header, follows from the rest.
@pytest.mark.parametrize("data", [PLAIN, COMPRESSED], ids=["tar", "gzip"])
def test_every_edit_is_refused(data: bytes) -> None:
    generator = random.Random(1)
    for _ in range(1000):
        changed = edited(data, generator, 0 if generator.random() < 0.5 else HEADER_BYTES)
        if changed != data:
            assert isinstance(read_or_refuse(changed), NeuronError)


def test_every_bit_of_the_header_counts() -> None:
    for bit in range(HEADER_BYTES * 8):
        changed = bytearray(PLAIN)
        changed[bit // 8] ^= 1 << bit % 8
        assert isinstance(read_or_refuse(bytes(changed)), NeuronError), f"bit {bit}"


@pytest.mark.parametrize("data", [PLAIN, COMPRESSED], ids=["tar", "gzip"])
def test_every_truncation_is_refused(data: bytes) -> None:
    lengths = {0, 1, 7, 8, 1023, 1024, 1025, 1024 + 511, 1024 + 512, len(data) - 512, len(data) - 1}
    for length in sorted(lengths | set(range(0, len(data), 61))):
        assert refused(data[:length], "NX-NEFF-001")
    assert "announces" in refused(data + b"\0", "NX-NEFF-001")


# -- edits by somebody who also corrects the hash ----------------------------------------------------------------------


@pytest.mark.parametrize("data", [PLAIN, COMPRESSED], ids=["tar", "gzip"])
def test_edits_of_the_archive(data: bytes) -> None:
    generator = random.Random(2)
    for _ in range(1000):
        assert isinstance(read_or_refuse(sealed(edited(data[HEADER_BYTES:], generator), data)), Neff | NeuronError)


def test_truncated_archives() -> None:
    for data in (PLAIN, COMPRESSED):
        payload = data[HEADER_BYTES:]
        for length in range(0, len(payload) - 1024, 61):
            assert refused(sealed(payload[:length], data), "NX-NEFF-004")


# Each member is edited by itself, so that the archive around it is whole: JSON, instructions, parameters.
@pytest.mark.parametrize("name", members())
def test_edits_of_a_member(name: str) -> None:
    generator = random.Random(name)
    whole = members()
    for _ in range(60 if whole[name] else 0):
        assert isinstance(read_or_refuse(file_of(whole | {name: edited(whole[name], generator)})), Neff | NeuronError)


FREE = {
    "neff.json": (".nodes[0].name", ".nodes[1].name", ".nodes[2].name", ".inputs[0].shape"),
    "metrics.json": ("",),
    "sg00/def.json": (".semaphore[0]", ".semaphore[1]", ".neuron_toolkit."),
    "sg01/def.json": (".neuron_toolkit.",),
    "sg01/tensor_map.json": (".empty.shape",),
    "debug_info/sg00.json": (".origins",),
    "debug_info/sg01.json": (".origins",),
}
"""Where another value can be as good: names, statistics, the report, and shapes that only the host or nobody uses."""


# Every part of every JSON member is replaced by values of all types, or left out: refused, but where any value is good.
@pytest.mark.parametrize("name", [name for name in members() if name.endswith(".json")])
def test_every_value_of_the_json_members_is_checked(name: str) -> None:
    whole = members()
    for path, changed in variants(json.loads(whole[name])):
        result = read_or_refuse(file_of(whole | {name: json.dumps(changed).encode()}))
        if not path.startswith(FREE.get(name, ())):
            assert isinstance(result, NeuronError), path


def variants(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`value` with each part in turn replaced by other values, or left out."""
    for other in (None, True, -1, 2, 1 << 70, 1.5, "x", "\ud800", [], {"x": 1}):
        if type(other) is not type(value) or other != value:
            yield path, other
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield path, value[:position] + value[position + 1 :]
            yield path, [*value, item]
            for inner, changed in variants(item, f"{path}[{position}]"):
                yield inner, [*value[:position], changed, *value[position + 1 :]]
    elif isinstance(value, dict):
        for key, item in value.items():
            yield path, {other: inner for other, inner in value.items() if other != key}
            yield path, value | {key + "2": item}
            for inner, changed in variants(item, f"{path}.{key}"):
                yield inner, value | {key: changed}


def test_missing_and_additional_members() -> None:
    whole = members()
    assert isinstance(read_or_refuse(file_of(whole)), Neff)
    for name in whole:
        assert isinstance(read_or_refuse(file_of({n: d for n, d in whole.items() if n != name})), NeuronError)
    assert "that nothing refers to" in refused(file_of(whole | {"sg00/evil.sh": b"#!"}), "NX-NEFF-004")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"{}", "has no key"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"tool_version": 1, "tool_version": 1}', "a key twice"),
        (b"9" * 5000, "not valid JSON"),
        (b'{"x": "' + b"[" * 100 + b'"}', "unknown key 'x'"),
    ],
)
def test_malformed_json(text: bytes, reason: str) -> None:
    assert reason in refused(file_of(members() | {"info.json": text}), "NX-NEFF-005")


# -- names and kinds of members ----------------------------------------------------------------------------------------

EVIL_NAMES = [
    "../evil", "/evil", "a/../../evil", "..", ".", "a/./b", "a//b", "a/", "/", "a\\..\\evil", "C:evil", "~/evil", "a b",
    "new\nline", "sg00/../../evil", "params/\x1b[2J", "ünïcode", "-" * 101,
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    entry = bytearray(tar_entry("placeholder", b"evil"))
    raw = name.encode()
    entry[:100] = raw.ljust(100, b"\0")[:100]
    entry[345:500] = (b"long/" + raw[100:]).ljust(155, b"\0") if len(raw) > 100 else bytes(155)
    entry[148:156] = b" " * 8
    entry[148:156] = b"%06o\0 " % sum(entry[:512])
    data = sealed(bytes(entry) + archive(members()), PLAIN)
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    for attempt in (lambda: read_neff(data), lambda: unpack(data, inside)):
        with pytest.raises(NeuronError) as caught:
            attempt()
        assert caught.value.code == "NX-NEFF-004"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"\xff"])
def test_members_that_are_no_files(kind: bytes, tmp_path: Path) -> None:
    entry = tar_entry("sg00/link", kind=tarfile.REGTYPE, link="/etc/passwd")
    head = bytearray(entry)
    head[156:157] = kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    data = sealed(bytes(head) + archive(members()), PLAIN)
    assert "only files are allowed" in refused(data, "NX-NEFF-004")
    with pytest.raises(NeuronError, match="NX-NEFF-004"):
        unpack(data, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_members_that_collide() -> None:
    whole = archive(members())
    assert "exists twice" in refused(sealed(tar_entry("info.json", b"{}") + whole, PLAIN), "NX-NEFF-004")
    assert "also the folder" in refused(sealed(tar_entry("sg00", b"") + whole, PLAIN), "NX-NEFF-004")


# A link waits in the folder: nothing is written through it.
def test_unpack_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (folder / "sg00").symlink_to(outside)
    with pytest.raises(NeuronError, match="not empty"):
        unpack(PLAIN, folder)
    assert list(outside.iterdir()) == []


# Whatever can be unpacked of edited files lies in the folder and is a plain file or a folder.
def test_unpacking_edited_archives(tmp_path: Path) -> None:
    generator = random.Random(3)
    payload = PLAIN[HEADER_BYTES:]
    headers = [member.offset - 512 for member in open_neff(PLAIN).members.values()]
    for attempt in range(200):
        changed = bytearray(payload)
        start = generator.choice(headers)
        changed[start + generator.randrange(512)] = generator.randrange(256)
        changed[start + 148 : start + 156] = b" " * 8
        changed[start + 148 : start + 156] = b"%06o\0 " % sum(changed[start : start + 512])
        folder = tmp_path / "base" / str(attempt)
        try:
            names = unpack(sealed(bytes(changed), PLAIN), folder)
        except NeuronError:
            assert not folder.exists()
        else:
            assert sorted(names) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())
            assert all(stat.S_IFMT(p.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR) for p in folder.rglob("*"))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


# -- sizes -------------------------------------------------------------------------------------------------------------


# A thousandfold expansion stops at the limit, at once and without the memory for it.
def test_a_bomb_is_not_expanded() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(256)) + compressor.flush()
    data = sealed(bomb, COMPRESSED)
    started = time.perf_counter()
    tracemalloc.start()
    try:
        assert "expands beyond" in refused(data, "NX-NEFF-010", Limits(expanded_bytes=4 << 20))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "tail", [b"x", COMPRESSED[HEADER_BYTES:], b"\0" * 512], ids=["byte", "second archive", "zeros"]
)
def test_nothing_behind_the_compressed_archive(tail: bytes) -> None:
    assert refused(sealed(COMPRESSED[HEADER_BYTES:] + tail, COMPRESSED), "NX-NEFF-004")


@pytest.mark.parametrize(
    "size",
    [b"77777777777\0", b"\x80" + b"\0" * 10 + b"\x01", b"\xff" * 12, b"-1\0" + bytes(9), b"0x10" + bytes(8), bytes(12)],
)
def test_sizes_that_members_cannot_have(size: bytes) -> None:
    head = bytearray(PLAIN[HEADER_BYTES : HEADER_BYTES + 512])
    head[124:136] = size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    assert refused(sealed(bytes(head) + PLAIN[HEADER_BYTES + 512 :], PLAIN), "NX-NEFF-004")


@pytest.mark.parametrize(
    ("field", "code", "value", "expected"),
    [
        ("data_size", "Q", (1 << 64) - 1, "NX-NEFF-001"),
        ("header_size", "Q", (1 << 64) - 1, "NX-NEFF-001"),
        ("num_tpb", "I", (1 << 32) - 1, "NX-NEFF-001"),
        ("num_tpb", "I", 1, "NX-NEFF-001"),
        ("neff_version_major", "Q", 3, "NX-NEFF-002"),
        ("pkg_version", "Q", 2, "NX-NEFF-002"),
        ("lnc_size", "I", 2, "NX-NEFF-002"),
        ("feature_bits", "Q", 0, "NX-NEFF-002"),
        ("feature_bits", "Q", (1 << 62) | 0x100, "NX-NEFF-002"),
    ],
)
def test_header_fields_out_of_range(field: str, code: str, value: int, expected: str) -> None:
    data = bytearray(PLAIN)
    struct.pack_into(f"<{code}", data, HEADER_LAYOUT.offsets[field], value)
    assert refused(bytes(data), expected)


# A vendor's file: another packaging, no feature bit of ours. The error says who wrote it.
def test_a_file_of_another_compiler() -> None:
    data = bytearray(PLAIN)
    struct.pack_into("<Q", data, HEADER_LAYOUT.offsets["feature_bits"], 0)
    struct.pack_into("<Q", data, 0, 2)
    data[40:168] = b"2.0.12345.0+abcdef12".ljust(128, b"\0")
    message = refused(bytes(data), "NX-NEFF-002")
    assert "supported: 0x4000000000000000" in message
    assert "'2.0.12345.0+abcdef12'" in message


def test_limits_of_the_reader() -> None:
    for limits in (
        Limits(file_bytes=len(PLAIN) - 1),
        Limits(members=25),
        Limits(json_bytes=100),
        Limits(json_depth=2),
        Limits(queue_bytes=300),
    ):
        refused(PLAIN, "NX-NEFF-010", limits)
    assert isinstance(read_neff(PLAIN, Limits(file_bytes=len(PLAIN), members=26, json_depth=5)), Neff)
    deep = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert "nested 100001 deep" in refused(file_of(members() | {"metrics.json": deep}), "NX-NEFF-010")


# Shapes beyond any memory are refused by arithmetic, before anything of their size is made.
@pytest.mark.parametrize(
    "shape", [[1 << 62, 1 << 62], [0, (1 << 63) - 1, (1 << 63) - 1], [1] * 33, [-1, -32], [1 << 50]]
)
def test_shapes_beyond_memory(shape: list[int]) -> None:
    whole = members()
    for variable in ("scratch", "x", "fc/w:0"):
        tensor_map = json.loads(whole["sg00/tensor_map.json"])
        tensor_map[variable]["shape"] = shape
        changed = whole | {"sg00/tensor_map.json": json.dumps(tensor_map).encode()}
        assert isinstance(read_or_refuse(file_of(changed)), NeuronError)


# Python reads what tar programs pad: an archive filled up to whole records is as good.
def test_an_archive_repacked_by_a_tar_program() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members().items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.uname = len(data), 1234567890, 1000, "somebody"
            tar.addfile(info, io.BytesIO(data))
    assert isinstance(read_or_refuse(sealed(stream.getvalue(), PLAIN)), Neff)
