"""A NeuronCore Pipeline that is measured before it is decided: how many cores, and where the model is cut.

`TunedPipelinePass` stands in for `graph-shard-pipeline` where a model is compiled. It measures what every operator
costs (`pipeline_profile`), cuts, lowers a copy of the stages, runs each in simulated time, corrects the costs by what
was seen, and cuts again: first with a stage for each core, then, where these are uneven or do not fit, folded. The best
cut that was measured is applied. A stage that turns out not to fit is given more room in the next round. What was found
is left as plain data for the compile report (`pipeline_report`).
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
from lowering.pipeline_profile import OperatorProfile, profile, profiles
from lowering.pipeline_report import AUTO, StageTrial, core_times, pipeline_report
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.neuron import core_functions, number_attribute, target_of
from neuron_dialects.target import Target
from passes.graph.pipeline_cut import Chain, Costs, Level, Node, Stage
from passes.graph.pipeline_fold import Cut, Cuts
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

FOLD_ABOVE = 1.25
"""Slowest core over the mean from which on folded pipelines are tried."""

ADAPTABLE_SHARE = 0.75
"""Share of SBUF that buffers take at most by the estimate: large images are kept on chip only where there is room."""

NO_ROOM = ("NX-MEM-001", "NX-PIPE-001")
"""Errors of a stage that does not fit on its core."""

NO_SEMAPHORE = "NX-SEM-001"
"""Error of a stage that exchanges tensors with too many others."""

TIGHT_FACTOR = 2.0
"""How much longer an operator is taken to be at work whose buffers have lost their copies."""

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
        costs = _Measurements(op, function)
        most = stages_of(op, self.cores or MOST_STAGES)
        search = _Search(op, costs, self.rest, most if self.cores else AUTO, most)
        search.run()
        assert search.cut is not None
        for operator in operators_of(function):
            operator.attributes.pop(COST_ATTRIBUTE)
        apply_cut(op, search.graph, search.cut)
        self.report.clear()
        self.report.update(pipeline_report(search.graph, search.fit, search.cut, search.trials, self.cores))


@dataclass
class _Measurements:
    """What the operators of a function cost, measured as far as needed, and written down on them."""

    module: ModuleOp
    function: FuncOp
    _profile: list[OperatorProfile] = field(default_factory=list[OperatorProfile])

    def endless(self) -> PipelineGraph:
        """The chain with one level: what operators take where there is endless room, each buffer with one copy."""
        with in_segment(self.function.sym_name.data):
            self._profile = profile(self.module, self.function)
        most = int(int(target_of(self.module).sbuf_bytes_per_partition) * ADAPTABLE_SHARE)
        levels = [((own.time_ns, min(own.least_bytes, most)),) for own in self._profile]
        return self._graph(levels, [own.pinned_bytes for own in self._profile], (0,))

    def by_room(self) -> PipelineGraph:
        """The chain with levels of less and less room, and two at which buffers have one copy only."""
        with in_segment(self.function.sym_name.data):
            measured = profiles(self.module, self.function, self._profile)
        rows = list(zip(*(level.operators for level in measured), strict=True))
        levels = [
            (
                *((own.time_ns, own.working_bytes) for own in row),
                *((own.time_ns * TIGHT_FACTOR, own.least_bytes) for own in (row[0], row[-1])),
            )
            for row in rows
        ]
        rooms = [level.room_bytes for level in measured]
        return self._graph(
            levels, [max(own.pinned_bytes for own in row) for row in rows], (*rooms, rooms[0], rooms[-1])
        )

    def _graph(
        self, levels: Sequence[tuple[Level, ...]], pinned: Sequence[int], rooms: tuple[int, ...]
    ) -> PipelineGraph:
        for operator, own, size in zip(operators_of(self.function), levels, pinned, strict=True):
            set_stage_cost(operator, size, own)
        graph = read_chain(self.function, target_of(self.module))
        return replace(graph, costs=replace(graph.costs, rooms=rooms))


@dataclass
class _Search:
    """The rounds of one function: first plain cuts, then, where these are uneven or none fits, folded ones.

    `cut` and `trials`: the best cut measured so far. `problem`: why cuts that fit by the estimates cannot be. `fit`:
    what the costs with endless room say about other counts.
    """

    module: ModuleOp
    measurements: _Measurements
    rest: tuple[str, ...]
    wanted: int
    most: int
    cut: Cut | None = None
    trials: list[StageTrial] = field(default_factory=list[StageTrial])
    is_folding: bool = False
    problem: NeuronError | None = None
    graph: PipelineGraph = field(init=False)
    cuts: Cuts = field(init=False)
    fit: Cuts = field(init=False)

    def __post_init__(self) -> None:
        self._take(self.measurements.endless())

    def _take(self, graph: PipelineGraph) -> None:
        """Go on with other costs."""
        self.graph, self.cuts = graph, Cuts(graph.chain, graph.costs, self.most)

    def run(self) -> None:
        """Find the best cut. Raises as `shard`."""
        self._refuse_misfits()
        self._rounds()
        self.fit = self.cuts
        times = core_times(self.cut, self.trials) if self.cut else [0.0]
        if self.cut is None or max(times) * len(times) > FOLD_ABOVE * sum(times):
            self.is_folding = True
            self._take(self.measurements.by_room())
            self._rounds()
        if self.cut is None:
            raise self.problem or refusal(self.graph, self.cuts, self.wanted or self.most)

    def _refuse_misfits(self) -> None:
        count = self.wanted or self.cuts.fewest
        if count is None or self.cuts.cut(count) is None:
            raise refusal(self.graph, self.cuts, count or self.most)

    def _rounds(self) -> None:
        """Cut and measure until cores are even, or as often as allowed."""
        rounds = failures = 0
        seen: set[tuple[tuple[int, int], ...]] = set()
        while rounds < ROUNDS:
            cut = self._next()
            if cut is None or _places(cut) in seen:
                break
            seen.add(_places(cut))
            trials = self._trial(cut)
            if isinstance(trials, NeuronError):
                failures += 1
                if failures > 4 * ROUNDS or trials.code not in NO_ROOM:
                    self.problem = trials
                    break
                self._give_room(cut, trials)
                continue
            rounds += 1
            times = core_times(cut, trials)
            if self.cut is None or max(times) < max(core_times(self.cut, self.trials)):
                self.cut, self.trials = cut, trials
            if max(times) * len(times) <= EVEN_ENOUGH * sum(times):
                break
            self._correct(cut.stages, trials)

    def _next(self) -> Cut | None:
        """The best cut by what is known, if there is one."""
        count = self.cut.cores if self.cut else self.wanted or self.cuts.fewest
        if not count:
            return None
        return self.cuts.cut(count) if self.is_folding else self.cuts.plain_cut(count)

    def _trial(self, cut: Cut) -> list[StageTrial] | NeuronError:
        """Lower and run a copy of the stages; the error of one that does not fit or waits for too many others."""
        copy = self.module.clone()
        name = self.graph.function.sym_name.data
        function = next(f for f in core_functions(copy) if f.sym_name.data == name)
        graph = replace(read_chain(function, self.graph.target), costs=self.graph.costs)
        functions = [f.sym_name.data for f in apply_cut(copy, graph, cut)]
        try:
            run_passes(Context(), copy, self.rest)
        except NeuronError as error:
            if error.code == NO_SEMAPHORE or (error.code in NO_ROOM and error.segment in functions):
                return error
            raise
        by_name = {op.sym_name.data: op for op in core_functions(copy)}
        return [_measured(by_name[stage], self.graph.target) for stage in functions]

    def _give_room(self, cut: Cut, error: NeuronError) -> None:
        """Take the buffers of a stage that did not fit to be larger, and so those of operators that need as much."""
        assert error.segment is not None
        number = int(error.segment.rpartition("_")[2])
        stage = cut.stages[number]
        inside = {atom.node for atom in self.graph.chain.atoms[stage.first : stage.last]}
        room = self.graph.costs.capacity_bytes - cut.pinned_bytes(cut.core_of[number]) + ROOM_STEP_BYTES
        level = stage.level
        largest = max(self.graph.chain.nodes[number].levels[level][1] for number in inside)
        self._replace([_roomier(node, level, largest, room) for node in self.graph.chain.nodes], self.graph.costs)

    def _correct(self, stages: Sequence[Stage], trials: Sequence[StageTrial]) -> None:
        """Bring the costs closer to what was measured, at the levels at which it was."""
        atoms = self.graph.chain.atoms
        own = [sum(atom.levels[stage.level][0] for atom in atoms[stage.first : stage.last]) for stage in stages]
        hidden = hidden_share(stages, own, trials)
        scales: dict[tuple[int, int], list[float]] = {}
        for stage, time, trial in zip(stages, own, trials, strict=True):
            left = trial.time_ns - (stage.time_ns - time) * hidden
            scale = min(4.0, max(0.25, left / time)) if time else 1.0
            for atom in atoms[stage.first : stage.last]:
                scales.setdefault((atom.node, stage.level), []).append(scale)
        nodes = [
            _scaled(node, [_mean(scales.get((number, level), [1.0])) for level in range(len(node.levels))])
            for number, node in enumerate(self.graph.chain.nodes)
        ]
        costs = self.graph.costs
        self._replace(nodes, replace(costs, bytes_per_ns=costs.bytes_per_ns / hidden))

    def _replace(self, nodes: Sequence[Node], costs: Costs) -> None:
        """Go on with other costs. Pieces stay as they are, so that cuts stay comparable."""
        self._take(replace(self.graph, chain=Chain(nodes, self.graph.chain.values), costs=costs))


def _roomier(node: Node, level: int, working: int, room: int) -> Node:
    """The node with more bytes at a level where it has `working`."""
    time, own = node.levels[level]
    changed = (time, max(own, room)) if own == working else (time, own)
    return replace(node, levels=(*node.levels[:level], changed, *node.levels[level + 1 :]))


def _scaled(node: Node, scales: Sequence[float]) -> Node:
    """The node with other times: at each level so many times those that it has."""
    return replace(
        node, levels=tuple((time * scale, size) for (time, size), scale in zip(node.levels, scales, strict=True))
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


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


def _places(cut: Cut) -> tuple[tuple[int, int], ...]:
    """Where stages begin, and on which core."""
    return tuple((stage.first, core) for stage, core in zip(cut.stages, cut.core_of, strict=True))


def _measured(function: FuncOp, target: Target) -> StageTrial:
    """Run a lowered stage in simulated time."""
    timing = Machine(core_program(function, target), target).run({}, {}, "timing").timing
    assert timing is not None
    pinned, peak = (number_attribute(function, name) for name in (PINNED_BYTES_ATTRIBUTE, PEAK_SBUF_ATTRIBUTE))
    return StageTrial(timing.total_time * 1e9, pinned, peak)
