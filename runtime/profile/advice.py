"""What the profile suggests to change: rules with thresholds, each with the figure that it saw.

The thresholds of transposes, reloads, active FLOPs and payloads are those that Neuron Explorer documents; the others
are ours and are marked so. A saving is an upper bound: the time that the matter has on the critical path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from runtime.profile.analysis import Analysis, ProgramAnalysis
from runtime.profile.columns import Array
from runtime.profile.model import ENGINES, ProgramProfile
from runtime.profile.operators import STREAMS
from runtime.profile.summary import Figures, ring_mask, summary_of


@dataclass(frozen=True)
class Rule:
    """A rule: broken when its figure is above (or below) the threshold. `documented`: the threshold is Explorer's."""

    name: str
    figure: str
    threshold: float
    above: bool
    documented: bool
    help: str


@dataclass(frozen=True)
class Advice:
    """A broken rule: the figure's `value`, `text` with the numbers behind it, `saving_ns` at most."""

    rule: Rule
    value: float
    text: str
    saving_ns: float = 0.0


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "active-flops", "model FLOPs per peak FLOPs of the active time", 0.5, False, True,
            "see what the critical path is made of; larger batches and tiles keep the tensor engine busy",
        ),
        Rule(
            "transposes", "share of transposes in the tensor engine's FLOPs", 0.1, True, True,
            "choose layouts that producer and consumer share, or transpose weights when compiling",
        ),
        Rule(
            "spill-reload", "share of spill reloads in DRAM reads", 0.25, True, True,
            "smaller tiles or fewer rotating copies need less SBUF",
        ),
        Rule(
            "small-payload", "share of DMA time in transfers with runs below 4 KiB", 0.25, True, True,
            "transfer whole rows, or lay the tensor out so that a tile is contiguous",
        ),
        Rule(
            "small-transfers", "mean bytes of a transfer", 32768, False, True,
            "load more at once: the fixed cost of a transfer is about two microseconds",
        ),
        Rule(
            "reloads", "times that loaded inputs and weights are loaded", 1.0, True, True,
            "keep what is used again in SBUF, or order the loops so that it is used up at once",
        ),
        Rule(
            "unfilled-rows", "rows of the array that matmuls fill", 0.5, False, False,
            "contractions shorter than the array leave rows idle; merge small ones (filter taps, heads)",
        ),
        Rule(
            "unfilled-columns", "columns of the array that matmuls fill", 0.5, False, False,
            "give the tensor engine more output channels at once",
        ),
        Rule(
            "unfilled-partitions", "partitions that vector, scalar and gpsimd instructions fill", 0.5, False, False,
            "put a longer dimension on partitions",
        ),
        Rule(
            "fp32-matmul", "share of the tensor engine's time in matmuls of more than one pass", 0.1, True, False,
            "--auto-cast matmult multiplies in 16 bits",
        ),
        Rule(
            "table-loads", "share of the scalar engine's time in loads of function tables", 0.05, True, False,
            "group activations by function, or move one of the alternating ones to another engine",
        ),
        Rule(
            "latency-bound", "share of the critical path in latencies, semaphores and control", 0.2, True, False,
            "more rotating buffers let the engines run further ahead of each other; larger tiles need fewer hand-overs",
        ),
        Rule(
            "weight-loads", "share of the critical path in weight loads that nothing hides", 0.05, True, False,
            "give each stationary tile more moving columns",
        ),
        Rule(
            "dma-bound", "share of the time in which the DMA engines are busy", 0.8, True, False,
            "only fewer bytes make it faster: larger batches, 16-bit weights, values kept in SBUF",
        ),
    )
}  # fmt: skip
"""The rules by name."""


def advice_of(analysis: Analysis) -> list[Advice]:
    """The rules that a profile breaks, those that could save most first."""
    figures = summary_of(analysis.profile)
    facts = _Facts(analysis, figures)
    found: list[Advice] = []
    for name, rule in RULES.items():
        measured = getattr(facts, name.replace("-", "_"))()
        if measured is not None:
            value, text, saving = measured
            if value > rule.threshold if rule.above else value < rule.threshold:
                found.append(Advice(rule, value, text, saving))
    return sorted(found, key=lambda advice: -advice.saving_ns)


Measured = tuple[float, str, float] | None
"""The figure of a rule, the text with the numbers behind it, and what it could save (ns)."""


