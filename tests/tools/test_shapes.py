"""Buckets and rows on the command lines: compiled, run on other shapes, compared, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuron_dialects.errors import NeuronError
from tests.lowering.test_dynamic_shapes import CENTRED, DIGITS, MASKED
from tools import neuron_cc, neuron_objdump, neuron_run
from tools.in_process import Completed, run_in_process
from tools.neuron_cc import parse_bucket, parse_padding


def cc(*arguments: str | Path) -> Completed:
    return run_in_process(neuron_cc.main, ["compile", *map(str, arguments), "--target", "trn1"])


def test_buckets() -> None:
    assert parse_bucket("a=1,2") == {"a": (1, 2)}
    assert parse_bucket(" a=1x2; b=3 ;") == {"a": (1, 2), "b": (3,)}
    for text in ("a", "a=1;b", "a=1,-2"):
        with pytest.raises(NeuronError, match="--bucket"):
            parse_bucket(text)


def test_paddings() -> None:
    assert [parse_padding(text) for text in ("a=0", "a=b=-1", "x=0.5", "x=+2", "x=1e2")] == [
        ("a", 0), ("a=b", -1), ("x", 0.5), ("x", 2), ("x", 100.0)
    ]  # fmt: skip
    for text in ("a", "a=", "a=x", "a=inf", "a=nan"):
        with pytest.raises(NeuronError, match="finite number"):
            parse_padding(text)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Completed]:
    """A model, its NEFF of two lengths, and what the compiler said."""
    folder = tmp_path_factory.mktemp("masked")
    model, neff = folder / "m.onnx", folder / "m.neff"
    model.write_bytes(MASKED.SerializeToString())
    buckets = ["--bucket", "ids=1,4", "--bucket", "ids=1,12; mask=1,12", "--pad", "ids=39"]
    return model, neff, cc(model, "-o", neff, *buckets, "--auto-cast", "none", "--report", folder / "r.json")


def test_the_compiler_warns_where_padding_spreads(masked: tuple[Path, Path, Completed]) -> None:
    _, neff, done = masked
    assert done.exit_code == 0
    assert "2 buckets" in done.stdout
    assert "warning: padding of 'length' reaches results unless the model masks it" in done.stderr
    assert "at node 'sum'" in done.stderr
    report = json.loads((neff.parent / "r.json").read_text())
    assert [row["input_shapes"]["mask"] for row in report["buckets"]] == [[1, 4], [1, 12]]


@pytest.mark.parametrize(("length", "bucket"), [(4, 0), (7, 1)])
def test_a_run_between_buckets(masked: tuple[Path, Path, Completed], length: int, bucket: int) -> None:
    model, neff, _ = masked
    shapes = [text for name in ("ids", "mask") for text in ("--input-shape", f"{name}=1,{length}")]
    done = run_in_process(
        neuron_run.main, [str(neff), *shapes, "--random", "3", "--check", str(model), "--mode", "both", "--json"]
    )
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["bucket"], figures["pieces"]) == (bucket, 1)
    assert [row["shape"] for row in figures["outputs"]] == [[1, 8], [1, length, 3]]
    assert all(row["rel_l2_error"] <= 1e-4 for row in figures["outputs"])


def test_a_length_beyond_all_buckets(masked: tuple[Path, Path, Completed]) -> None:
    shapes = [text for name in ("ids", "mask") for text in ("--input-shape", f"{name}=1,13")]
    done = run_in_process(neuron_run.main, [str(masked[1]), *shapes])
    assert (done.exit_code, done.stderr.startswith("error[NX-RUN-012]: ")) == (1, True)
    done = run_in_process(neuron_run.main, [str(masked[1]), "--input-shape", "none=1"])
    assert (done.exit_code, done.stderr.startswith("error[NX-RUN-011]: ")) == (1, True)


def test_buckets_are_shown(masked: tuple[Path, Path, Completed]) -> None:
    done = run_in_process(neuron_objdump.main, [str(masked[1])])
    assert done.exit_code == 0
    for line in (" bucket 0", " bucket 1", '  padding "ids" 39'):
        assert line in done.stdout.splitlines()
    assert 'dynamic "length" up to the largest bucket, padded: "ids"[1], "mask"[1], "each"[1]' in done.stdout
    shown = json.loads(run_in_process(neuron_objdump.main, [str(masked[1]), "--json"]).stdout)["summary"]
    assert [bucket["inputs"][0]["shape"] for bucket in (shown, *shown["further_buckets"])] == [[1, 4], [1, 12]]


def test_rows_in_pieces(tmp_path: Path) -> None:
    neff = tmp_path / "d.neff"
    done = cc(DIGITS, "-o", neff, "--input-shape", "image=4,1,8,8", "--dynamic-batch-size")
    assert (done.exit_code, done.stderr) == (0, "")
    done = run_in_process(neuron_run.main, [str(neff), "--input-shape", "image=10,1,8,8", "--check", str(DIGITS)])
    assert done.exit_code == 0, done.stderr
    assert "bucket 0, run 3 times" in done.stdout


def test_rows_that_are_not_independent(tmp_path: Path) -> None:
    model = tmp_path / "c.onnx"
    model.write_bytes(CENTRED.SerializeToString())
    done = cc(model, "-o", tmp_path / "c.neff", "--dynamic-batch-size")
    assert (done.exit_code, ": error[NX-SHAPE-001]: node 'mean': " in done.stderr) == (1, True)
    done = cc(model, "-o", tmp_path / "c.neff", "--dynamic-batch-size", "assume")
    assert done.exit_code == 0
    assert "warning: 'rows' is taken as independent without proof: it reduces over the dimension" in done.stderr
