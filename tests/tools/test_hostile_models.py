"""`neuron-cc compile` on files that are damaged or made to do harm: a coded line soon, in bounded memory.

All of them are compiled by one process whose memory is limited, so that what is not bounded fails the test and not the
machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run_lines import ROOT
from tests.tools.hostile_models import HOSTILE
from tools.neuron_cc import main

MEMORY_BYTES = 4 * 2**30
"""Address space of the process; its libraries take about one gigabyte."""
SECONDS = 10.0
"""Processor time that any one of the files may take."""


def compile_all(folder: Path) -> None:
    """In the limited process: compile each of the files, write what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    rows: dict[str, tuple[int, float, str]] = {}
    for name, (_, make) in HOSTILE.items():
        made = make()
        path = folder / "m.onnx"
        path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
        del made
        rows[name] = compiled(path)
        (folder / "rows.json").write_text(json.dumps(rows))


def compiled(path: Path) -> tuple[int, float, str]:
    """Exit code, seconds of processor time, and what was printed as an error."""
    printed, started = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        code = main(["compile", str(path), "-o", str(path.with_suffix(".neff"))])
    return code, time.process_time() - started, printed.getvalue()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, float, str]]:
    folder = tmp_path_factory.mktemp("hostile")
    command = [
        sys.executable,
        "-c",
        "import sys; from pathlib import Path; from tests.tools.test_hostile_models import",
    ]
    command[-1] += " compile_all; compile_all(Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(folder)], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=400)
    return json.loads((folder / "rows.json").read_text())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_model(name: str, outcomes: dict[str, tuple[int, float, str]]) -> None:
    wanted, _ = HOSTILE[name]
    code, seconds, printed = outcomes[name]
    assert seconds < SECONDS
    assert len(printed) < 3000
    if wanted is None:
        assert (code, printed) == (0, "")
    else:
        assert code == 1
        assert f"error[{wanted}]: " in printed.splitlines()[0]


def damaged(data: bytes, generator: random.Random) -> bytes:
    """The file with bits flipped, bytes replaced, parts repeated, moved or cut off."""
    made = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 5, 20))):
        start = generator.randrange(len(made))
        end = min(len(made), start + generator.choice((1, 4, 30)))
        match generator.randrange(5):
            case 0:
                made[start] ^= 1 << generator.randrange(8)
            case 1:
                made[start:end] = generator.randbytes(end - start)
            case 2:
                made[start:start] = made[start:end]
            case 3:
                del made[start:end]
            case _:
                made[start] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
        made = made or bytearray(1)
    return bytes(made if generator.randrange(8) else made[: generator.randrange(len(made))])


SMALL_MODELS = ("lenet5", "mnist_mlp", "digits_cnn")


def fuzz(folder: Path, name: str, seed: int, count: int) -> list[str]:
    """Compile `count` damaged copies of a shipped model; what was printed wherever that was no coded error."""
    data = (ROOT / "tests" / "models" / f"{name}.onnx").read_bytes()
    wrong: list[str] = []
    path = folder / "m.onnx"
    for number in range(count):
        path.write_bytes(damaged(data, random.Random(f"{name} {seed} {number}")))
        code, seconds, printed = compiled(path)
        coded = (code == 0 and not printed) or (code == 1 and "error[NX-" in printed.splitlines()[0])
        if not coded or seconds > SECONDS:
            wrong.append(f"{name} {seed} {number}: exit {code} after {seconds:.1f} s: {printed}")
    return wrong


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_damaged_models(name: str, tmp_path: Path) -> None:
    assert fuzz(tmp_path, name, 0, 8) == []


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", SMALL_MODELS)
def test_many_damaged_models(name: str, seed: int, tmp_path: Path) -> None:
    assert fuzz(tmp_path, name, seed, 150) == []