class _Facts:
    """One method for each rule, named like it."""

    def __init__(self, analysis: Analysis, figures: Figures) -> None:
        self.programs, self.figures = analysis.programs, figures
        self.total_ns = analysis.total_ns
        self.target = analysis.profile.target

    def _path_ns(self, wanted: Callable[[ProgramProfile], Array]) -> float:
        """Critical time in which chosen events (a mask) run."""
        total = 0.0
        for program in self.programs:
            mask = wanted(program.profile)
            steps = (s for s in program.path if s.kind == "execute" and s.event >= 0 and mask[s.event])
            total += sum(step.end - step.start for step in steps) * len(program.starts_ns)
        return total

    def _kinds_ns(self, *kinds: str) -> float:
        return sum(
            (step.end - step.start) * len(program.starts_ns)
            for program in self.programs
            for step in program.path
            if step.kind in kinds
        )

    def _weighted(self, wanted: Callable[[ProgramProfile], Array], column: str) -> tuple[float, float] | None:
        """Mean of a column of `Instructions` over chosen events, weighted by their time, and that time."""
        time = weighted = 0.0
        for program in self.programs:
            profile = program.profile
            mask, times = wanted(profile), len(program.starts_ns)
            values = getattr(profile.instructions, column)[profile.events.instruction[mask]]
            time += float(profile.duration[mask].sum()) * times
            weighted += float((profile.duration[mask] * values).sum()) * times
        return (weighted / time, time) if time else None

    def active_flops(self) -> Measured:
        active, peak = float(self.figures["total_active_time"]), 2e9 * self.target.peak_macs_per_ns
        if not active or not self.figures["model_flops"]:
            return None
        value = self.figures["model_flops"] / (peak * active)
        gap = self.total_ns - self._path_ns(_on("tensor"))
        return value, f"the tensor engine reaches {value:.0%} of its peak while anything runs", gap

    def transposes(self) -> Measured:
        transposes, matmuls = self.figures["transpose_flops"], self.figures["hardware_flops"]
        if not transposes:
            return None
        count = sum(int(transposing(program.profile).sum()) * len(program.starts_ns) for program in self.programs)
        value = transposes / (transposes + matmuls)
        return value, f"{count} transposes make {value:.0%} of the tensor engine's FLOPs", self._path_ns(transposing)

    def spill_reload(self) -> Measured:
        reads, reloads = self.figures["hbm_read_bytes"], self.figures["spill_reload_bytes"]
        if not reads:
            return None
        saving = self._path_ns(lambda p: (ring_mask(p, "spill") | ring_mask(p, "reload"))[p.events.instruction])
        return reloads / reads, f"{reloads:,} of {reads:,} bytes read from DRAM are reloads of spilled buffers", saving

    def small_payload(self) -> Measured:
        small = self._weighted(lambda p: p.is_transfer() & _of(p, p.instructions.run_bytes < 4096), "run_bytes")
        whole = self._weighted(lambda p: p.is_transfer(), "run_bytes")
        if small is None or whole is None:
            return None
        saving = self._path_ns(lambda p: p.is_transfer() & _of(p, p.instructions.run_bytes < 4096))
        text = f"runs below 4 KiB, {small[0]:,.0f} bytes on average, take {small[1] / whole[1]:.0%} of the DMA time"
        return small[1] / whole[1], text, saving

    def small_transfers(self) -> Measured:
        mean, count = float(self.figures["dma_transfer_average_bytes"]), self.figures["dma_transfer_count"]
        if not count:
            return None
        return mean, f"{count} transfers move {mean:,.0f} bytes each", self._kinds_ns("trigger")

    def reloads(self) -> Measured:
        loaded = {name: value for program in self.programs for name, value in loads_of(program).items()}
        excess = {name: moved - size for name, (moved, size) in loaded.items() if moved > size}
        # A few bytes more are halos of tiles, not reloads.
        if not excess or sum(excess.values()) < 0.05 * float(self.figures["hbm_read_bytes"]):
            return None
        worst = max(excess, key=lambda name: excess[name])
        moved, size = (sum(pair[i] for pair in loaded.values()) for i in (0, 1))
        text = (
            f"{moved:,} bytes are loaded of inputs and weights of {size:,}; '{worst}' "
            f"{loaded[worst][0] / loaded[worst][1]:.1f} times"
        )
        share = sum(excess.values()) / float(self.figures["hbm_read_bytes"])
        return moved / size, text, share * self._path_ns(lambda p: p.is_transfer())

    def unfilled_rows(self) -> Measured:
        return self._filled("rows", float(self.target.pe_rows))

    def unfilled_columns(self) -> Measured:
        return self._filled("columns", float(self.target.pe_columns))

    def _filled(self, column: str, limit: float) -> Measured:
        mean = self._weighted(lambda p: _of(p, p.instructions.macs > 0), column)
        if mean is None:
            return None
        value = mean[0] / limit
        saving = (1 - value) * self._path_ns(lambda p: _of(p, p.instructions.macs > 0))
        return value, f"matmuls fill {mean[0]:.0f} of the array's {limit:.0f} {column}", saving

    def unfilled_partitions(self) -> Measured:
        others = [ENGINES.index(engine) for engine in ("dve", "act", "pool")]
        mean = self._weighted(lambda p: np.isin(p.stream, others), "rows")
        if mean is None:
            return None
        value = mean[0] / float(self.target.partitions)
        saving = (1 - value) * self._path_ns(lambda p: np.isin(p.stream, others))
        return value, f"they fill {mean[0]:.0f} of {self.target.partitions} partitions", saving

    def fp32_matmul(self) -> Measured:
        several = self._weighted(lambda p: _of(p, p.instructions.passes > 1), "passes")
        whole = self._weighted(_on("tensor"), "passes")
        if several is None or whole is None:
            return None
        value, factor = several[1] / whole[1], several[0]
        saving = (1 - 1 / factor) * self._path_ns(lambda p: _of(p, p.instructions.passes > 1))
        return value, f"matmuls of {factor:.0f} passes take {value:.0%} of the tensor engine's time", saving

    def table_loads(self) -> Measured:
        loads = time = 0.0
        count = 0
        for program in self.programs:
            profile = program.profile
            own = _on("scalar")(profile)
            extra = (profile.duration - profile.instructions.busy_ns[profile.events.instruction])[own]
            loads += float(extra.sum()) * len(program.starts_ns)
            time += float(profile.duration[own].sum()) * len(program.starts_ns)
            count += int((extra > 1e-3).sum()) * len(program.starts_ns)
        if not time:
            return None
        text = f"loads of function tables ({count}) take {loads / 1000:,.1f} us of the scalar engine"
        return loads / time, text, loads

    def latency_bound(self) -> Measured:
        waiting = self._kinds_ns("latency", "semaphore", "control")
        share = waiting / self.total_ns if self.total_ns else 0.0
        return share, f"{waiting / 1000:,.1f} us of the critical path are latencies and synchronisation", waiting

    def weight_loads(self) -> Measured:
        waiting = self._kinds_ns("weights")
        share = waiting / self.total_ns if self.total_ns else 0.0
        return share, f"{waiting / 1000:,.1f} us of the critical path are loads of weights into the array", waiting

    def dma_bound(self) -> Measured:
        share = float(self.figures["dma_active_time_percent"])
        rate = float(self.figures["mbu_estimated_percent"])
        text = f"the DMA engines are busy for {share:.0%} of the time, at {rate:.0%} of DRAM's bandwidth"
        return share, text, self._path_ns(lambda p: p.is_transfer())


