"""The readers of MXNet's two formats: every version of the container, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowering.frontends.mxnet.convert import parameter_file
from lowering.frontends.mxnet.params_file import read_params
from lowering.frontends.mxnet.symbol_file import read_symbol
from neuron_dialects.errors import NeuronError
from tests.lowering.frontends.mxnet_files import params_bytes

ARRAYS = {
    "arg:w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "aux:h": np.array([1, 2], np.float16),
    "i": np.array([[-1]], np.int64),
}


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_versions_of_the_container(tmp_path: Path, version: int) -> None:
    path = tmp_path / "m-0000.params"
    path.write_bytes(params_bytes(ARRAYS, version))
    read = read_params(path)
    assert list(read) == ["w", "h", "i"]
    for name, array in ARRAYS.items():
        plain = read[name.removeprefix("arg:").removeprefix("aux:")]
        assert plain.dtype == array.dtype
        np.testing.assert_array_equal(plain, array)


# Cut anywhere, the file is refused with a code; it is never read past its end.
def test_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-0000.params"
    data = params_bytes(ARRAYS)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(NeuronError) as caught:
            read_params(path)
        assert caught.value.code == "NX-FRAME-002"


ONE = struct.pack("<QQQ", 0x112, 0, 1)
DENSE = struct.pack("<Ii", 0xF993FAC9, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x13" + bytes(30), "does not begin with 0x112"),
        (struct.pack("<QQQ", 0x112, 0, 1 << 60), "claims 1152921504606846976 arrays"),
        (ONE + struct.pack("<Ii", 0xF993FAC9, 1) + bytes(64), "sparse arrays"),
        (ONE + DENSE + struct.pack("<I", 1 << 30), "an array of 1073741824 dimensions"),
        (ONE + DENSE + struct.pack("<Iq", 1, -4) + bytes(32), r"an array of shape \(-4,\)"),
        (ONE + DENSE + struct.pack("<Iqiii", 1, 1, 1, 0, 99), "element type 99"),
        (ONE + DENSE + struct.pack("<Iqqiii", 2, 1 << 40, 1 << 40, 1, 0, 0), "it ends at byte"),
        (struct.pack("<QQQQ", 0x112, 0, 0, 1) + struct.pack("<Q", 1) + b"w", "0 arrays but 1 names"),
        (struct.pack("<QQQQ", 0x112, 0, 0, 1) + struct.pack("<Q", 1) + b"\xff", "not UTF-8"),
        (struct.pack("<QQQQ", 0x112, 0, 0, 1) + struct.pack("<Q", 1 << 40), "a name of"),
    ],
)
def test_bad_containers(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "m-0000.params"
    path.write_bytes(data)
    with pytest.raises(NeuronError, match=message) as caught:
        read_params(path)
    assert caught.value.code == "NX-FRAME-002"


NODE: dict[str, Any] = {"op": "null", "name": "x", "inputs": []}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not as MXNet writes them"),
        ('{"nodes": 3, "heads": []}', "not as MXNet writes them"),
        (json.dumps({"nodes": [{**NODE, "inputs": [["a", 0]]}], "heads": [[0, 0]]}), "not as MXNet writes them"),
        (json.dumps({"nodes": [{**NODE, "attrs": "x"}], "heads": [[0, 0]]}), "not as MXNet writes them"),
        (json.dumps({"nodes": [NODE], "heads": []}), "no results"),
        (json.dumps({"nodes": [NODE], "heads": [[1, 0]]}), "a result is of no node"),
        (json.dumps({"nodes": [{**NODE, "inputs": [[0, 0]]}], "heads": [[0, 0]]}), "'x' reads a later node"),
        (json.dumps({"nodes": [NODE, NODE], "heads": [[0, 0]]}), "two nodes have one name"),
    ],
)
def test_bad_graphs(tmp_path: Path, graph: str, message: str) -> None:
    path = tmp_path / "m-symbol.json"
    path.write_text(graph, encoding="utf-8")
    with pytest.raises(NeuronError, match=message) as caught:
        read_symbol(path)
    assert caught.value.code == "NX-FRAME-002"


# Attributes are called `param` in the oldest files, `attr` in older ones.
@pytest.mark.parametrize("key", ["param", "attr", "attrs"])
def test_names_of_attributes(tmp_path: Path, key: str) -> None:
    path = tmp_path / "m-symbol.json"
    path.write_text(json.dumps({"nodes": [{**NODE, key: {"kernel": "(3, 2)"}}], "heads": [[0, 0]]}), encoding="utf-8")
    assert read_symbol(path).nodes[0].integers("kernel") == (3, 2)


# The last epoch counts; parameters of other models do not.
def test_the_last_epoch(tmp_path: Path) -> None:
    with pytest.raises(NeuronError, match=r"'m-0000\.params' is not beside 'm-symbol\.json'"):
        parameter_file(tmp_path, "m")
    for name in ("m-0000.params", "m-0012.params", "mm-0099.params", "m-0099.params.bak"):
        (tmp_path / name).touch()
    assert parameter_file(tmp_path, "m").name == "m-0012.params"
