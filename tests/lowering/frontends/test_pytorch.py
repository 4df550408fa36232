"""PyTorch modules and `.pt2` files to NEFFs, against torch's own results. Skipped without torch and onnxscript."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from lowering.compiler import CompileOptions, CompileResult, compile_model
from lowering.frontends import pytorch
from lowering.frontends.packages import is_installed
from neuron_dialects.errors import NeuronError
from runtime.reference import errors
from runtime.session import Session

if not (is_installed("torch") and is_installed("onnxscript")):
    pytest.skip("torch and onnxscript are not installed: pip install .[pytorch]", allow_module_level=True)

torch: Any = importlib.import_module("torch")

# torch's exporter uses what it deprecates itself.
pytestmark = pytest.mark.filterwarnings("default")
EXACT = CompileOptions(target="trn1", auto_cast="none")


class Classifier(torch.nn.Module):
    """Convolution, normalisation, attention and a linear layer: two inputs, two results."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.BatchNorm2d(16), torch.nn.SiLU())
        self.attention = torch.nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, image: Any, scale: Any) -> tuple[Any, Any]:
        tokens = self.stem(image).flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(mixed.mean(1)) * scale, mixed


def classifier(batch: int = 1) -> tuple[Any, tuple[Any, Any]]:
    torch.manual_seed(0)
    return Classifier().eval(), (torch.randn(batch, 3, 12, 12), torch.tensor([2.0]))


def check_against(module: Any, arguments: tuple[Any, ...], result: CompileResult) -> None:
    """Every op on the core, and torch's numbers."""
    assert result.neff is not None
    assert {row["where"] for row in result.report["partition"]} == {"core"}
    inputs = {spec.name: value.numpy() for spec, value in zip(result.neff.inputs, arguments, strict=True)}
    outputs = Session(result.neff).run(inputs).outputs
    with torch.no_grad():
        expected = module(*arguments)
    for actual, wanted in zip(outputs.values(), expected, strict=True):
        assert errors(actual, wanted.numpy())["rel_l2_error"] <= 1e-4


def test_a_module_in_memory() -> None:
    module, arguments = classifier()
    result = pytorch.compile(module, arguments, EXACT)
    assert [spec.name for spec in result.neff.inputs] == ["image", "scale"] if result.neff else False
    check_against(module, arguments, result)


def test_a_saved_program(tmp_path: Path) -> None:
    module, arguments = classifier()
    path = tmp_path / "classifier.pt2"
    torch.export.save(torch.export.export(module, arguments), str(path))
    result = compile_model(path, EXACT)
    assert result.neff is not None and result.neff.name == "classifier"
    check_against(module, arguments, result)


# The batch is left open when exporting and bound when compiling; the saved graph then holds symbolic sizes.
def test_a_saved_program_with_a_dynamic_batch(tmp_path: Path) -> None:
    module, arguments = classifier(batch=2)
    path = tmp_path / "classifier.pt2"
    sizes = ({0: torch.export.Dim("batch", min=1, max=8)}, None)
    torch.export.save(torch.export.export(module, arguments, dynamic_shapes=sizes), str(path))
    options = CompileOptions(target="trn1", auto_cast="none", input_shapes={"image": (3, 3, 12, 12)})
    check_against(module, classifier(batch=3)[1], compile_model(path, options))


# The program calls an operator that is not torch's own: it is refused by name, and nothing of the kind is looked up.
def test_an_operator_that_is_not_torchs_own(tmp_path: Path) -> None:
    @torch.library.custom_op("neuron_tests::twice", mutates_args=(), schema="(Tensor x) -> Tensor")
    def twice(x: Any) -> Any:
        return x * 2

    def same(x: Any) -> Any:
        return torch.empty_like(x)

    twice.register_fake(same)

    class Calls(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return twice(x)

    path = tmp_path / "calls.pt2"
    torch.export.save(torch.export.export(Calls(), (torch.ones(2),)), str(path))
    with pytest.raises(NeuronError, match=r"it calls 'torch\.ops\.neuron_tests\.twice") as caught:
        compile_model(path)
    assert caught.value.code == "NX-FRAME-002"


# The module decides by the values of its input, which no exporter can write down.
def test_a_module_that_cannot_be_exported() -> None:
    class Decides(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(NeuronError) as caught:
        pytorch.to_onnx(Decides(), (torch.ones(2),))
    assert caught.value.code == "NX-FRAME-003"
