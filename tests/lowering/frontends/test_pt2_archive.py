"""What of a `.pt2` archive is loaded, and what is refused before torch sees it. Needs no torch."""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lowering.frontends import frontend_of, model_name, to_onnx
from lowering.frontends.packages import require
from lowering.frontends.pt2_archive import checked_archive
from neuron_dialects.errors import NeuronError

LEAF = {"type": None, "context": None, "children_spec": []}
ARGUMENTS = {"type": "builtins.tuple", "context": "null", "children_spec": [LEAF]}
GRAPH: dict[str, Any] = {
    "graph_module": {
        "graph": {
            "inputs": [{"as_tensor": {"name": "x"}}],
            "nodes": [
                {
                    "target": "torch.ops.aten.relu.default",
                    "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}],
                    "outputs": [{"as_tensor": {"name": "relu"}}],
                    "metadata": {
                        "stack_trace": 'File "model.py", line 1\n  return relu(x)',
                        "nn_module_stack": "L__self__,,model.Net;L__self___act,act,torch.nn.ReLU",
                    },
                }
            ],
            "tensor_values": {"x": {"dtype": 7, "sizes": [{"as_expr": {"expr_str": "2*s77 + 1"}}, {"as_int": 3}]}},
        },
        "module_call_graph": [{"fqn": "", "signature": {"in_spec": json.dumps([1, ARGUMENTS])}}],
    },
    "range_constraints": {"s77": {"min_val": 1, "max_val": 8}},
    "guards_code": ["__import__('os').abort()"],
    "torch_version": "2.13.0+cpu",
}
WEIGHTS: dict[str, Any] = {
    "config": {
        "layer.weight": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": {"sizes": [{"as_int": 2}]}}
    }
}


def archive(path: Path, changes: dict[str, bytes | None] | None = None, **graph: Any) -> Path:
    """An archive as torch writes it, with members replaced, added, or (None) left out."""
    members: dict[str, bytes | None] = {
        "archive_version": b"0",
        "models/model.json": json.dumps({**GRAPH, **graph}).encode(),
        "data/weights/model_weights_config.json": json.dumps(WEIGHTS).encode(),
        "data/weights/weight_0": bytes(8),
        "data/sample_inputs/model.pt": pickle.dumps([1, 2]),
        **(changes or {}),
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if data is not None:
                file.writestr(f"net/{name}", data)
    return path


def changed(*place: str | int, value: Any) -> bytes:
    """The graph with one value of it replaced."""
    graph = copy.deepcopy(GRAPH)
    at: Any = graph
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return json.dumps(graph).encode()


def refused(path: Path) -> str:
    with pytest.raises(NeuronError) as caught:
        checked_archive(path, io.BytesIO())
    assert caught.value.code == "NX-FRAME-002"
    return caught.value.message


# Weights and the graph are kept; what would be unpickled or executed is not.
def test_what_is_kept(tmp_path: Path) -> None:
    output = io.BytesIO()
    checked_archive(archive(tmp_path / "net.pt2"), output)
    with zipfile.ZipFile(output) as result:
        assert result.read("model/data/weights/weight_0") == bytes(8)
        assert result.read("model/data/sample_inputs/model.pt") == b""
        graph = json.loads(result.read("model/models/model.json"))
    assert graph["guards_code"] == []
    (node,) = graph["graph_module"]["graph"]["nodes"]
    assert node["target"] == "torch.ops.aten.relu.default"
    assert node["metadata"] == {"nn_module_stack": "L__self__,,model.Net;L__self___act,act,torch.nn.ReLU"}


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("data/weights/model.pt", "can be read without pickle"),
        ("data/constants/custom_obj_0", "can be read without pickle"),
        ("data/constants/opaque_obj_0", "can be read without pickle"),
        ("data/aotinductor/model/code.so", "can be read without pickle"),
        ("models/other.json", "can be read without pickle"),
        ("extra/../../x", "can be read without pickle"),
    ],
)
def test_members_that_are_not_loaded(tmp_path: Path, member: str, message: str) -> None:
    assert message in refused(archive(tmp_path / "net.pt2", {member: b"x"}))


