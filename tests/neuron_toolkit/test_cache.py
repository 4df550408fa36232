"""The compile cache: what is the same is found, what differs is not, damage is repaired, the limit is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from onnx import TensorProto, helper, numpy_helper

import neuron_toolkit as nt
from neuron_toolkit import cache as cache_module
from neuron_toolkit.cache import CompileCache, cache_folder, cache_key, cache_limit_bytes, external_files, plain_text
from neuron_toolkit.plugin import Loaded
from runtime.neff import neff_bytes
from tests.numerics.models import ROOT, SHIPPED
from tests.runtime.neff.samples import sample_neff
from tools.in_process import run_in_process
from tools.neuron_cc import main

MODEL = SHIPPED / "mnist_mlp.onnx"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


# The second time nothing is compiled, and the bytes are the same.
def test_a_second_compile_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = CompileCache(tmp_path / "c")
    first = nt.compile(MODEL, cache=kept)
    monkeypatch.setattr("lowering.compiler.compile_model", None)
    second = nt.compile(MODEL, cache=kept)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert neff_bytes(first) == neff_bytes(second)
    assert len(files(tmp_path / "c")) == 1


# The key changes with everything that the result depends on, and with nothing else.
def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = nt.CompileOptions()
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(MODEL.read_bytes())
    key = cache_key(MODEL, "m", options)
    assert cache_key(copy, "m", options) == key
    model = onnx.load(MODEL)
    shapes = {"a": (1,), "b": (2,)}
    backwards = dict(reversed(shapes.items()))
    assert plain_text(replace(options, input_shapes=shapes)) == plain_text(replace(options, input_shapes=backwards))
    different = [
        cache_key(MODEL, "n", options),
        cache_key(model, "m", options),
        *(cache_key(MODEL, "m", replace(options, **{name: value})) for name, value in (
            ("target", "trn1"), ("auto_cast", "none"), ("force_host", ("Relu",)), ("input_shapes", {"x": (1, 2)}),
            ("buckets", [{"x": (1, 2)}]), ("padding", {"x": -1.0}), ("settings", {"graph-fuse": "off"}),
        )),
    ]  # fmt: skip
    copy.write_bytes(MODEL.read_bytes() + b"\x00")
    different.append(cache_key(copy, "m", options))
    monkeypatch.setattr(cache_module, "VERSION", "0.0.0")
    different.append(cache_key(MODEL, "m", options))
    monkeypatch.undo()
    monkeypatch.setattr(cache_module, "loaded_plugins", lambda: (Loaded("p", "1"),))
    different.append(cache_key(MODEL, "m", options))
    monkeypatch.undo()
    monkeypatch.setattr(cache_module, "code_digest", lambda: "edited")
    different.append(cache_key(MODEL, "m", options))
    assert len({key, *different}) == 1 + len(different)


# External weights count as the model's bytes.
def test_external_weights(tmp_path: Path) -> None:
    model = onnx.load(MODEL)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    key = cache_key(path, "m", nt.CompileOptions())
    data = bytearray((tmp_path / "w.bin").read_bytes())
    data[5] ^= 1
    (tmp_path / "w.bin").write_bytes(data)
    assert cache_key(path, "m", nt.CompileOptions()) != key


# So do those of graphs inside of a node.
def test_external_weights_of_branches(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["r"])], "b", [], [result], [weights])
    node = helper.make_node("If", ["c"], ["r"], then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", [condition], [result])), path)
    inner = onnx.load(path, load_external_data=False)
    for attribute in inner.graph.node[0].attribute:
        onnx.external_data_helper.set_external_data(attribute.g.initializer[0], "w.bin")
    path.write_bytes(inner.SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(16))
    assert external_files(path) == [tmp_path / "w.bin"]


# A damaged entry counts as missing, and is replaced.
@pytest.mark.parametrize("damage", [b"", b"not a NEFF", None])
def test_damaged_entries(tmp_path: Path, damage: bytes | None) -> None:
    kept = CompileCache(tmp_path)
    neff = sample_neff()
    assert kept.load("k") is None
    assert kept.store("k", neff)
    whole = (tmp_path / "k.neff").read_bytes()
    (tmp_path / "k.neff").write_bytes(whole[:-700] + b"\x01" + whole[-699:] if damage is None else damage)
    assert kept.load("k") is None
    assert kept.store("k", neff)
    found = kept.load("k")
    assert found is not None
    assert neff_bytes(found) == whole


# Over its limit the cache loses what was used longest ago; an entry that is too large alone is not kept.
def test_limit(tmp_path: Path) -> None:
    neff = sample_neff()
    size = len(neff_bytes(neff))
    kept = CompileCache(tmp_path, 2 * size)
    for age, key in ((300, "a"), (200, "b")):
        kept.store(key, neff)
        used = time.time() - age
        os.utime(tmp_path / f"{key}.neff", (used, used))
    assert kept.load("a") is not None
    kept.store("c", neff)
    assert files(tmp_path) == ["a.neff", "c.neff"]
    assert not CompileCache(tmp_path / "small", size - 1).store("d", neff)
    abandoned, fresh = tmp_path / ".x.neff.00.tmp", tmp_path / ".y.neff.00.tmp"
    for path in (abandoned, fresh):
        path.write_bytes(b"")
    os.utime(abandoned, (0, 0))
    kept.store("a", neff)
    assert files(tmp_path) == [".y.neff.00.tmp", "a.neff", "c.neff"]


# A folder that cannot be made is no reason not to compile.
def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept = CompileCache(tmp_path / "file" / "c")
    assert not kept.store("k", sample_neff())
    assert kept.load("k") is None


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NEURON_TOOLKIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "neuron-toolkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "neuron-toolkit"
    monkeypatch.setenv("NEURON_TOOLKIT_CACHE", str(tmp_path / "y"))
    assert cache_folder() == tmp_path / "y"
    monkeypatch.setenv("NEURON_TOOLKIT_CACHE", "")
    assert cache_folder() is None
    monkeypatch.setenv("NEURON_TOOLKIT_CACHE_BYTES", "17")
    assert cache_limit_bytes() == 17
    monkeypatch.setenv("NEURON_TOOLKIT_CACHE_BYTES", "much")
    with pytest.raises(nt.NeuronError, match="expected a number of bytes"):
        cache_limit_bytes()


# neuron-cc uses the user's cache and says so; --no-cache neither looks there nor stores.
def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "c"
    monkeypatch.setenv("NEURON_TOOLKIT_CACHE", str(kept))
    arguments = ["compile", str(MODEL), "-o", str(tmp_path / "m.neff")]
    assert " s\n" in run_in_process(main, [*arguments, "--no-cache"]).stdout
    assert not kept.exists()
    printed = [run_in_process(main, arguments).stdout for _ in range(2)]
    assert ["from the cache" in line for line in printed] == [False, True]
    assert len(files(kept)) == 1
    assert "from the cache" not in run_in_process(main, [*arguments, "--no-cache"]).stdout


_INTERRUPTED = """
import os, signal, sys, time
# Whoever starts the tests in the background may have had the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def slow(*paths):
    print("ready", flush=True)
    time.sleep(60)
os.replace = slow
from tools.{tool} import main
sys.exit(main(sys.argv[1:]))
"""


# Ctrl-C in the very moment before a file would be complete: nothing is left of it, and what was there is there still.
@pytest.mark.parametrize(
    ("tool", "arguments", "name"),
    [
        ("neuron_cc", ["compile", str(MODEL), "--no-cache", "-o", "out.neff"], "out.neff"),
        ("neuron_cc", ["compile", str(MODEL), "-o", "out.neff"], "out.neff"),
        ("neuron_cc", ["compile", str(MODEL), "--emit", "graph", "-o", "out.mlir"], "out.mlir"),
        ("neuron_as", [str(ROOT / "examples/kernels/softmax.nasm"), "-o", "out.neff"], "out.neff"),
    ],
)
def test_interrupt_leaves_no_half_file(tmp_path: Path, tool: str, arguments: list[str], name: str) -> None:
    (tmp_path / name).write_text("old", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NEURON_TOOLKIT_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED.format(tool=tool), *arguments],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=30) == 130
    assert (tmp_path / name).read_text(encoding="utf-8") == "old"
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != name]
    assert left == []
