"""What the back end refuses returns to the host with its reason, and the numbers stay right."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.passes import ModulePass

from lowering.compiler import CompileOptions, compile_model
from lowering.graph_to_tile import registry
from lowering.refusals import REFUSALS, run_with_refusals
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.graph import PoolOp
from neuron_dialects.neuron import location_name
from runtime.reference import run_onnxruntime
from runtime.session import Session
from tests.graph_level import parse
from tests.layered import TENSOR, layered_text
from tests.numerics.models import SHIPPED, model_inputs
from tools.analyze import analyze, rendered

LENET = SHIPPED / "lenet5.onnx"
EXACT = CompileOptions(target="trn1", auto_cast="none")


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Plant a kernel for pools that refuses; gives the nodes that it was asked for."""
    asked: list[str | None] = []

    def refuse(_: object, op: PoolOp) -> None:
        asked.append(location_name(op.location))
        raise NeuronError("NX-MEM-001", "a pool needs 9 bytes, limit 8", node=asked[-1])

    planted = {**registry.kernels(), PoolOp: refuse}
    monkeypatch.setattr(registry, "kernels", lambda: planted)
    return asked


# The two pools of the model differ in shape: each is refused once, the rest stays on the core.
def test_refused_operators_run_on_the_host(refusing: list[str | None]) -> None:
    result = compile_model(LENET, EXACT)
    assert refusing == ["/2/AveragePool", "/5/AveragePool"]
    rows = {row["node"]: row for row in result.report["partition"]}
    for node in refusing:
        assert node is not None
        assert rows[node]["where"] == "host"
        assert rows[node]["why"] == "the back end refused it: NX-MEM-001: a pool needs 9 bytes, limit 8"
    assert result.neff is not None
    assert [node.executor for node in result.neff.graph] == ["core", "host", "core", "host", "core"]
    inputs = model_inputs(LENET)
    actual = Session(result.neff).run(inputs).outputs
    for name, value in run_onnxruntime(LENET, inputs).items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-5)


def test_analyze_says_so(refusing: list[str | None]) -> None:
    analysis = analyze(LENET, EXACT)
    assert [host.node for host in analysis.host_operators] == refusing
    assert "the back end refused it: NX-MEM-001" in rendered(analysis)
    assert {row["from"] for row in analysis.transfers} >= {"inputs", "neuron_0", "host_1"}
    assert all(segment.estimated_us > 15 for segment in analysis.segments)
    assert len(analyze(LENET, EXACT, lower=False).segments) == 1


# Who must not move is the user's error.
@pytest.mark.parametrize("changes", [{"must_compile": True}, {"force_core": ("AveragePool",)}])
def test_what_must_stay_is_an_error(refusing: list[str | None], changes: dict[str, Any]) -> None:
    with pytest.raises(NeuronError, match=r"NX-MEM-001.*a pool needs 9 bytes"):
        compile_model(LENET, replace(EXACT, **changes))
    assert len(refusing) == 1


# An error that names no operator sends its segment; one that is no refusal is raised; and there is an end.
@pytest.mark.parametrize("code", ["NX-SEM-001", "NX-IR-001"])
def test_errors_without_a_node(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    from passes.nisa import synchronize

    asked: list[str] = []

    def refuse(function: Any, *_: object) -> None:
        asked.append(function.sym_name.data)
        raise NeuronError(code, "too many streams")

    monkeypatch.setattr(synchronize, "synchronize_function", refuse)
    if code == "NX-IR-001":
        with pytest.raises(NeuronError, match="too many streams"):
            compile_model(LENET, EXACT)
        return
    result = compile_model(LENET, EXACT)
    assert {row["where"] for row in result.report["partition"]} == {"host"}
    assert 1 <= len(asked) <= REFUSALS


@dataclass(frozen=True)
class RefuseOnce(ModulePass):
    """Refuses one function, the first time."""

    name = "refuse-once"
    function: str
    refused: list[list[str]] = field(default_factory=list[list[str]])

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        names = [child.sym_name.data for child in op.ops if isinstance(child, FuncOp)]
        self.refused.append(names)
        if len(self.refused) == 1:
            with in_segment(self.function):
                raise NeuronError("NX-MEM-001", "a part needs 9 bytes, limit 8")


# A part of a segment is refused: the whole segment goes to the host.
def test_a_refused_part_is_its_segment() -> None:
    text = layered_text(6)
    begin, end = text.index("    %x0 ="), text.index("    func.return %y")
    body = text[begin:end]
    main = f"""builtin.module attributes {{neuron.target = #neuron.target<"trn1">}} {{
      func.func @main(%x: {TENSOR}, %m: {TENSOR}) -> {TENSOR} {{
        {body}
        func.return %y : {TENSOR}
      }}
    }}"""
    refuse = RefuseOnce("neuron_0_part_1")
    roll = "graph-roll-layers{layers=3 least-layers=4 least-operators=1}"
    run_with_refusals(Context(), parse(main), ["graph-partition", roll, refuse])
    assert refuse.refused == [["main", "neuron_0_part_0", "neuron_0_part_1", "neuron_0_part_2"], ["main", "host_0"]]
