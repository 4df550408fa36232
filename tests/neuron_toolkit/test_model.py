"""The public interface: the three steps, the pipeline in single steps, and what they look like in a notebook."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import neuron_toolkit as nt
from neuron_toolkit.html import MAX_LINES, preformatted, table
from runtime.neff import neff_bytes
from tests.numerics.models import SHIPPED, expected_outputs, model_inputs

MODEL = SHIPPED / "mnist_mlp.onnx"
TOLERANCE = 3e-2


class _Balance(HTMLParser):
    """Fails on HTML whose elements do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown_as(result: Any) -> str:
    """What a notebook shows of a result."""
    return well_formed(result._repr_html_())


def well_formed(html: str) -> str:
    """The HTML, which must close what it opens and load nothing."""
    parser = _Balance()
    parser.feed(html)
    assert parser.open == []
    return html


# Compile, save, load, run: right numbers, a time, and the same from the file.
def test_three_steps(tmp_path: Path) -> None:
    inputs, expected = model_inputs(MODEL), expected_outputs(MODEL)
    model = nt.compile(MODEL, nt.CompileOptions(target="trn1"), cache=False)
    assert (model.name, model.target, model.from_cache) == ("mnist_mlp", "trn1", False)
    assert model.compile_seconds["total"] >= model.compile_seconds["convert-graph-to-tile"] > 0
    session = nt.load(model)
    result = session(inputs, mode="both")
    assert list(result) == list(expected) == [spec.name for spec in session.outputs]
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, atol=TOLERANCE * np.abs(value).max())
    assert result.figures["total_time"] > 0
    assert not session(inputs).figures
    assert len(session(inputs, mode="timing")) == 0
    model.save(tmp_path / "m.neff")
    assert (tmp_path / "m.neff").read_bytes() == neff_bytes(model)
    again = nt.load(tmp_path / "m.neff")(inputs)
    assert all(np.array_equal(again[name], result[name]) for name in expected)
    assert nt.CompiledModel.read(tmp_path / "m.neff").report == model.report
    for shown, words in (
        (model, ("mnist_mlp for trn1", "operators", "1x1x28x28", model.report["partition"][0]["op"])),
        (session, ("loaded for trn1", "f32")),
        (result, ("total_time", "largest")),
    ):
        html = shown_as(shown)
        assert [word for word in words if word not in html] == []


# A model in memory; what is wrong is a NeuronError with a code.
def test_models_in_memory_and_errors() -> None:
    proto = onnx.load(MODEL)
    assert nt.compile(proto, cache=False).name == proto.graph.name
    with pytest.raises(nt.NeuronError, match=r"NX-ARG-001.*PassPipeline stops where you like"):
        nt.compile(MODEL, nt.CompileOptions(emit="tile"), cache=False)
    with pytest.raises(nt.NeuronError, match="NX-ONNX-001"):
        nt.compile("absent.onnx", cache=False)
    with pytest.raises(nt.NeuronError, match="NX-RUN-011"):
        nt.load(nt.compile(proto, cache=False))({})


# Every stage computes what the model computes; the last one is what `compile` emits.
def test_step_by_step() -> None:
    inputs, expected = model_inputs(MODEL), expected_outputs(MODEL)
    pipeline = nt.PassPipeline(MODEL, nt.CompileOptions(target="trn1", auto_cast="none"))
    assert pipeline.passes == pipeline.remaining
    assert pipeline.stages[0].name == "import"
    first = pipeline.step()
    assert (first.name, pipeline.passes[0], len(pipeline.remaining)) == (
        first.name,
        first.name,
        len(pipeline.passes) - 1,
    )
    fused = pipeline.run(until="graph-fuse")
    assert fused.changed and "+" in fused.changes() and "graph.fused" in fused.text
    assert fused.operations["graph.fused"] == fused.text.count("graph.fused")
    pipeline.insert("graph-canonicalize")
    assert pipeline.remaining[0] == "graph-canonicalize"
    names = [stage.name for stage in pipeline]
    assert names[0] == "graph-canonicalize" and names[-1] == "nisa-allocate-registers"
    for stage in (pipeline.stages[0], first, fused, pipeline.stages[-1]):
        result = stage(inputs)
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-4, atol=1e-5)
    assert pipeline.stages[-1](inputs, mode="timing").figures["total_time"] > 0
    model = pipeline.finish()
    assert "convert-graph-to-tile" in model.compile_seconds
    assert nt.load(model)(inputs).keys() == expected.keys()
    assert "graph-fuse" in shown_as(pipeline)
    assert "graph.fused" in shown_as(fused)
    with pytest.raises(IndexError):
        pipeline.step()
    with pytest.raises(nt.NeuronError, match="no pass 'graph-fuse' remains; none do"):
        pipeline.run(until="graph-fuse")


def test_the_pipeline_is_the_compilers() -> None:
    options = nt.CompileOptions(target="inf1")
    stepped, compiled = nt.PassPipeline(MODEL, options).finish(), nt.compile(MODEL, options, cache=False)
    stepped.report = compiled.report
    assert neff_bytes(stepped) == neff_bytes(compiled)


def test_html_says_what_is_text() -> None:
    assert '<td style="text-align:left">&lt;b&gt; &amp;</td>' in well_formed(
        table([("<b> &", 1, 2.5)], ("a", "b", "c"))
    )
    shown = well_formed(preformatted("<x>\n" * (MAX_LINES + 5)))
    assert shown.count("&lt;x&gt;") == MAX_LINES
    assert "... 5 more lines" in shown


# Importing the package for its plug-ins, as every command does, must not cost what compiling needs.
def test_import_is_light() -> None:
    code = "import sys, neuron_toolkit; print([m for m in ('onnx', 'onnxruntime', 'rich', 'lark') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SHIPPED.parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_name_is_there() -> None:
    assert [name for name in nt.__all__ if getattr(nt, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(nt, "nothing")  # noqa: B009