def transposing(program: ProgramProfile) -> Array:
    """Mask of the events that transpose on the tensor engine."""
    return _of(program, program.instructions.transpose_macs > 0)


def _on(stream: str) -> Callable[[ProgramProfile], Array]:
    number = STREAMS.index(stream)
    return lambda program: np.asarray(program.stream == number)


def _of(program: ProgramProfile, instructions: Array) -> Array:
    """The events of chosen instructions."""
    return np.asarray(instructions[program.events.instruction])


def loads_of(program: ProgramAnalysis) -> dict[str, tuple[int, int]]:
    """Inputs and parameters that are loaded: name -> (bytes loaded in one launch, bytes of the variable).

    What a gather reads of its table is left out: it never is the whole of it.
    """
    return dict(_loads(program.profile))


def _loads(profile: ProgramProfile) -> Iterator[tuple[str, tuple[int, int]]]:
    accesses, table = profile.accesses, profile.instructions
    gathers = [number for number, name in enumerate(profile.opcodes) if name == "dma_gather"]
    executions = np.bincount(profile.events.instruction, minlength=len(table))
    moved = table.hbm_read_bytes * executions * ~np.isin(table.opcode, gathers)
    for position, variable in enumerate(profile.variables):
        if variable.kind in ("input", "file") and variable.bytes:
            readers = np.unique(accesses.instruction[(accesses.memory == position) & accesses.reads])
            loaded = int(moved[readers].sum())
            if loaded:
                yield variable.name, (loaded, variable.bytes)
