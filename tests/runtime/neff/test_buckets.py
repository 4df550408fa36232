"""Several shapes in one NEFF: what is written is read again, values are stored once, contradictions are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neuron_dialects.errors import NeuronError
from runtime.neff import (
    HOST,
    Bucket,
    CoreImage,
    DynamicDimension,
    GraphNode,
    Neff,
    TensorSpec,
    neff_bytes,
    open_neff,
    read_neff,
    shared_file_name,
)
from runtime.neff.archive import END_OF_ARCHIVE
from runtime.neff.manifest import MAX_BUCKETS
from tests.runtime.neff.samples import copy_program, sample_neff, sealed
from tests.runtime.neff.test_hostile import tar_entry

BATCH = DynamicDimension("batch", True, (("x", 0),), (("y", 0),))


def host_neff(*sizes: int) -> Neff:
    """y = host(x) for x [size, 3], one bucket for each size."""
    node = GraphNode(HOST, 0, ("x",), ("y",), "host_0")
    buckets = [
        Bucket([node], [TensorSpec("x", (size, 3), "i64", "i32")], [TensorSpec("y", (size,), "f32", "f32")], [])
        for size in sizes
    ]
    first, *further = buckets
    return Neff(
        "m", "trn1", [], [b"model"], first.graph, first.inputs, first.outputs, further_buckets=further,
        dimensions=[BATCH], padding={"x": -1},
    )  # fmt: skip


def test_buckets_are_read_as_they_were_written() -> None:
    neff = host_neff(1, 4, 16)
    data = neff_bytes(neff)
    read = read_neff(data)
    assert read.buckets == neff.buckets
    assert (read.dimensions, read.padding) == (neff.dimensions, neff.padding)
    assert neff_bytes(read) == data


# A model of one shape says nothing of buckets.
def test_a_model_of_one_shape_is_written_as_before() -> None:
    top = json.loads(bytes(open_neff(neff_bytes(sample_neff())).view("neff.json")))
    assert "neuron_toolkit" not in top


def with_shared_parameters() -> Neff:
    """The sample, with its second program once more, its parameters in the files of the first."""
    neff = sample_neff()
    program, image = copy_program("trn1"), neff.subgraphs[1]
    variables = [
        replace(v, file_name=shared_file_name("sg01", v.file_name)) if v.file_name else v for v in program.variables
    ]
    neff.subgraphs.append(CoreImage(replace(program, variables=variables), image.parameters))
    return neff


def test_parameters_with_equal_values_are_stored_once() -> None:
    neff = with_shared_parameters()
    data = neff_bytes(neff)
    assert not [name for name in open_neff(data).members if name.startswith("sg02/params")]
    read = read_neff(data)
    table, again = (np.frombuffer(bytes(read.subgraphs[i].parameters["table"]), np.uint8) for i in (1, 2))
    np.testing.assert_array_equal(table, again)
    assert neff_bytes(read) == data


# The second bucket's programs do not add to the cores that a run takes.
def test_cores_are_those_of_one_bucket() -> None:
    neff = with_shared_parameters()
    first = neff.buckets[0]
    graph = [replace(node, callee=2) if node.callee == 1 else node for node in first.graph]
    other = [replace(spec, shape=(64, 512)) for spec in first.inputs]
    neff.further_buckets = [replace(first, graph=graph, inputs=other)]
    assert (len(neff.subgraphs), neff.cores, open_neff(neff_bytes(neff)).header.num_tpb) == (3, 2, 2)


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("../sg02/params/0003-table", "which no earlier subgraph has"),
        ("../sg01/params/9999-table", "which no earlier subgraph has"),
        ("../sg00/params/0000-fc_w_0", "has other values than"),
        ("../../sg00/params/x", "not a plain relative path"),
        ("../host/00.onnx", "is not in params/"),
        ("../sg00/pe.bin", "is not in params/"),
    ],
)
def test_a_shared_parameter_refers_to_what_is_there(file_name: str, text: str) -> None:
    neff = with_shared_parameters()
    program = neff.subgraphs[2].program
    for position, variable in enumerate(program.variables):
        if variable.name == "table":
            program.variables[position] = replace(variable, file_name=file_name)
    with pytest.raises(NeuronError) as caught:
        neff_bytes(neff)
    assert text in caught.value.message


def edited(change: Callable[[dict[str, Any]], object], *sizes: int) -> bytes:
    """The bytes of a host model whose `neff.json` somebody has changed, with a header that fits."""
    data = neff_bytes(host_neff(*(sizes or (1, 4))))
    file = open_neff(data)
    members = {name: bytes(file.view(name)) for name in file.members}
    top = json.loads(members["neff.json"])
    change(top)
    members["neff.json"] = json.dumps(top).encode()
    return sealed(b"".join(tar_entry(name, value) for name, value in members.items()) + END_OF_ARCHIVE, data)


def own(top: dict[str, Any]) -> Any:
    return top["neuron_toolkit"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: own(t).pop("dimensions"), "has no key 'dimensions'"),
        (lambda t: own(t)["buckets"].append({}), "has no key 'nodes'"),
        (lambda t: own(t)["buckets"].extend(own(t)["buckets"] * MAX_BUCKETS), "items, limit 63"),
        (lambda t: own(t)["buckets"].extend(own(t)["buckets"]), "has the input shapes of an earlier one"),
        (lambda t: own(t)["buckets"][0]["inputs"][0].update(name="z"), "bucket 1"),
        (lambda t: own(t)["buckets"][0]["inputs"][0].update(shape=[4]), "of another rank"),
        (lambda t: own(t)["buckets"][0]["inputs"][0].update(dtype="i32"), "of another rank or type"),
        (lambda t: own(t)["buckets"][0]["outputs"][0].update(shape=[5]), "has sizes [4, 5]"),
        (lambda t: own(t)["buckets"][0]["nodes"].clear(), "bucket 1: "),
        (lambda t: own(t)["dimensions"][0].update(independent=1), "must be a boolean"),
        (lambda t: own(t)["dimensions"][0].update(name=""), "has no name"),
        (lambda t: own(t)["dimensions"].append(own(t)["dimensions"][0]), "the name of another"),
        (lambda t: own(t)["dimensions"][0]["inputs"].clear(), "is that of no input"),
        (lambda t: own(t)["dimensions"][0]["inputs"][0].update(axis=2), "no axis 2 of tensor 'x'"),
        (lambda t: own(t)["dimensions"][0]["inputs"][0].update(axis=-1), "allowed 0 to"),
        (lambda t: own(t)["dimensions"][0]["inputs"][0].update(axis=1 << 70), "allowed 0 to"),
        (lambda t: own(t)["dimensions"][0]["outputs"][0].update(tensor="x"), "no axis 0 of tensor 'x'"),
        (lambda t: own(t)["dimensions"][0]["outputs"].append(own(t)["dimensions"][0]["outputs"][0]), "listed twice"),
        (lambda t: own(t)["dimensions"][0]["inputs"][0].update(axis=1), "has sizes [1, 3]"),
        (lambda t: own(t).update(padding={"y": 0}), "there is no such input"),
        (lambda t: own(t).update(padding={"x": 0.5}), "0.5 is no i64"),
        (lambda t: own(t).update(padding={"x": 1e300}), "is no i64"),
        (lambda t: own(t).update(padding={"x": 1 << 70}), "not a finite number"),
        (lambda t: own(t).update(padding={"x": True}), "must be a number"),
        (lambda t: t.pop("neuron_toolkit") and t.update(neuron_toolkit=None), "must be an object"),
    ],
)
def test_contradictions_are_refused(change: Callable[[dict[str, Any]], object], text: str) -> None:
    with pytest.raises(NeuronError) as caught:
        read_neff(edited(change))
    assert caught.value.code == "NX-NEFF-005"
    assert text in caught.value.message


# An infinite padding would be no JSON when written again; a dimension of nothing could never be filled.
def test_sizes_and_values_without_end() -> None:
    data = edited(lambda top: own(top).update(padding={"x": float("inf")}))
    with pytest.raises(NeuronError, match="not valid JSON"):
        read_neff(data)
    with pytest.raises(NeuronError, match="must be one of at least 1"):
        neff_bytes(host_neff(0, 4))


def test_too_many_buckets() -> None:
    with pytest.raises(NeuronError) as caught:
        neff_bytes(host_neff(*range(1, MAX_BUCKETS + 2)))
    assert caught.value.code == "NX-NEFF-010"
