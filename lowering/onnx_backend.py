"""The compiler as an ONNX backend: `onnx.backend.base.Backend` for programs written against that interface.

`prepare` is given a model in memory; `run` of what it returns takes arrays in the order of the model's inputs and
leaves arrays in the order of its outputs. A model is compiled when its first inputs come, because their shapes, and if
need be the values of axes, shapes and similar inputs, become part of the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from lowering.compiler import CompileOptions, CompileResult, compile_model
from neuron_dialects.errors import NeuronError
from runtime.neff import HOST
from runtime.session import Session

PARAMETER_MAX_ELEMENTS = 64
"""An integer input of at most this many elements and at most one dimension may be an axis, a shape or the like."""

SHAPE_GIVING_FLOATS = {("Resize", 1), ("Resize", 2), ("Upsample", 1), ("OneHot", 1)}
"""Operator and input number of floats that decide about shapes: scales, regions of interest, a depth."""


@dataclass(frozen=True)
class Compiled:
    """A model compiled for one set of input shapes and of specialised values."""

    session: Session
    result: CompileResult
    specialised: Mapping[str, np.ndarray[Any, Any]]
    """Inputs that are constants of the program, with their values."""

    @property
    def host_segments(self) -> int:
        """How many segments run on the host."""
        return sum(node.executor == HOST for node in self.session.neff.graph)

    def fits(self, inputs: Mapping[str, Any]) -> bool:
        """Whether it was compiled for inputs of these shapes and for these values where values matter."""
        shapes = {spec.name: spec.shape for spec in self.session.neff.inputs}
        return all(
            np.array_equal(value, self.specialised[name])
            if name in self.specialised
            else np.shape(value) == shapes.get(name)
            for name, value in inputs.items()
            if value is not None
        )


class NeuronRep(BackendRep):
    """A model that runs on the machine. `compiled` says how the latest inputs were compiled."""

    def __init__(self, model: ModelProto, options: CompileOptions) -> None:
        self.model = model
        self.options = options
        self.compiled: Compiled | None = None

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in the order of the model's.

        Args:
            inputs: a mapping by name, or values in the order of the model's inputs: arrays, numpy scalars, lists for
                sequences, None for an absent optional. Trailing inputs with a default value may be missing.
            kwargs: none are known; they are ignored as the interface asks.

        Raises NeuronError for what cannot be compiled or run.
        """
        values = self._by_name(inputs)
        if self.compiled is None or not self.compiled.fits(values):
            self.compiled = compile_for(self.model, values, self.options)
        compiled = self.compiled
        given = {name: value for name, value in values.items() if name not in compiled.specialised}
        outputs = compiled.session.run(given).outputs
        names = [value.name for value in self.model.graph.output]
        return namedtupledict("Outputs", names)(*(outputs[name] for name in names))

    def _by_name(self, inputs: Any) -> dict[str, Any]:
        """The inputs by name, numpy scalars as arrays of no dimension."""
        defaults = {tensor.name for tensor in self.model.graph.initializer}
        names = [value.name for value in self.model.graph.input]
        if isinstance(inputs, Mapping):
            named = dict(inputs)
        else:
            given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
            if len(given) <= len(names) - len(defaults.intersection(names)):
                names = [name for name in names if name not in defaults]
            if len(given) > len(names):
                raise NeuronError("NX-RUN-011", f"{len(given)} inputs are given, the model has {len(names)}")
            named = dict(zip(names, given, strict=False))
        return {
            name: np.asarray(value) if isinstance(value, np.generic | int | float | bool) else value
            for name, value in named.items()
        }


class NeuronBackend(Backend):
    """Compiles for trn1 without casts and runs on the interpreted machine.

    The device is called CPU, as ONNX's test suite calls whatever is not a GPU.
    """

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.partition(":")[0] == "CPU"

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> NeuronRep:
        """The model ready to run.

        Args:
            model: a model without external data.
            device: CPU.
            kwargs: `options`, a `CompileOptions` (default: target trn1, no casts); others are ignored.
        """
        if not cls.supports_device(device):
            raise NeuronError("NX-ARG-001", f"device {device}: the only device is CPU")
        options = kwargs.get("options")
        return NeuronRep(
            model, options if isinstance(options, CompileOptions) else CompileOptions(target="trn1", auto_cast="none")
        )

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)


def compile_for(model: ModelProto, inputs: Mapping[str, Any], options: CompileOptions) -> Compiled:
    """Compile a model for inputs of these shapes: as it is, or, where that leaves something to the host, specialised.

    What is specialised is kept only if it leaves less to the host. Raises NeuronError.
    """
    refusal: NeuronError | None = None
    plain: Compiled | None = None
    try:
        plain = _compile(model, inputs, (), options)
    except NeuronError as error:
        refusal = error
    if plain is not None and not plain.host_segments:
        return plain
    names = parameters(model, inputs)
    if names:
        try:
            special = _compile(model, inputs, names, options)
        except NeuronError as error:
            refusal = refusal or error
        else:
            if plain is None or special.host_segments < plain.host_segments:
                return special
    if plain is None:
        assert refusal is not None
        raise refusal
    return plain


def parameters(model: ModelProto, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Inputs that may be axes, shapes or similar; not the first one if nothing else would be left to compute from."""
    floats = {
        name
        for node in model.graph.node
        for position, name in enumerate(node.input)
        if (node.op_type, position) in SHAPE_GIVING_FLOATS
    }
    names = [
        name
        for name, value in inputs.items()
        if isinstance(value, np.ndarray)
        and value.ndim <= 1
        and value.size <= PARAMETER_MAX_ELEMENTS
        and (value.dtype in (np.int32, np.int64) or name in floats)
    ]
    left = [name for name, value in inputs.items() if value is not None and name not in names]
    return tuple(names) if left else tuple(names[1:])


def _compile(
    model: ModelProto, inputs: Mapping[str, Any], constants: Sequence[str], options: CompileOptions
) -> Compiled:
    """Compile with the named inputs as constants of the program."""
    compiled = onnx.ModelProto()
    compiled.CopyFrom(model)
    kept = [tensor for tensor in compiled.graph.initializer if tensor.name not in inputs]
    del compiled.graph.initializer[:]
    compiled.graph.initializer.extend(kept)
    compiled.graph.initializer.extend(numpy_helper.from_array(inputs[name], name) for name in constants)
    shapes = {
        value.name: np.shape(inputs[value.name])
        for value in model.graph.input
        if value.type.HasField("tensor_type") and value.name in inputs and value.name not in constants
    }
    result = compile_model(compiled, _with_shapes(options, shapes))
    assert result.neff is not None
    return Compiled(Session(result.neff), result, {name: inputs[name] for name in constants})


def _with_shapes(options: CompileOptions, shapes: Mapping[str, tuple[int, ...]]) -> CompileOptions:
    """The options, for inputs of these shapes, up to the NEFF."""
    return CompileOptions(options.target, options.auto_cast, options.auto_cast_type, shapes, "neff")