NODE = ("graph_module", "graph", "nodes", 0)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (changed(*NODE, "target", value="torch.os.system"), "it calls 'torch.os.system'"),
        (changed(*NODE, "target", value="torch.ops.aten.from_file.default"), "it calls"),
        (changed(*NODE, "target", value="_operator.methodcaller"), "it calls"),
        (changed(*NODE, "target", value="torch.ops.aten.relu.__class__.mro()"), "it calls"),
        (changed(*NODE, "inputs", 0, "name", value="self=print(1)"), "a name in its graph"),
        (changed(*NODE, "outputs", 0, "as_tensor", "name", value="y\nimport os"), "a name in its graph"),
        (changed("graph_module", "graph", "tensor_values", value={"x(": 1}), "a name in its graph"),
        (
            changed(
                "graph_module", "module_call_graph", 0, "signature", "in_spec",
                value=json.dumps([1, {**ARGUMENTS, "type": "collections.namedtuple"}]),
            ),
            "arguments or results are in a 'collections.namedtuple'",
        ),
        (changed("graph_module", "module_call_graph", 0, "signature", "in_spec", value="{"), "is malformed"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{", "is not JSON"),
        (b"[]", "is no JSON object"),
    ],
)  # fmt: skip
def test_graphs_that_are_not_loaded(tmp_path: Path, graph: bytes, message: str) -> None:
    assert message in refused(archive(tmp_path / "net.pt2", {"models/model.json": graph}))


SIZE = ("graph_module", "graph", "tensor_values", "x", "sizes", 0, "as_expr", "expr_str")


# Sizes are written as sympy's constructors, or as operators.
@pytest.mark.parametrize(
    "text",
    ["s0", "2*s77 + 1", "Mul(Integer(36), Symbol('s40', positive=True, integer=True))", "Max(1, s0//2)", "u0**2", "oo"],
)
def test_sizes_that_are_loaded(tmp_path: Path, text: str) -> None:
    checked_archive(archive(tmp_path / "net.pt2", {"models/model.json": changed(*SIZE, value=text)}), io.BytesIO())


@pytest.mark.parametrize(
    "text",
    ["exit()", "s0.real", "9**9**9**9**9**9", "(lambda: 1)()", "[s0]", "s0 if s0 else 1", "Symbol('x\\n')", "print",
     "9" * 30, "", "s0 +", "f'{s0}'", "1 and s0", "s" * 3000],
)  # fmt: skip
def test_sizes_that_are_not_loaded(tmp_path: Path, text: str) -> None:
    graph = changed(*SIZE, value=text)
    assert "a symbolic size is" in refused(archive(tmp_path / "net.pt2", {"models/model.json": graph}))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path_name": "weight_0", "use_pickle": True, "tensor_meta": None}, "'w' is pickled"),
        ({"path_name": "weight_9", "use_pickle": False, "tensor_meta": {"sizes": []}}, "'w' has no data"),
        ({"path_name": "../x", "use_pickle": False, "tensor_meta": {"sizes": []}}, "'w' has no data"),
        ({"path_name": "weight_0", "use_pickle": False, "tensor_meta": {"sizes": [{"as_int": -1}]}}, "'w' has no data"),
        ({"path_name": "weight_0", "use_pickle": False, "tensor_meta": {"sizes": [{"as_int": 2**50}]}}, "elements"),
    ],
)
def test_weights_that_are_not_loaded(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    config = json.dumps({"config": {"w": entry}}).encode()
    assert message in refused(archive(tmp_path / "net.pt2", {"data/weights/model_weights_config.json": config}))


# No data but a size: nothing must be allocated for it.
def test_an_empty_member_cannot_claim_a_size(tmp_path: Path) -> None:
    assert "2 elements, its data 0" in refused(archive(tmp_path / "net.pt2", {"data/weights/weight_0": b""}))


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"PK\x03\x04 no archive")
    assert "not a readable archive" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("net/models/model.json", bytes(1 << 20))
    assert "is compressed" in refused(path)
    assert "has no models/model.json" in refused(archive(path, {"models/model.json": None}))


def test_kinds_of_files(tmp_path: Path) -> None:
    names = ("a.onnx", "b.pt2", "c.keras", "d-symbol.json", "e")
    assert [frontend_of(Path(n)) for n in names] == ["onnx", "pytorch", "tensorflow", "mxnet", "onnx"]
    assert frontend_of(tmp_path) == "tensorflow"
    assert [model_name(Path(n)) for n in names] == ["a", "b", "c", "d", "e"]
    assert to_onnx("a.onnx") == "a.onnx"
    with pytest.raises(NeuronError, match="is not a file"):
        to_onnx(tmp_path / "absent.pt2")


# A package that is not there: the user learns which extra installs it.
def test_an_absent_package() -> None:
    with pytest.raises(NeuronError) as caught:
        require("absent_framework_package", "pytorch")
    assert caught.value.code == "NX-FRAME-001"
    assert caught.value.help == "pip install 'neuron-toolkit[pytorch]'"
