"""`neuron-run` on compiled files: its JSON, inputs and outputs in .npz, checks against onnxruntime, and its errors."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from neuron_dialects.errors import NeuronError
from runtime.reference import errors, run_onnxruntime
from tests.numerics.models import SHIPPED
from tools import neuron_cc
from tools.in_process import Completed, run_in_process
from tools.neuron_run import cast_type_of, main, random_inputs, read_npz, write_npz

MODEL = SHIPPED / "mnist_mlp.onnx"
STORED = SHIPPED / "mnist_mlp.inputs.npz"
ENGINES = ("tensor", "vector", "scalar", "gpsimd", "sync")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with m.neff (default casts), exact.neff and m.mlir (tile level) of one model, for trn1."""
    folder = tmp_path_factory.mktemp("compiled")
    for options in (("m.neff",), ("exact.neff", "--auto-cast", "none"), ("m.mlir", "--emit", "tile")):
        name, *rest = options
        command = ["compile", str(MODEL), "-o", str(folder / name), "--target", "trn1", *rest]
        assert run_in_process(neuron_cc.main, command).exit_code == 0
    return folder


def run(*arguments: str | Path) -> Completed:
    return run_in_process(main, [str(a) for a in arguments])


def run_json(*arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


# The names that other checks are built on; times in seconds, `_percent` as fractions.
def test_json_of_a_timed_and_checked_run(compiled: Path) -> None:
    result = run_json(compiled / "m.neff", "--random", "3", "--check", MODEL, "--mode", "both")
    (output,) = result["outputs"]
    assert (output["name"], output["shape"], output["dtype"]) == ("logp", [1, 10], "f32")
    assert 0 < output["max_abs_error"]
    assert 0 < output["rel_l2_error"] <= max(3e-2, 3 * output["floor_rel_l2_error"])
    assert result["check"] == [{k: v for k, v in output.items() if k not in ("shape", "dtype")}]
    assert result["total_time"] >= result["roofline_time"] > 0
    assert 0 < result["mfu_estimated_percent"] <= 1
    for engine in ENGINES:
        assert 0 <= result[f"{engine}_engine_active_time_percent"] <= 1
    assert result["is_simulation"] is True


@pytest.mark.parametrize(
    ("mode", "outputs", "timed"), [("functional", True, False), ("timing", False, True), ("both", True, True)]
)
def test_modes(compiled: Path, mode: str, outputs: bool, timed: bool) -> None:
    result = run_json(compiled / "m.neff", "--mode", mode)
    assert (bool(result["outputs"]), "total_time" in result) == (outputs, timed)


# Outputs are written and serve as expectations: the same run agrees with them to the bit, another one does not.
def test_outputs_and_check_against_them(compiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert run(compiled / "m.neff", "--inputs", STORED, "--outputs", out).exit_code == 0
    (row,) = run_json(compiled / "m.neff", "--inputs", STORED, "--check", out)["outputs"]
    assert (row["max_abs_error"], row["rel_l2_error"]) == (0.0, 0.0)
    assert "floor_rel_l2_error" not in row
    (row,) = run_json(compiled / "m.neff", "--random", "1", "--check", out)["outputs"]
    assert row["rel_l2_error"] > 0.1
    with np.load(out) as saved, np.load(STORED) as stored:
        expected = run_onnxruntime(MODEL, dict(stored))["logp"]
        assert errors(saved["logp"], expected)["rel_l2_error"] < 3e-2


# Without casts there is no floor, and hardly an error.
def test_an_exact_model_has_no_floor(compiled: Path) -> None:
    (row,) = run_json(compiled / "exact.neff", "--check", MODEL)["outputs"]
    assert row["rel_l2_error"] < 1e-5
    assert "floor_rel_l2_error" not in row


# Text of a level runs alike, knows its casts too, and has no time before it has queues.
def test_text_of_a_level(compiled: Path, tmp_path: Path) -> None:
    (row,) = run_json(compiled / "m.mlir", "--inputs", STORED, "--check", MODEL)["outputs"]
    assert 0 < row["rel_l2_error"] <= max(3e-2, 3 * row["floor_rel_l2_error"])
    assert run(compiled / "m.neff", "--inputs", STORED, "--outputs", tmp_path / "neff.npz").exit_code == 0
    assert run(compiled / "m.mlir", "--inputs", STORED, "--outputs", tmp_path / "mlir.npz").exit_code == 0
    assert (tmp_path / "neff.npz").read_bytes() == (tmp_path / "mlir.npz").read_bytes()


def test_text_report(compiled: Path) -> None:
    done = run(compiled / "m.neff", "--check", MODEL, "--mode", "both")
    first, second, third = done.stdout.splitlines()
    assert first.startswith("logp: 1x10 f32  rel_l2_error ")
    assert "(floor " in first
    assert second.startswith("total_time ") and "roofline" in second and "MFU" in second
    assert third.startswith("active: ") and all(engine in third for engine in ENGINES)


# The same seed gives the same inputs, on every machine.
def test_random_inputs() -> None:
    specs = {"x": ((3,), "f32"), "ids": ((50,), "i64"), "mask": ((50,), "i1"), "h": ((3,), "bf16")}
    one, again, other = (random_inputs(specs, seed) for seed in (7, 7, 8))
    assert [a.dtype for a in one.values()] == [np.float32, np.int64, np.bool_, ml_dtypes.bfloat16]
    assert set(one["ids"].tolist()) == {0, 1}
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(one["x"], other["x"])
    assert one["x"].tolist() == pytest.approx([0.0012301532574, 0.2987455427646, -0.2741378605366], rel=1e-6)


# Any output name, element type and shape goes through a file, which is the same for the same arrays.
def test_npz_files(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {
        "file": np.arange(6, dtype=np.int64).reshape(2, 3),
        "a/b:0": np.array(1.5, np.float32),
        "wide": np.arange(8, dtype=np.float32).reshape(4, 2)[:, 1],
        "narrow": np.array([1.5, -2.0]).astype(ml_dtypes.bfloat16),
        "empty": np.empty((0, 4), np.float16),
        "truth": np.array([True, False]),
    }
    write_npz(tmp_path / "a.npz", arrays)
    write_npz(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = read_npz(tmp_path / "a.npz")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        wanted = array.astype(np.float32) if name == "narrow" else array
        assert (read[name].dtype, read[name].shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(read[name], wanted)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], object))
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00 nothing")
    for name in ("one.npy", "text.npz", "pickled.npz", "member.npz"):
        with pytest.raises(NeuronError, match=r"not a valid .npz file") as caught:
            read_npz(tmp_path / name)
        assert caught.value.code == "NX-FILE-002"
    with pytest.raises(NeuronError) as caught:
        read_npz(tmp_path)
    assert caught.value.code == "NX-FILE-001"


# A small archive can unpack to more than memory: what it says is believed before anything is unpacked.
def test_an_archive_that_unpacks_too_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(10_000_000))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr("tools.neuron_run.MAX_NPZ_BYTES", 1_000_000)
    with pytest.raises(NeuronError, match="10000000 bytes when unpacked exceed 1000000"):
        read_npz(tmp_path / "bomb.npz")


# The report inside a file is as hostile as the rest of it.
@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"casts": ["a|b|f32|bf16", "c|f32|bf16"]}, "bf16"),
        ({"casts": []}, ""),
        ({}, ""),
        ({"casts": "node|f32|bf16"}, ""),
        ({"casts": [3, None, "x|f32|f99"]}, ""),
    ],
)
def test_cast_type(report: dict[str, Any], expected: str) -> None:
    assert cast_type_of(report) == expected


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["no.neff"], "NX-FILE-001"),
        (["no.mlir"], "NX-FILE-001"),
        ([MODEL], "NX-NEFF-001"),
        (["m.neff", "--inputs", "no.npz"], "NX-FILE-001"),
        (["m.neff", "--inputs", MODEL], "NX-FILE-002"),
        (["m.neff", "--inputs", "empty.npz"], "NX-RUN-011"),
        (["m.mlir", "--inputs", "empty.npz"], "NX-RUN-011"),
        (["m.neff", "--inputs", "flat.npz"], "NX-RUN-012"),
        (["m.mlir", "--inputs", "flat.npz"], "NX-RUN-012"),
        (["m.neff", "--inputs", "text.npz"], "NX-RUN-005"),
        (["m.neff", "--check", "no.onnx"], "NX-FILE-001"),
        (["m.neff", "--check", "no.npz"], "NX-FILE-001"),
        (["m.neff", "--check", "m.neff"], "NX-RUN-020"),
        (["m.neff", "--check", "empty.npz"], "NX-RUN-021"),
        (["m.neff", "--check", "expected.npz"], "NX-RUN-021"),
        (["m.mlir", "--mode", "timing"], "NX-RUN-013"),
        (["m.neff", "--mode", "timing", "--check", MODEL], "NX-RUN-013"),
        (["m.neff", "--mode", "timing", "--outputs", "o.npz"], "NX-RUN-013"),
        (["m.neff", "--outputs", "no/such/folder/o.npz"], "NX-FILE-001"),
    ],
)
def test_a_mistake_is_one_coded_line(
    compiled: Path, arguments: list[str | Path], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(compiled)
    write_npz(compiled / "empty.npz", {})
    write_npz(compiled / "flat.npz", {"input": np.zeros(784, np.float32)})
    write_npz(compiled / "expected.npz", {"logp": np.zeros(10, np.float32)})
    write_npz(compiled / "text.npz", {"input": np.full((1, 1, 28, 28), "a")})
    done = run(*arguments)
    assert done.exit_code == 1
    assert f"error[{code}]: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
