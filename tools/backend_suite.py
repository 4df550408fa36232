"""`python -m tools.backend_suite`: ONNX's own backend test suite, case by case, on our backend.

Gives an outcome for every case of `onnx.backend.test`: passed, failed or skipped, whether it ran without a host segment
and whether inputs had to be specialised. `--update` writes the list of cases that do not pass, `--report FILE.json`
the outcomes, and the shares by category are printed as the table that docs/onnx-backend.md shows.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from os import environ
from pathlib import Path
from typing import Any, ClassVar

from onnx import ModelProto

from lowering.onnx_backend import Compiled, NeuronBackend, NeuronRep
from neuron_dialects.errors import NeuronError
from tools.errors import run_main

CATEGORIES = ("Node", "Simple", "PyTorchConverted", "PyTorchOperator", "Real")
"""The suite's own categories; Real are the nine light models."""

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class SuiteRep(NeuronRep):
    """As the suite expects it: what is not supported is a SkipTest with the reason."""

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        try:
            return super().run(inputs, **kwargs)
        except NeuronError as error:
            raise unittest.SkipTest(f"{error.code}: {error.message}") from error


class SuiteBackend(NeuronBackend):
    """The backend under test; `latest` is the model of the case that ran last."""

    latest: ClassVar[NeuronRep | None] = None

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> NeuronRep:
        made = super().prepare(model, device, **kwargs)
        SuiteBackend.latest = SuiteRep(made.model, made.options)
        return SuiteBackend.latest


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    name: str
    category: str
    result: str
    reason: str
    """Why it did not pass; empty if it did."""
    host_segments: int
    """Segments that ran on the host; 0 if it was not compiled."""
    host_operators: str
    """What ran on the host, and why, one reason for each operator."""
    specialised: bool
    """Whether the values of inputs became part of the program."""
    element_types: str
    """ONNX names of the element types of inputs and outputs."""


Case = Callable[[unittest.TestCase], None]


@cache
def suite() -> Mapping[str, Mapping[str, Case]]:
    """Category -> case name (without the device) -> the official test function, in order of names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test import BackendTest

        classes = BackendTest(SuiteBackend, __name__).test_cases
    return {
        category: {
            name.removesuffix("_cpu"): getattr(classes[f"OnnxBackend{category}ModelTest"], name)
            for name in sorted(vars(classes[f"OnnxBackend{category}ModelTest"]))
            if name.startswith("test_") and name.endswith("_cpu")
        }
        for category in CATEGORIES
    }


@contextmanager
def private_onnx_home() -> Iterator[None]:
    """The light models' data are written to and read from $ONNX_HOME: a folder of our own for one case."""
    before = environ.get("ONNX_HOME")
    with tempfile.TemporaryDirectory() as folder:
        environ["ONNX_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del environ["ONNX_HOME"]
            else:
                environ["ONNX_HOME"] = before


def run_case(category: str, name: str) -> Outcome:
    """Run one official case. Whatever it raises is part of the outcome."""
    SuiteBackend.latest = None
    result, reason = PASSED, ""
    try:
        with private_onnx_home(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            suite()[category][name](unittest.TestCase())
    except unittest.SkipTest as skipped:
        result, reason = SKIPPED, str(skipped)
    except AssertionError as different:
        result, reason = FAILED, mismatch(str(different))
    except Exception as crash:  # one case that breaks the compiler must not hide the others
        result, reason = FAILED, f"{type(crash).__name__}: {_first_line(str(crash))}"
    rep = SuiteBackend.latest
    compiled = rep.compiled if rep is not None else None
    return Outcome(
        name,
        category,
        result,
        reason,
        compiled.host_segments if compiled is not None else 0,
        host_reasons(compiled) if compiled is not None else "",
        bool(compiled is not None and compiled.specialised),
        _element_types(rep.model) if rep is not None else "",
    )


def host_reasons(compiled: Compiled) -> str:
    """What a compiled model leaves to the host and why, without repetition."""
    rows = compiled.result.report["partition"]
    return "; ".join(dict.fromkeys(f"{row['op']}: {row['why']}" for row in rows if row["where"] == "host"))


def mismatch(message: str) -> str:
    """The figures of a failed comparison on one line."""
    figures = re.findall(r"Mismatched elements: [^\n]*|Max (?:absolute|relative) difference[^\n]*", message)
    return "; ".join(" ".join(figure.split()) for figure in figures) or _first_line(message)


def _first_line(text: str) -> str:
    return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")


def _element_types(model: ModelProto) -> str:
    """Element types of the model's inputs and outputs, sorted; `other` for what is no tensor."""
    from onnx import TensorProto

    names = {
        TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if value.type.WhichOneof("value") == "tensor_type"
        else "other"
        for value in (*model.graph.input, *model.graph.output)
    }
    return " ".join(sorted(names))
