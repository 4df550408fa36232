"""A NeuronCore Pipeline that is measured before it is decided: how many cores, and where the model is cut.

`TunedPipelinePass` stands in for `graph-shard-pipeline` where a model is compiled. It measures what every operator
costs (`pipeline_profile`), cuts, lowers a copy of the stages, runs each in simulated time, corrects the costs by what
was seen, and cuts again. The best cut that was measured is applied. A stage that turns out not to fit is given more
room in the next round. What was found is left as plain data for the compile report (`pipeline_report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.passes import ModulePass

from lowering.nisa_to_neff.program import core_program
from lowering.pipeline import run_passes
from lowering.pipeline_profile import profile
from lowering.pipeline_report import AUTO, StageTrial, pipeline_report
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.neuron import Executor, number_attribute, target_of
from neuron_dialects.target import Target
from passes.graph.partition import functions_of
from passes.graph.pipeline_cut import Chain, Costs, Cutter, Node, Stage
from passes.graph.pipeline_graph import (
    COST_ATTRIBUTE,
    PipelineGraph,
    heaviest_function,
    operators_of,
    read_chain,
    set_stage_cost,
)
from passes.graph.shard_pipeline import GraphShardPipelinePass, apply_cut, refusal, stages_of
from passes.nisa.allocate import PEAK_SBUF_ATTRIBUTE
from passes.nisa.pin_weights import PINNED_BYTES_ATTRIBUTE
from runtime.machine import Machine

MOST_STAGES = 64
"""Cores of the largest instance."""

ROUNDS = 3
"""How often stages are cut, lowered and measured."""

EVEN_ENOUGH = 1.08
"""Slowest stage over the mean at which no further round is worth its time."""

ADAPTABLE_SHARE = 0.75
"""Share of SBUF that buffers take at most by the estimate: large images are kept on chip only where there is room."""

ROOM_STEP_BYTES = 1024
"""By how much a stage's buffers are taken to be larger after they did not fit."""


