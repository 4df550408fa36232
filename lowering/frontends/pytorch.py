"""PyTorch to ONNX by torch's own exporter: `.pt2` files, and modules in memory.

Given a program saved by `torch.export.save`, or a module with example inputs, this module leaves an ONNX model, which
`compile` hands on to the compiler. Needs the extra `pytorch`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowering.frontends.packages import require
from lowering.frontends.pt2_archive import checked_archive
from neuron_dialects.errors import NeuronError

if TYPE_CHECKING:
    from onnx import ModelProto

    from lowering.compiler import CompileOptions, CompileResult

EXTRA = "pytorch"


def read_pt2(path: Path) -> ModelProto:
    """The ONNX model of an exported program. Only what needs no unpickling is loaded, see `pt2_archive`.

    NeuronError: NX-FRAME-001 without torch, 002 for a malformed or unsafe file, 003 when torch cannot export it.
    """
    if not path.is_file():
        raise NeuronError("NX-FRAME-002", f"'{path}' is not a file")
    with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
        checked_archive(path, file)
        file.flush()
        torch = _torch()
        with _quiet():
            try:
                program = torch.export.load(file.name)
            except Exception as error:  # torch raises anything, AssertionError and KeyError among it
                raise NeuronError(
                    "NX-FRAME-002",
                    f"torch {torch.__version__} cannot read '{path.name}': {_first_line(error)}",
                    help="export and save the program by the same version of torch",
                ) from error
            return _exported(torch, program, (), None)


def to_onnx(module: Any, example_inputs: Sequence[Any], dynamic_shapes: Any = None) -> ModelProto:
    """The ONNX model of a `torch.nn.Module`, or of a `torch.export.ExportedProgram`.

    Args:
        module: the module, in the mode (`eval()`) that it is to run in.
        example_inputs: positional arguments; shapes and element types count.
        dynamic_shapes: as of `torch.export.export`; sizes that it leaves open are bound by
            `CompileOptions.input_shapes`.

    NeuronError: NX-FRAME-001 without torch, NX-FRAME-003 when torch cannot export the module.
    """
    torch = _torch()
    with _quiet():
        return _exported(torch, module, tuple(example_inputs), dynamic_shapes)


def compile(
    module: Any,
    example_inputs: Sequence[Any],
    options: CompileOptions | None = None,
    *,
    dynamic_shapes: Any = None,
) -> CompileResult:
    """Compile a PyTorch module: `to_onnx`, then `lowering.compiler.compile_model`.

    Inputs and outputs are named as torch's exporter names them: inputs by the parameters of `forward`.
    """
    from lowering.compiler import compile_model

    return compile_model(to_onnx(module, example_inputs, dynamic_shapes), options)


def _torch() -> Any:
    """torch, with what its ONNX exporter needs besides."""
    torch = require("torch", EXTRA)
    require("onnxscript", EXTRA)
    return torch


def _exported(torch: Any, module: Any, example_inputs: tuple[Any, ...], dynamic_shapes: Any) -> ModelProto:
    options: Mapping[str, Any] = {"dynamic_shapes": dynamic_shapes} if dynamic_shapes is not None else {}
    try:
        program = torch.onnx.export(module, example_inputs, dynamo=True, verbose=False, **options)
        return program.model_proto
    except Exception as error:  # the exporter wraps whatever the module or torch raises
        cause = error.__cause__ or error
        raise NeuronError(
            "NX-FRAME-003",
            f"torch {torch.__version__} cannot export the module to ONNX: {_first_line(cause)}",
            help="torch.onnx.export(module, inputs, dynamo=True, report=True) tells where; an older exporter "
            "(dynamo=False) writes ONNX files that can be compiled too",
        ) from error


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """The exporter's progress and warnings go nowhere: they tell of torch, not of the user's model."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
