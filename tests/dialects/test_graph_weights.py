"""The weight store: lazy reading, safetensors files in both directions, and files that lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from neuron_dialects.dtypes import DTYPES, F32, I64, TF32, dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.weights import MAX_HEADER_BYTES, WeightStore


def filled() -> WeightStore:
    """A store with one entry of every element type, an empty one and a scalar."""
    store = WeightStore()
    for dtype in DTYPES:
        store.add(f"weights/{dtype}", np.arange(6).reshape(2, 3).astype(dtype.numpy), dtype)
    store.add("empty", np.zeros((0, 4), np.float32))
    store.add("scalar", np.array(3, np.int64))
    return store


# Entries are read when they are asked for, once for as long as somebody holds the array.
def test_entries_are_lazy_and_shared() -> None:
    reads: list[str] = []

    def read() -> Any:
        reads.append("read")
        return np.arange(4, dtype=np.float32)

    store = WeightStore()
    store.add_lazy("w", F32, (2, 2), read)
    assert (store.shape("w"), store.dtype("w"), store.size_bytes("w"), reads) == ((2, 2), F32, 16, [])
    held = store.get("w")
    assert store.get("w") is held
    assert reads == ["read"]
    assert held.shape == (2, 2)


def test_arrays_are_read_only_views() -> None:
    source = np.arange(4, dtype=np.float32)
    store = WeightStore()
    store.add("w", source)
    array = store.get("w")
    assert np.shares_memory(array, source)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    source[0] = 7  # the caller's own array stays as it was
    assert source.flags.writeable


def test_names_and_retain() -> None:
    store = filled()
    assert store.names()[-2:] == ("empty", "scalar")
    assert "scalar" in store
    store.discard("empty")
    store.discard("never there")
    assert "empty" not in store
    store.retain({"scalar"})
    assert store.names() == ("scalar",)
    assert len(store) == 1
    with pytest.raises(NeuronError, match="NX-WEIGHT-003"):
        store.get("empty")


# What a source gives must be what was announced.
@pytest.mark.parametrize("array", [np.zeros(5, np.float32), np.zeros(4, np.float64)])
def test_sources_that_do_not_fit(array: Any) -> None:
    store = WeightStore()
    store.add_lazy("w", F32, (2, 2), lambda: array)
    with pytest.raises(NeuronError, match=r"NX-WEIGHT-004.*not 4 of f32"):
        store.get("w")


# Safetensors files


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    store = filled()
    store.save_safetensors(tmp_path / "w.safetensors")
    loaded = WeightStore.load_safetensors(tmp_path / "w.safetensors")
    assert set(loaded.names()) == set(store.names())
    for name in store.names():
        assert loaded.dtype(name) is store.dtype(name)
        assert loaded.shape(name) == store.shape(name)
        assert loaded.get(name).tobytes() == store.get(name).tobytes()
        assert loaded.get(name).flags.aligned
        assert not loaded.get(name).flags.writeable


# The bytes depend on the entries, not on the order they were added in.
def test_saving_is_deterministic(tmp_path: Path) -> None:
    store, other = filled(), WeightStore()
    for name in reversed(store.names()):
        other.add(name, store.get(name), store.dtype(name))
    store.save_safetensors(tmp_path / "a.safetensors")
    other.save_safetensors(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


# The format is the one of the safetensors library, in both directions.
def test_the_safetensors_library_agrees(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b/ä": np.arange(3, dtype=np.int16)}
    store = WeightStore()
    for name, array in arrays.items():
        store.add(name, array)
    store.save_safetensors(tmp_path / "ours.safetensors")
    save_file(arrays, tmp_path / "theirs.safetensors")
    theirs = WeightStore.load_safetensors(tmp_path / "theirs.safetensors")
    for name, array in load_file(tmp_path / "ours.safetensors").items():
        np.testing.assert_array_equal(array, arrays[name])
        np.testing.assert_array_equal(theirs.get(name), arrays[name])


# An element type that safetensors lacks travels as one of its size; a reader that ignores the note sees plain floats.
def test_carried_element_types(tmp_path: Path) -> None:
    store = WeightStore()
    store.add("w", np.ones(2, np.float32), TF32)
    store.save_safetensors(tmp_path / "w.safetensors")
    assert WeightStore.load_safetensors(tmp_path / "w.safetensors").dtype("w") is TF32
    assert load_file(tmp_path / "w.safetensors")["w"].dtype == np.float32


def file_with(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "0 bytes are fewer than 8"),
        (b"1234567", "7 bytes are fewer than 8"),
        (file_with({}, length=100), "a header of 100 bytes does not fit"),
        (file_with({}, length=2**63), f"a header of {2**63} bytes does not fit"),
        (file_with(b"{"), "its header is not JSON"),
        (file_with(b"\xff\xfe"), "its header is not JSON"),
        (file_with(b"[" * 100_000), "its header is not JSON"),
        (file_with(b'{"a":1,"a":2}'), "its header is not JSON"),
        (file_with([]), "its header is not an object"),
        (file_with({"__metadata__": 1}), "its metadata is not an object"),
        (file_with({"w": 1}), "tensor 'w' lacks dtype, shape or data_offsets"),
        (file_with({"w": entry(dtype="F31")}, bytes(4)), "tensor 'w' has the unknown dtype 'F31'"),
        (file_with({"w": entry(dtype=["F32"])}, bytes(4)), "unknown dtype"),
        (file_with({"w": entry(shape=[-1])}, bytes(4)), "tensor 'w' has a malformed shape"),
        (file_with({"w": entry(shape=[True])}, bytes(4)), "tensor 'w' has a malformed shape"),
        (file_with({"w": entry(shape=[1] * 100)}, bytes(4)), "tensor 'w' has a malformed shape"),
        (file_with({"w": entry(shape=[1.0])}, bytes(4)), "tensor 'w' has a malformed shape"),
        (file_with({"w": entry(offsets=[0])}, bytes(4)), "tensor 'w' has malformed data_offsets"),
        (file_with({"w": entry(offsets=[0, 2**64])}, bytes(4)), "tensor 'w' has malformed data_offsets"),
        (file_with({"w": entry(shape=[2])}, bytes(4)), "tensor 'w' has 4 bytes, which its shape does not need"),
        (file_with({"w": entry(shape=[2**62, 2**62], offsets=[0, 0])}), "tensor 'w' has 0 bytes"),
        (file_with({"w": entry()}, bytes(3)), "tensor 'w' is outside the file"),
        (file_with({"w": entry(offsets=[4, 0])}, bytes(4)), "tensor 'w' has -4 bytes"),
        (file_with({"w": entry()}, bytes(5)), "the last 1 bytes are unused"),
        (file_with({"a": entry(), "b": entry()}, bytes(4)), "bytes 0 to 4 are unused or used twice"),
        (file_with({"a": entry(offsets=[4, 8])}, bytes(8)), "bytes 0 to 4 are unused or used twice"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(NeuronError) as raised:
        WeightStore.load_safetensors(path)
    assert raised.value.code == "NX-WEIGHT-002"
    assert problem in raised.value.message


# Whatever bit is flipped, and wherever the file is cut: an error, or arrays of the announced sizes.
@given(position=st.integers(0, 2000), bit=st.integers(0, 7), cut=st.integers(0, 2000))
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int, cut: int) -> None:
    path = tmp_path_factory.mktemp("damaged") / "w.safetensors"
    filled().save_safetensors(path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content[: cut or None])
    try:
        store = WeightStore.load_safetensors(path)
    except NeuronError:
        return
    for name in store.names():
        assert store.get(name).nbytes == store.size_bytes(name)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(NeuronError, match=r"NX-WEIGHT-001.*'none.safetensors' cannot be read: No such file"):
        WeightStore.load_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(NeuronError, match=r"NX-WEIGHT-002.*cannot write"):
        filled().save_safetensors(tmp_path / "no folder" / "w.safetensors")


def test_a_name_that_the_format_reserves(tmp_path: Path) -> None:
    store = WeightStore()
    store.add("__metadata__", np.zeros(1, np.float32))
    with pytest.raises(NeuronError, match="cannot be called '__metadata__'"):
        store.save_safetensors(tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []
    assert MAX_HEADER_BYTES == 100_000_000


# External data


def test_external_data_are_mapped(tmp_path: Path) -> None:
    values = np.arange(100, dtype=np.float32)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data.bin").write_bytes(b"\0" + values.tobytes())  # odd offset: an unaligned array
    store = WeightStore()
    store.add_external("w", F32, (10, 5), folder=tmp_path, location="sub/data.bin", offset=1 + 200, length=200)
    np.testing.assert_array_equal(store.get("w"), values[50:].reshape(10, 5))
    store.add_external("all", F32, (100,), folder=tmp_path, location="sub/data.bin", offset=1)
    np.testing.assert_array_equal(store.get("all"), values)


def link_to_outside(folder: Path) -> str:
    (folder / "link").symlink_to(folder.parent / "outside.bin")
    return "link"


@pytest.mark.parametrize(
    "location",
    [
        lambda _: "../outside.bin",
        lambda _: "sub/../../outside.bin",
        lambda folder: str(folder.parent / "outside.bin"),
        link_to_outside,
        lambda _: "missing.bin",
        lambda _: "sub",
        lambda _: "",
        lambda _: "a\0b",
        lambda _: "x" * 5000,
    ],
)
def test_external_data_outside_the_folder(tmp_path: Path, location: Callable[[Path], str]) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(8))
    with pytest.raises(NeuronError, match=r"NX-WEIGHT-001.*not a file inside the model's folder"):
        WeightStore().add_external("w", I64, (1,), folder=folder, location=location(folder))


@pytest.mark.parametrize(
    ("shape", "offset", "length", "code"),
    [
        ((3,), 0, None, "NX-WEIGHT-001"),
        ((2,), 4, None, "NX-WEIGHT-001"),
        ((2,), -8, None, "NX-WEIGHT-001"),
        ((2,), 2**62, None, "NX-WEIGHT-001"),
        ((2**40, 2**40), 0, None, "NX-WEIGHT-001"),
        ((2,), 0, 8, "NX-WEIGHT-004"),
    ],
)
def test_external_data_out_of_bounds(
    tmp_path: Path, shape: tuple[int, ...], offset: int, length: int | None, code: str
) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(16))
    with pytest.raises(NeuronError) as raised:
        WeightStore().add_external("w", I64, shape, folder=tmp_path, location="data.bin", offset=offset, length=length)
    assert raised.value.code == code


def test_unknown_dtype_for_an_array() -> None:
    with pytest.raises(ValueError, match="an array of float32 cannot hold i64"):
        WeightStore().add("w", np.zeros(1, np.float32), dtype_by_name("i64"))
