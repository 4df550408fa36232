"""Where the time of a model goes, for a notebook: what `neuron-profile` tells, as values and tables.

profile = nt.load(model).profile()
profile.figures["total_time"], profile.layers[0].critical_ns
profile.save("profile")        # for `neuron-profile view profile --output-format html`
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from neuron_dialects.isa.program import CoreProgram
from neuron_toolkit.html import section, table
from runtime.profile.advice import Advice, advice_of
from runtime.profile.analysis import Analysis
from runtime.profile.operators import OperatorRow, layers_of, operators_of
from runtime.profile.store import read_profile, read_programs, write_profile
from runtime.profile.summary import Figures, summary_of
from runtime.profile.what_if import retimed

_ROWS = 12
"""Layers that a notebook shows."""


class ModelProfile:
    """The profile of one inference. Times are those of the simulated machine."""

    def __init__(self, analysis: Analysis, programs: Sequence[CoreProgram]) -> None:
        self.analysis, self._programs = analysis, list(programs)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> ModelProfile:
        """A profile that was saved. Raises NeuronError NX-PROF-001 for one that is not whole."""
        return cls(Analysis(read_profile(Path(folder))), read_programs(Path(folder)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it for `neuron-profile`."""
        write_profile(self.analysis.profile, self._programs, Path(folder))

    @cached_property
    def figures(self) -> Figures:
        """All totals under the profiler's names: seconds, bytes, fractions (`_percent`)."""
        return summary_of(self.analysis.profile)

    @cached_property
    def layers(self) -> list[OperatorRow]:
        """One row for each layer, in the order of the run."""
        return layers_of(self.analysis)

    @cached_property
    def operators(self) -> list[OperatorRow]:
        """One row for each ONNX node that has instructions, in the order of the run."""
        return operators_of(self.analysis)

    @cached_property
    def advice(self) -> list[Advice]:
        """The rules of advice that apply, those that could save most first."""
        return advice_of(self.analysis)

    def what_if(self, *changes: str) -> ModelProfile:
        """The profile on a machine with other figures, such as "dma=inf"; NeuronError NX-PROF-002 for others."""
        return ModelProfile(Analysis(retimed(self.analysis.profile, self._programs, changes)), self._programs)

    def _repr_html_(self) -> str:
        total = self.analysis.total_ns
        slowest = sorted(self.layers, key=lambda row: -row.critical_ns)[:_ROWS]
        rows = [(r.name, f"{r.critical_ns / 1e3:.2f}", f"{r.critical_ns / (total or 1):.1%}", r.bound) for r in slowest]
        return "".join(
            (
                section(f"{self.analysis.profile.model}: {total / 1e6:.3f} ms (simulated)", ""),
                section("layers on the critical path", table(rows, ("layer", "us", "share", "busiest"))),
                section("advice", table([(a.rule.name, a.text, a.rule.help) for a in self.advice])),
            )
        )
