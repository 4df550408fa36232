"""The round trip through text on whole models, which other tests run: the same file to the byte."""

from __future__ import annotations

import pytest

from runtime.assembly import assemble, assembled_model
from runtime.neff import neff_bytes
from runtime.neff.text import program_text
from tests.model_zoo import MODELS, NEEDS_MODELS, model_names
from tests.numerics.models import compile_for_inputs, model_inputs

LIGHT = ("albert_base", "bilstm_tagger", "ds_cnn_kws")
"""Models that take a second or two."""


@NEEDS_MODELS
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in LIGHT else pytest.mark.nightly) for name in model_names()]
)
def test_models_come_back(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    model = compile_for_inputs(path, model_inputs(path)).neff
    assert model is not None
    text = "".join(
        "\n".join((f".subgraph sg{number:02}", *program_text(image.program), ""))
        for number, image in enumerate(model.subgraphs)
    )
    if not model.subgraphs:
        pytest.skip("nothing of it runs on a core")
    assert neff_bytes(assembled_model(assemble(text), base=model)) == neff_bytes(model)
