"""What a run took: times, traffic and utilisation of one core, under the names that Neuron Explorer uses.

Engines are called tensor, vector, scalar, gpsimd and sync there. An engine is active while its datapath is busy with an
instruction, waits for semaphores excluded; sync has no datapath and is active while it executes control instructions
and triggers. Fields that end in `_percent` are fractions from 0 to 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from neuron_dialects.cost import roofline_ns
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import Target
from runtime.machine.plan import Work
from runtime.machine.simulator import Simulator

ENGINE_NAMES = {"pe": "tensor", "dve": "vector", "act": "scalar", "pool": "gpsimd", "sp": "sync"}
"""Our name of an engine -> the profiler's."""
_SECONDS = 1e-9


@dataclass(frozen=True)
class EngineTiming:
    """One engine. `active_time` in seconds; instructions include DMA triggers but no control instructions."""

    active_time: float
    instruction_count: int
    control_count: int


@dataclass(frozen=True)
class Timing:
    """One run of one core. Times in seconds, sizes in bytes, `macs` of the matmuls that were executed.

    `model_macs` and `compulsory_bytes` are the program's own figures for the model; `matmul_passes` is the mean number
    of passes per multiply-add (1 for 16-bit types, 4 for fp32).
    """

    target: Target
    total_time: float
    engines: dict[str, EngineTiming]
    dma_active_time: float
    dma_count: int
    dma_bytes: int
    hbm_read_bytes: int
    hbm_write_bytes: int
    macs: int
    matmul_passes: float
    model_macs: int
    compulsory_bytes: int

    @property
    def roofline_time(self) -> float:
        """Seconds that the model's multiply-adds at peak, or its compulsory DRAM traffic, take at least."""
        return roofline_ns(self.model_macs, self.compulsory_bytes, self.target, self.matmul_passes) * _SECONDS

    def summary(self) -> dict[str, float | int]:
        """Every figure under the profiler's name, in a fixed order."""
        total, moved = self.total_time, self.hbm_read_bytes + self.hbm_write_bytes
        peak_flops = 2.0 * self.target.peak_macs_per_ns / _SECONDS
        bandwidth = float(self.target.dram_bytes_per_ns) / _SECONDS
        table: dict[str, float | int] = {"total_time": total, "roofline_time": self.roofline_time}
        for engine, name in ENGINE_NAMES.items():
            timing = self.engines.get(engine, EngineTiming(0.0, 0, 0))
            table[f"{name}_engine_active_time"] = timing.active_time
            table[f"{name}_engine_active_time_percent"] = _ratio(timing.active_time, total)
            table[f"{name}_engine_instruction_count"] = timing.instruction_count
        return table | {
            "dma_active_time": self.dma_active_time,
            "dma_active_time_percent": _ratio(self.dma_active_time, total),
            "dma_transfer_count": self.dma_count,
            "dma_transfer_total_bytes": self.dma_bytes,
            "dma_transfer_average_bytes": _ratio(self.dma_bytes, self.dma_count),
            "hbm_read_bytes": self.hbm_read_bytes,
            "hbm_write_bytes": self.hbm_write_bytes,
            "model_flops": 2 * self.model_macs,
            "hardware_flops": 2 * self.macs,
            "mfu_estimated_percent": _ratio(2 * self.model_macs, peak_flops * total),
            "hfu_estimated_percent": _ratio(2 * self.macs, peak_flops * total),
            "mbu_estimated_percent": _ratio(moved, bandwidth * total),
            "mm_arithmetic_intensity": _ratio(2 * self.model_macs, moved),
            "peak_flops_bandwidth_ratio": peak_flops / bandwidth,
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def timing_of(simulator: Simulator, works: Iterable[Work], program: CoreProgram, target: Target) -> Timing:
    """The timing of a finished simulation of `program`."""
    executed = [work for work in works if work.executions]
    transfers = [work for work in executed if work.ring >= 0]
    macs = sum(work.macs * work.executions for work in executed)
    passes = sum(work.pass_macs * work.executions for work in executed)
    engines: dict[str, EngineTiming] = {}
    for engine in simulator.engines.values():
        active_ns = engine.active_ns
        if engine.name not in target.compute_engines:
            active_ns = (engine.control_count + engine.transfer_count) * float(target.control_ns)
        count = engine.instruction_count + engine.transfer_count
        engines[engine.name] = EngineTiming(active_ns * _SECONDS, count, engine.control_count)
    return Timing(
        target=target,
        total_time=simulator.end_ns * _SECONDS,
        engines=engines,
        dma_active_time=simulator.dma_active_ns * _SECONDS,
        dma_count=sum(work.executions for work in transfers),
        dma_bytes=sum(work.bytes * work.executions for work in transfers),
        hbm_read_bytes=sum(work.hbm_read_bytes * work.executions for work in transfers),
        hbm_write_bytes=sum(work.hbm_write_bytes * work.executions for work in transfers),
        macs=macs,
        matmul_passes=passes / macs if macs else 1.0,
        model_macs=program.macs,
        compulsory_bytes=program.compulsory_bytes,
    )
