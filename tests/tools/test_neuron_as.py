"""neuron-as: files in, files out, and what it says of a text that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.neff import read_neff, write_neff
from tests.runtime.neff.samples import sample_neff
from tools import neuron_as, neuron_objdump, neuron_run
from tools.in_process import Completed, run_in_process

KERNELS = Path(__file__).parents[2] / "examples" / "kernels"


def run(*arguments: str | Path) -> Completed:
    return run_in_process(neuron_as.main, [str(argument) for argument in arguments])


# neuron-objdump -d prints what neuron-as reads: on the model that it came from, the file comes back to the byte.
def test_round_trip(tmp_path: Path) -> None:
    model, text, again = (tmp_path / name for name in ("model.neff", "model.nasm", "again.neff"))
    write_neff(sample_neff(), model)
    done = run_in_process(neuron_objdump.main, ["-d", str(model)])
    text.write_text(done.stdout, encoding="utf-8")
    done = run(text, "--base", model, "-o", again)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{again}: 31 entries in 5 queues for trn1\n"
    assert again.read_bytes() == model.read_bytes()


# A kernel by itself: assembled with its parameters, run, compared.
def test_a_kernel_runs(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x, gamma, beta = (generator.normal(size=shape).astype(np.float32) for shape in ((256, 768), (768,), (768,)))
    np.savez(tmp_path / "w.npz", gamma=gamma, beta=beta)
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(
        tmp_path / "y.npz", y=(x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gamma + beta
    )
    neff = tmp_path / "kernel.neff"
    parameters = ("--parameters", tmp_path / "w.npz")
    done = run(KERNELS / "layer_norm.nasm", "-o", neff, *parameters, "--check-races")
    assert (done.exit_code, done.stderr) == (0, "")
    arguments = [neff, "--inputs", tmp_path / "x.npz", "--check", tmp_path / "y.npz", "--tolerance", "1e-5"]
    done = run_in_process(neuron_run.main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stdout + done.stderr


# Without --output the file lies beside the text; the model is called as the text says.
def test_default_output(tmp_path: Path) -> None:
    text = tmp_path / "kernel.nasm"
    text.write_text((KERNELS / "softmax.nasm").read_text(encoding="utf-8"), encoding="utf-8")
    assert run(text).exit_code == 0
    assert read_neff(tmp_path / "kernel.neff").name == "softmax"


def test_mistakes_are_drawn(tmp_path: Path) -> None:
    text = tmp_path / "k.nasm"
    text.write_text(".target trn1\n.queue pe\n  hult\n", encoding="utf-8")
    done = run(text)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.split("\n") == [
        f"{text}:3:3: error[NX-ASM-001]: unknown instruction 'hult'",
        "      hult",
        "      ^~~~",
        "  help: did you mean halt?",
        "",
    ]
    assert not (tmp_path / "k.neff").exists()


# A wait that is too low by one: the access that it should have guarded is named with its line.
def test_races_are_found(tmp_path: Path) -> None:
    text = tmp_path / "k.nasm"
    kernel = (KERNELS / "matmul.nasm").read_text(encoding="utf-8")
    text.write_text(kernel.replace("wait(pe >= r0, c >= r1)", "wait(pe >= r0)"), encoding="utf-8")
    line = 1 + next(i for i, line in enumerate(kernel.split("\n")) if "wait(pe >= r0, c >= r1)" in line)
    assert run(text).exit_code == 0
    done = run(text, "--check-races")
    assert done.exit_code == 1
    assert f"{text}:{line}:3: error[NX-RUN-007]: dma_copy (queue pool" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.nasm"], "error[NX-FILE-001]"),
        (["binary.nasm"], "error[NX-FILE-002]"),
        (["w.nasm"], "error[NX-ASM-002]: parameter 'w' has no values"),
    ],
)
def test_files(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "binary.nasm").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "w.nasm").write_text('.target trn1\n.variable "w" file f32 [4]\n', encoding="utf-8")
    done = run(*(tmp_path / name for name in arguments))
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
