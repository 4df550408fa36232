"""The models that tests run where they are present: real architectures with inputs and onnxruntime's outputs.

They are not part of the project. `NEEDS_MODELS` skips a test where they are absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.dialects.func import FuncOp

from lowering.onnx_to_graph import INPUT_NAMES, OUTPUT_NAMES, ImportResult, import_onnx
from tests.graph_level import Array, main_of
from tests.run_lines import ROOT

MODELS = ROOT.parent / "shared" / "models"

NEEDS_MODELS = pytest.mark.skipif(not MODELS.is_dir(), reason="the models are not here")


@dataclass(frozen=True)
class ZooModel:
    """An imported model, the inputs of its @main in order, and the outputs that onnxruntime computed for them."""

    imported: ImportResult
    inputs: Sequence[Array]
    expected: Sequence[Array]


def model_names() -> list[str]:
    """Names of the models that have inputs; none where the models are absent."""
    return sorted(path.name.partition(".")[0] for path in MODELS.glob("*.inputs.npz"))


def load_model(name: str) -> ZooModel:
    """Import a model with the shapes of its stored inputs."""
    inputs, outputs = (dict(np.load(MODELS / f"{name}.{kind}.npz")) for kind in ("inputs", "outputs"))
    imported = import_onnx(MODELS / f"{name}.onnx", input_shapes={key: array.shape for key, array in inputs.items()})
    main = main_of(imported.module)
    return ZooModel(
        imported,
        [inputs[key] for key in _names(main, INPUT_NAMES)],
        [outputs[key] for key in _names(main, OUTPUT_NAMES)],
    )


def _names(function: FuncOp, attribute: str) -> list[str]:
    names = function.attributes[attribute]
    assert isinstance(names, ArrayAttr)
    return [name.data for name in names if isinstance(name, StringAttr)]
