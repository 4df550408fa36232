"""A model comes back from its file as it was, equal models are equal bytes, and writing never leaves half a file."""

import hashlib
import os
import stat
import struct
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import DramVariable
from neuron_dialects.version import VERSION
from runtime.neff import CORE, GraphNode, Neff, TensorSpec, neff_bytes, open_neff, read_neff, unpack, write_neff
from runtime.neff.header import HEADER_BYTES, HEADER_LAYOUT
from runtime.neff.tables import TABLES, fill_tables
from tests.runtime.neff.samples import sample_bytes, sample_neff


def same(left: Neff, right: Neff) -> bool:
    """Equal in everything, parameters by value."""
    for a, b in zip(left.subgraphs, right.subgraphs, strict=True):
        if a.program != b.program or a.parameters.keys() != b.parameters.keys():
            return False
        for name, value in a.parameters.items():
            other = b.parameters[name]
            if np.asarray(value).tobytes() != np.asarray(other).tobytes():
                return False
    fields = ("name", "target", "host_models", "graph", "inputs", "outputs", "intermediates", "report")
    return all(getattr(left, field) == getattr(right, field) for field in fields)


@pytest.mark.parametrize("compress", [False, True])
def test_a_model_comes_back_as_it_was(compress: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.neff"
    write_neff(sample_neff(), path, compress=compress)
    assert path.read_bytes() == sample_bytes(compress)
    assert same(read_neff(path), sample_neff())
    assert same(read_neff(path.read_bytes()), sample_neff())
    assert neff_bytes(read_neff(path), compress=compress) == path.read_bytes()


# Equal input, equal bytes, whatever the layout in memory of the parameters is.
@pytest.mark.parametrize("compress", [False, True])
def test_bytes_are_deterministic(compress: bool) -> None:
    again = sample_neff()
    weights = again.subgraphs[0].parameters["fc/w:0"]
    assert isinstance(weights, np.ndarray)
    again.subgraphs[0].parameters = {"fc/w:0": np.asfortranarray(weights)}
    assert neff_bytes(again, compress=compress) == sample_bytes(compress)


# The documented offsets, read here by number.
def test_the_header_is_the_documented_one() -> None:
    data = sample_bytes()
    payload = data[HEADER_BYTES:]
    assert HEADER_LAYOUT.size_bytes == 1024
    assert struct.unpack_from("<QQQQQ", data, 0) == (1, 1024, len(payload), 2, 0)
    assert data[40:168].rstrip(b"\0").decode() == f"neuron-toolkit {VERSION} open-encoding"
    assert struct.unpack_from("<I", data, 168) == (2,)
    assert data[172:204] == hashlib.sha256(payload).digest()
    assert data[220:476].rstrip(b"\0").decode() == "two cores, ünïcode"
    assert struct.unpack_from("<I64B", data, 476) == (2, 2, *[0] * 63)
    assert struct.unpack_from("<QI", data, 544) == (1 << 62, 1)
    assert not any(data[556:1024])


# An ordinary tar program can read the archive, and finds only files.
def test_the_archive_is_an_ordinary_tar() -> None:
    with tarfile.open(fileobj=BytesIO(sample_bytes()[HEADER_BYTES:])) as tar:
        assert [member.name for member in tar.getmembers()] == list(open_neff(sample_bytes()).members)
        assert all(m.isfile() and m.mtime == 0 and m.uid == m.gid == 0 and m.mode == 0o644 for m in tar.getmembers())


# Parameters of a plain archive lie in the file's mapping: read-only, no copy, still good after the file is replaced.
def test_parameters_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "model.neff"
    write_neff(sample_neff(), path)
    neff = read_neff(path)
    weights = neff.subgraphs[0].parameters["fc/w:0"]
    assert isinstance(weights, np.ndarray)
    assert not weights.flags.writeable
    assert not weights.flags.owndata
    other = sample_neff()
    other.name = "other"
    write_neff(other, path)
    assert same(neff, sample_neff())
    assert read_neff(path).name == "other"


# A model of which everything runs on the host, and names that the header cannot hold.
def test_unusual_models() -> None:
    spec = TensorSpec("x", (2, 0), "i64", "i32")
    neff = Neff("n" * 300 + "\n" + "é" * 300, "inf1", [], [b""], [GraphNode("host", 0, ("x",), ())], [spec], [spec])
    data = neff_bytes(neff)
    assert same(read_neff(data), neff)
    assert "kelf-0.json" not in open_neff(data).members
    neff.name = "é" * 300
    assert open_neff(neff_bytes(neff)).header.name == "é" * 127
    assert read_neff(neff_bytes(neff)).name == neff.name


# Writing fails, for a model that is not whole or because of a bug: the file is as it was, and nothing lies beside it.
def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.neff"
    write_neff(sample_neff(), path)
    before = path.read_bytes()
    broken = sample_neff()
    broken.subgraphs[1].parameters = {}
    with pytest.raises(NeuronError, match="NX-NEFF-008"):
        write_neff(broken, path)
    broken = sample_neff()
    broken.report["peak"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_neff(broken, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.neff"]
    assert path.read_bytes() == before


def test_a_written_file_has_the_usual_mode(tmp_path: Path) -> None:
    path = tmp_path / "model.neff"
    write_neff(sample_neff(), path)
    (tmp_path / "other").write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("name", ["missing/model.neff", "folder", "file/model.neff"])
def test_paths_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NeuronError, match="NX-FILE-001"):
        write_neff(sample_neff(), tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


# A folder, a pipe without a writer, no file at all: an error, and no waiting.
@pytest.mark.parametrize("name", ["folder", "pipe", "missing", "nul\0byte"])
def test_paths_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NeuronError, match="NX-FILE-001"):
        read_neff(tmp_path / name)


def test_unpack_writes_the_members(tmp_path: Path) -> None:
    names = unpack(sample_bytes(), tmp_path / "new" / "folder")
    file = open_neff(sample_bytes())
    assert names == list(file.members)
    for name in names:
        assert (tmp_path / "new" / "folder" / name).read_bytes() == bytes(file.view(name))
    with pytest.raises(NeuronError, match="not empty"):
        unpack(sample_bytes(), tmp_path / "new")
    with pytest.raises(NeuronError, match="NX-NEFF-004"):
        file.view("../etc/passwd")


# -- models that are not whole -----------------------------------------------------------------------------------------


def _without_intermediate(neff: Neff) -> None:
    neff.intermediates.pop()


def _unknown_target(neff: Neff) -> None:
    neff.target = "../../etc"


def _other_target(neff: Neff) -> None:
    neff.target = "trn2"


def _no_such_program(neff: Neff) -> None:
    neff.graph[2] = GraphNode(CORE, 2, ("y",), ("z",))


def _wrong_order(neff: Neff) -> None:
    neff.graph.reverse()


def _made_twice(neff: Neff) -> None:
    neff.graph.append(GraphNode("host", 0, ("tokens",), ("z",)))


def _never_made(neff: Neff) -> None:
    neff.outputs.append(TensorSpec("nothing", (1,), "f32", "f32"))


def _listed_twice(neff: Neff) -> None:
    neff.inputs.append(neff.inputs[0])


def _wrong_size(neff: Neff) -> None:
    neff.intermediates[0] = TensorSpec("x", (128, 255), "f32", "bf16")


def _wrong_device_type(neff: Neff) -> None:
    neff.intermediates[0] = TensorSpec("x", (128, 256), "f32", "f32")


def _wrong_argument_count(neff: Neff) -> None:
    neff.graph[1] = GraphNode(CORE, 0, ("x", "length"), ("y",))


def _unknown_executor(neff: Neff) -> None:
    neff.graph[0] = GraphNode("gpu", 0, ("tokens",), ("x", "length"))


def _parameter_of_wrong_type(neff: Neff) -> None:
    neff.subgraphs[0].parameters = {"fc/w:0": np.zeros((128, 64), np.float32)}


def _parameter_of_wrong_shape(neff: Neff) -> None:
    neff.subgraphs[0].parameters = {"fc/w:0": bytes(128 * 63 * 2)}


def _boolean_of_two(neff: Neff) -> None:
    neff.subgraphs[1].parameters = {**neff.subgraphs[1].parameters, "mask": b"\0\1\2"}


def _parameter_outside(neff: Neff) -> None:
    variables = neff.subgraphs[1].program.variables
    old = next(v for v in variables if v.name == "table")
    variables[variables.index(old)] = DramVariable(old.id, "table", "file", "ui8", (5, 3), "params/../../../x")


@pytest.mark.parametrize(
    ("spoil", "code", "reason"),
    [
        (_without_intermediate, "NX-NEFF-005", "output 'y' is not described"),
        (_unknown_target, "NX-NEFF-007", "unknown target"),
        (_other_target, "NX-NEFF-007", "sg00 is for trn1, the model for trn2"),
        (_no_such_program, "NX-NEFF-005", "calls core 2, which does not exist"),
        (_wrong_order, "NX-NEFF-005", "takes tensor 'y', which is not made before it"),
        (_made_twice, "NX-NEFF-005", "makes tensor 'z', which exists already"),
        (_never_made, "NX-NEFF-005", "tensor 'nothing' is made by no node"),
        (_listed_twice, "NX-NEFF-005", "listed twice"),
        (_wrong_size, "NX-NEFF-005", "has 32640 elements of bf16, its variable 32768"),
        (_wrong_device_type, "NX-NEFF-005", "elements of f32, its variable 32768 of bf16"),
        (_wrong_argument_count, "NX-NEFF-005", "has 2 inputs, its program 1"),
        (_unknown_executor, "NX-NEFF-005", "calls gpu 0"),
        (_parameter_of_wrong_type, "NX-NEFF-008", "is float32"),
        (_parameter_of_wrong_shape, "NX-NEFF-008", "has 16128 bytes, its variable 16384"),
        (_boolean_of_two, "NX-NEFF-008", "booleans other than 0 and 1"),
        (_parameter_outside, "NX-NEFF-004", "not a plain relative path"),
    ],
)
def test_what_is_not_whole_is_not_written(spoil: Callable[[Neff], None], code: str, reason: str) -> None:
    neff = sample_neff()
    spoil(neff)
    with pytest.raises(NeuronError, match=reason) as caught:
        neff_bytes(neff)
    assert caught.value.code == code


# The tables of the manual's page are those of the code.
def test_the_page_of_the_manual_is_up_to_date() -> None:
    page = (Path(__file__).parents[3] / "docs" / "neff.md").read_text(encoding="utf-8")
    assert fill_tables(page) == page, "run `python -m runtime.neff.tables docs/neff.md`"
    assert all(f"<!-- table: {name} -->\n{make()}\n" in page for name, make in TABLES.items())