@dataclass(frozen=True)
class TunedPipelinePass(ModulePass):
    """Cut the heaviest core function into `cores` measured stages, or into as few as fit (AUTO)."""

    name = GraphShardPipelinePass.name

    cores: int = AUTO
    rest: tuple[str, ...] = ()
    """The passes behind this one, which lower the stages."""
    report: dict[str, Any] = field(default_factory=dict[str, Any])

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Shard the module, and fill `report`."""
        function = heaviest_function(op)
        if function is None or not operators_of(function):
            if self.cores == AUTO:
                return
            raise NeuronError("NX-PIPE-002", "no operator of the model runs on a core", help="leave the option out")
        with in_segment(function.sym_name.data):
            profiles = profile(op, function)
        operators = operators_of(function)
        most_working = int(int(target_of(op).sbuf_bytes_per_partition) * ADAPTABLE_SHARE)
        for child, figures in zip(operators, profiles, strict=True):
            working = min(figures.working_bytes, most_working)
            set_stage_cost(child, figures.time_ns, figures.pinned_bytes, working)
        most = stages_of(op, self.cores or MOST_STAGES)
        search = _Search(op, read_chain(function, target_of(op)), self.rest, most if self.cores else AUTO, most)
        search.run()
        for child in operators:
            child.attributes.pop(COST_ATTRIBUTE, None)
        apply_cut(op, search.graph, search.stages)
        self.report.clear()
        self.report.update(pipeline_report(search.graph, search.cutter, search.stages, search.trials, self.cores))


@dataclass
class _Search:
    """The rounds of one function. `stages` and `trials`: of the best cut measured so far."""

    module: ModuleOp
    graph: PipelineGraph
    rest: tuple[str, ...]
    wanted: int
    most: int
    stages: list[Stage] = field(default_factory=list[Stage])
    trials: list[StageTrial] = field(default_factory=list[StageTrial])
    cutter: Cutter = field(init=False)

    def __post_init__(self) -> None:
        self.cutter = self._cutter()

    def _cutter(self) -> Cutter:
        return Cutter(self.graph.chain, self.graph.costs, self.most)

    def run(self) -> None:
        """Cut and measure until stages are even, or as often as allowed."""
        rounds = failures = 0
        seen: set[tuple[int, ...]] = set()
        while rounds < ROUNDS:
            stages = self._cut()
            if stages is None or _places(stages) in seen:
                break
            seen.add(_places(stages))
            trials = self._trial(stages)
            if isinstance(trials, NeuronError):
                failures += 1
                if failures > 4 * ROUNDS:
                    raise trials
                self._give_room(stages, trials)
                continue
            rounds += 1
            if not self.trials or len(stages) < len(self.stages) or _slowest(trials) < _slowest(self.trials):
                self.stages, self.trials = stages, trials
            if _slowest(trials) * len(trials) <= EVEN_ENOUGH * sum(trial.time_ns for trial in trials):
                break
            self._correct(stages, trials)

    def _cut(self) -> list[Stage] | None:
        """The best cut by what is known; None when a measured one is at hand and nothing else fits."""
        count = len(self.stages) or self.wanted or self.cutter.fewest
        stages = self.cutter.stages(count) if count else None
        if stages is None and not self.stages:
            raise refusal(self.graph, count or self.most)
        return stages

    def _trial(self, stages: Sequence[Stage]) -> list[StageTrial] | NeuronError:
        """Lower and run a copy of the stages; the error of one that does not fit."""
        copy = self.module.clone()
        name = self.graph.function.sym_name.data
        function = next(f for f in functions_of(copy, Executor.CORE) if f.sym_name.data == name)
        functions = [f.sym_name.data for f in apply_cut(copy, read_chain(function, self.graph.target), stages)]
        try:
            run_passes(Context(), copy, self.rest)
        except NeuronError as error:
            if error.code not in ("NX-MEM-001", "NX-PIPE-001") or error.segment not in functions:
                raise
            return error
        by_name = {op.sym_name.data: op for op in functions_of(copy, Executor.CORE)}
        return [_measured(by_name[stage], self.graph.target) for stage in functions]

    def _give_room(self, stages: Sequence[Stage], error: NeuronError) -> None:
        """Take the buffers of a stage that did not fit to be larger, and so those of operators that need as much."""
        assert error.segment is not None
        stage = stages[int(error.segment.rpartition("_")[2])]
        inside = {atom.node for atom in self.graph.chain.atoms[stage.first : stage.last]}
        room = self.graph.costs.capacity_bytes - stage.pinned_bytes + ROOM_STEP_BYTES
        largest = max(self.graph.chain.nodes[number].working_bytes for number in inside)
        nodes = [
            replace(node, working_bytes=max(node.working_bytes, room)) if node.working_bytes == largest else node
            for node in self.graph.chain.nodes
        ]
        self._replace(nodes, self.graph.costs)

    def _correct(self, stages: Sequence[Stage], trials: Sequence[StageTrial]) -> None:
        """Bring the costs closer to what was measured."""
        atoms = self.graph.chain.atoms
        own = [sum(atom.time_ns for atom in atoms[stage.first : stage.last]) for stage in stages]
        hidden = hidden_share(stages, own, trials)
        scales: dict[int, list[float]] = {}
        for stage, time, trial in zip(stages, own, trials, strict=True):
            left = trial.time_ns - (stage.time_ns - time) * hidden
            scale = min(4.0, max(0.25, left / time)) if time else 1.0
            for atom in atoms[stage.first : stage.last]:
                scales.setdefault(atom.node, []).append(scale)
        nodes = [
            replace(node, time_ns=node.time_ns * sum(scales[number]) / len(scales[number]))
            for number, node in enumerate(self.graph.chain.nodes)
        ]
        costs = self.graph.costs
        self._replace(nodes, replace(costs, bytes_per_ns=costs.bytes_per_ns / hidden))

    def _replace(self, nodes: Sequence[Node], costs: Costs) -> None:
        """Go on with other costs. Pieces stay as they are, so that cuts stay comparable."""
        self.graph = replace(self.graph, chain=Chain(nodes, self.graph.chain.values), costs=costs)
        self.cutter = self._cutter()


def hidden_share(stages: Sequence[Stage], own_ns: Sequence[float], trials: Sequence[StageTrial]) -> float:
    """The share of transfers that adds to a stage's time, from 0.25 to 1: what explains the measured times best.

    The time of a stage is taken to be `scale * own + share * transfers`, with one scale for all stages.
    """

    def error(share: float) -> float:
        left = [t.time_ns - share * (s.time_ns - own) for s, own, t in zip(stages, own_ns, trials, strict=True)]
        squares = sum(own * own for own in own_ns)
        scale = max(0.0, sum(a * b for a, b in zip(left, own_ns, strict=True)) / squares) if squares else 0.0
        return sum((a - scale * own) ** 2 for a, own in zip(left, own_ns, strict=True))

    return min((1.0, 0.75, 0.5, 0.25), key=error)


def _places(stages: Sequence[Stage]) -> tuple[int, ...]:
    """Where stages begin."""
    return tuple(stage.first for stage in stages)


def _slowest(trials: Sequence[StageTrial]) -> float:
    return max(trial.time_ns for trial in trials)


def _measured(function: FuncOp, target: Target) -> StageTrial:
    """Run a lowered stage in simulated time."""
    timing = Machine(core_program(function, target), target).run({}, {}, "timing").timing
    assert timing is not None
    pinned, peak = (number_attribute(function, name) for name in (PINNED_BYTES_ATTRIBUTE, PEAK_SBUF_ATTRIBUTE))
    return StageTrial(timing.total_time * 1e9, pinned, peak)
