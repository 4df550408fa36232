"""neuron-objdump: what it shows, as text and as JSON, and how it ends on files that are not good."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.neff import open_neff, write_neff
from tests.runtime.neff.samples import sample_neff
from tools.in_process import Completed, run_in_process
from tools.neuron_objdump import main


@pytest.fixture
def neff(tmp_path: Path) -> Path:
    path = tmp_path / "model.neff"
    write_neff(sample_neff(), path)
    return path


def run(*arguments: str | Path) -> Completed:
    return run_in_process(main, [str(argument) for argument in arguments])


def parsed(*arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


# Without options: header, members and a summary in which every part of the model appears.
def test_default(neff: Path) -> None:
    done = run(neff)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "  name                two cores, \\xfcn\\xefcode\n" in done.stdout
    assert "  feature_bits        0x4000000000000000\n" in done.stdout
    assert "  sg00/params/0000-fc_w_0\n" in done.stdout
    assert '  input   "tokens" i64 128x256 (device i32)\n' in done.stdout
    assert '  NeuronCore sg01  "neuron_1" ("y") -> ("z")\n' in done.stdout
    assert '  CPU        host/00.onnx  "cast" ("tokens") -> ("x", "length")\n' in done.stdout
    assert "  pe               7 entries           272 bytes\n" in done.stdout
    assert ".queue" not in done.stdout


def test_json(neff: Path) -> None:
    parts = parsed(neff)
    assert list(parts) == ["header", "members", "summary"]
    file = open_neff(neff)
    assert parts["header"]["hash"] == file.header.hash.hex()
    assert parts["header"]["uuid"] == str(file.header.uuid)
    assert [member["name"] for member in parts["members"]] == list(file.members)
    programs = parts["summary"]["subgraphs"]
    assert programs["sg00"]["queues"]["sp"] == {"entries": 8, "bytes": len(file.view("sg00/sp.bin"))}
    assert programs["sg00"]["variables"]["file"] == {"count": 1, "bytes": 16384}
    assert programs["sg00"]["statistics"] == {"loops": 4, "waits": 6}


@pytest.mark.parametrize(("option", "part"), [("-h", "header"), ("-m", "members"), ("-d", "disassembly")])
def test_one_part(option: str, part: str, neff: Path) -> None:
    assert list(parsed(neff, option)) == [part]


def test_disassembly(neff: Path) -> None:
    lines = run(neff, "-d").stdout.splitlines()
    assert [line for line in lines if line.startswith((".subgraph", ".queue"))] == [
        ".subgraph sg00", ".queue pe", ".queue act", ".queue pool", ".queue sp", ".subgraph sg01", ".queue sp",
    ]  # fmt: skip
    assert sum(line.startswith("L") for line in lines) == 7 + 7 + 7 + 8 + 2


def test_one_queue(neff: Path) -> None:
    lines = run(neff, "-d", "--queue", "pe", "--subgraph", "0").stdout.splitlines()
    assert [line for line in lines if line.startswith((".subgraph", ".queue"))] == [".subgraph sg00", ".queue pe"]
    assert any("nc_matmul dst psum f32 [0:64][0 : 128]" in line for line in lines)


def test_unpack(neff: Path, tmp_path: Path) -> None:
    done = run(neff, "--unpack", tmp_path / "out")
    assert done.exit_code == 0
    assert done.stdout.split() == list(open_neff(neff).members)
    assert json.loads((tmp_path / "out" / "info.json").read_text())["target"] == "trn1"
    again = run(neff, "--unpack", tmp_path / "out")
    assert again.exit_code == 1
    assert again.stderr.startswith("error[NX-FILE-001]")


# One line that says what is wrong, exit 1.
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--queue", "gpu"], "NX-NEFF-007"),
        (["--subgraph", "2"], "NX-NEFF-007"),
        (["--subgraph", "-1"], "NX-NEFF-007"),
    ],
)
def test_parts_that_do_not_exist(arguments: list[str], code: str, neff: Path) -> None:
    done = run(neff, "-d", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error[{code}]: there is no ")


@pytest.mark.parametrize(
    ("length", "edit", "code"),
    [(0, None, "NX-NEFF-001"), (100, None, "NX-NEFF-001"), (5000, None, "NX-NEFF-001"), (None, 20000, "NX-NEFF-003")],
)
def test_damaged_files(length: int | None, edit: int | None, code: str, neff: Path) -> None:
    data = bytearray(neff.read_bytes()[:length])
    if edit is not None:
        data[edit] ^= 1
    neff.write_bytes(data)
    done = run(neff)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error[{code}]: ")
    assert len(done.stderr.splitlines()) <= 2


def test_no_file(tmp_path: Path) -> None:
    done = run(tmp_path / "missing.neff")
    assert done.exit_code == 1
    assert done.stderr.startswith("error[NX-FILE-001]: ")
