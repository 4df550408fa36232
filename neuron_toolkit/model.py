"""Compile, load, run: the three steps of the public interface, and what each gives back.

    import neuron_toolkit as nt

    model = nt.compile("model.onnx", nt.CompileOptions(target="trn1"))
    session = nt.load(model)
    result = session({"x": x}, mode="both")
    result["y"], result.figures["total_time"]

Results show themselves as tables in a notebook.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuron_toolkit.cache import CompileCache, cache_key, default_cache
from neuron_toolkit.html import section, table
from runtime.neff import CORE, Neff, TensorSpec, read_neff, write_neff

if TYPE_CHECKING:
    from onnx import ModelProto

    from lowering.compiler import CompileOptions
    from neuron_toolkit.profile import ModelProfile

Array = np.ndarray[Any, np.dtype[Any]]
Mode = Literal["functional", "timing", "both"]


@dataclass
class CompiledModel(Neff):
    """A compiled model: a `Neff` with what a user does with it. `report` says what the compiler decided and why."""

    from_cache: bool = False
    """Whether it was read from the compile cache."""
    compile_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """How long each step took, and all of them (`total`); not part of the file."""

    @classmethod
    def of(
        cls, neff: Neff, *, from_cache: bool = False, compile_seconds: Mapping[str, float] | None = None
    ) -> CompiledModel:
        """A `Neff` from anywhere, as a compiled model."""
        parts = {part.name: getattr(neff, part.name) for part in fields(Neff)}
        return cls(**parts, from_cache=from_cache, compile_seconds=compile_seconds or {})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CompiledModel:
        """A file that was saved before. Raises NeuronError for one that is not whole."""
        return cls.of(read_neff(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the NEFF, all at once."""
        write_neff(self, path)

    def _repr_html_(self) -> str:
        nodes = [(node.name, "core" if node.executor == CORE else "host", len(node.inputs)) for node in self.graph]
        decisions = [(row["op"], row["where"], row["why"]) for row in self.report.get("partition", ())]
        tensors = [(kind, *_row(spec)) for kind, specs in _ends(self) for spec in specs]
        return "".join(
            (
                section(f"{self.name} for {self.target}", table(tensors, ("", "name", "shape", "type"))),
                section("segments", table(nodes, ("name", "runs on", "inputs"))),
                section("operators", table(decisions, ("operator", "runs on", "why"))) if decisions else "",
            )
        )


@dataclass(frozen=True)
class Result(Mapping[str, Array]):
    """What one inference gave: the outputs by name, and the machine's figures under the profiler's names.

    `outputs` is empty in mode "timing", `figures` in mode "functional". Times are in seconds of the machine.
    """

    outputs: Mapping[str, Array]
    figures: Mapping[str, float | int | bool]

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def _repr_html_(self) -> str:
        rows = [(name, "x".join(map(str, v.shape)), str(v.dtype), *_range(v)) for name, v in self.outputs.items()]
        outputs = section("outputs", table(rows, ("name", "shape", "type", "least", "largest"))) if rows else ""
        return outputs + (section("figures", table(self.figures.items())) if self.figures else "")


class LoadedModel:
    """A model that can run: call it with inputs by name. Thread-safe, see `runtime.session.Session`."""

    def __init__(self, neff: Neff) -> None:
        from runtime.session import Session

        self.neff = neff
        self.session = Session(neff)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and element type of each input."""
        return tuple(self.neff.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and element type of each output."""
        return tuple(self.neff.outputs)

    def __call__(self, inputs: Mapping[str, Any], *, mode: Mode = "functional") -> Result:
        """One inference.

        Args:
            inputs: arrays, or what numpy makes arrays of, by name; shapes and types are those of `inputs`.
            mode: "functional" computes the outputs, "timing" the time that the machine would take, "both" both.

        Raises:
            NeuronError: NX-RUN-010 to 013 for inputs that do not fit, other NX-RUN codes for faults of the program.
        """
        result = self.session.run({name: np.asarray(value) for name, value in inputs.items()}, mode)
        return Result(result.outputs, self.session.summary(result) if result.timings else {})

    def profile(self, bucket: int = 0) -> ModelProfile:
        """Where the time of an inference goes, at the shapes of `bucket`; it depends on no inputs."""
        from neuron_toolkit.profile import ModelProfile
        from runtime.profile.analysis import Analysis
        from runtime.profile.record import neff_programs, record_neff

        recorded = record_neff(self.neff, self.session.target, bucket)
        return ModelProfile(Analysis(recorded), neff_programs(self.neff, bucket))

    def _repr_html_(self) -> str:
        rows = [(kind, *_row(spec)) for kind, specs in _ends(self.neff) for spec in specs]
        return section(f"{self.neff.name}, loaded for {self.neff.target}", table(rows, ("", "name", "shape", "type")))


def compile(
    source: str | Path | ModelProto,
    options: CompileOptions | None = None,
    *,
    cache: CompileCache | bool = True,
    progress: Callable[[str], None] | None = None,
) -> CompiledModel:
    """Compile a model.

    Args:
        source: a model file (ONNX, or one of another framework, see docs/frontends.md), or an ONNX model in memory.
        options: what to compile for; inf1 with matmuls in bf16 by default. `emit` must be "neff".
        cache: where to look for an earlier result and to keep this one: the user's cache, none (False), or a given one.
        progress: told the name of each step.

    Raises:
        NeuronError: with a code, for whatever is wrong with model or options.
    """
    from lowering.compiler import CompileOptions, compile_model
    from lowering.frontends import model_name, to_onnx
    from neuron_dialects.errors import NeuronError

    options = options or CompileOptions()
    options.check()
    if options.emit != "neff":
        raise NeuronError("NX-ARG-001", f"emit {options.emit}: compile gives a NEFF; PassPipeline stops where you like")
    name = model_name(Path(source)) if isinstance(source, str | Path) else source.graph.name
    chosen = default_cache() if cache is True else cache or None
    begun = time.perf_counter()
    model = to_onnx(source)
    key = ""
    if chosen is not None:
        key = cache_key(model, name, options)
        if (found := chosen.load(key)) is not None:
            return CompiledModel.of(found, from_cache=True, compile_seconds={"total": time.perf_counter() - begun})
    taken = Path(model) if isinstance(model, str | os.PathLike) else model
    result = compile_model(taken, options, progress)
    assert result.neff is not None
    # A converted model has forgotten what its file was called.
    result.neff.name = name
    if chosen is not None:
        chosen.store(key, result.neff)
    seconds = {**result.report["compile_seconds"], "total": time.perf_counter() - begun}
    return CompiledModel.of(result.neff, compile_seconds=seconds)


def load(source: Neff | str | os.PathLike[str]) -> LoadedModel:
    """Make a compiled model ready to run: one in memory, or a NEFF file, which is checked as it is read."""
    return LoadedModel(source if isinstance(source, Neff) else read_neff(source))


def _ends(neff: Neff) -> tuple[tuple[str, list[TensorSpec]], ...]:
    return (("input", neff.inputs), ("output", neff.outputs))


def _row(spec: TensorSpec) -> tuple[str, str, str]:
    return spec.name, "x".join(map(str, spec.shape)) or "scalar", spec.dtype


def _range(value: Array) -> tuple[float, float]:
    """Least and largest element, NaN where there is none or it is no number."""
    if not value.size or value.dtype.kind not in "fiub":
        return float("nan"), float("nan")
    return float(value.min()), float(value.max())
