"""Time: how long an instruction keeps its engine busy and how long until its result can be used.

The compiler's estimates and the machine's clock are both made of these functions. Cycle formulas stand beside each
instruction (neuron_dialects/isa/definitions.py); this module turns them into nanoseconds and models what spans
instructions: pipeline latency, DMA and the roofline.
"""

import math
from dataclasses import dataclass

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa import INSTRUCTIONS, Instruction, Operand
from neuron_dialects.target import Target


def issue_ns(instruction: Instruction, target: Target) -> float:
    """Nanoseconds between the issue of this instruction and of the next one on the same engine; 0 for a DMA trigger."""
    definition = INSTRUCTIONS[instruction.name]
    if definition.is_dma:
        return 0.0
    return definition.cost(instruction, target) / target.clock_ghz(instruction.engine)


def latency_ns(engine: str, target: Target) -> float:
    """Nanoseconds that a result needs beyond the issue time before a dependent instruction can start."""
    return float(target.figures[f"{engine}_latency_ns"].value)


@dataclass(frozen=True)
class DmaCost:
    """A DMA transfer: bytes moved, descriptors, nanoseconds that all DMA engines are busy, DRAM bytes touched."""

    bytes: int
    descriptors: int
    busy_ns: float
    dram_read_bytes: int
    dram_write_bytes: int


def _run_bytes(operand: Operand) -> int:
    """Longest contiguous run that one descriptor can cover on this side."""
    return operand.pattern.contiguous_run * dtype_by_name(operand.dtype).size_bytes


def dma_cost(instruction: Instruction, target: Target) -> DmaCost:
    """Cost of a DMA: descriptors spread over the DMA engines, each taking max(descriptor time, bytes / rate).

    One descriptor covers one run that is contiguous on both sides; a partition boundary ends a run. A long run is cut
    so that all engines take part. The transfer is also bound by the core's share of the DRAM bandwidth.
    """
    if instruction.name == "dma_copy":
        destination, source = instruction.operands["dst"], instruction.operands["src"]
    elif instruction.name == "dma_gather":
        destination, source = instruction.operands["dst"], instruction.operands["table"]
    else:
        destination, source = instruction.operands["table"], instruction.operands["data"]
    moved = destination if instruction.name != "dma_scatter" else source
    elements = moved.pattern.elements
    write_bytes = elements * dtype_by_name(destination.dtype).size_bytes
    read_bytes = elements * dtype_by_name(source.dtype).size_bytes
    size = max(write_bytes, read_bytes)
    run = max(1, min(_run_bytes(destination), _run_bytes(source), size))
    descriptors = max(1, math.ceil(size / run))
    if descriptors < target.dma_engines:
        descriptors = max(descriptors, min(int(target.dma_engines), size // 512))
    each = max(float(target.dma_descriptor_ns), size / descriptors / float(target.dma_engine_bytes_per_ns))
    busy = math.ceil(descriptors / target.dma_engines) * each
    dram_read = read_bytes if source.space == "dram" else 0
    dram_write = write_bytes if destination.space == "dram" else 0
    busy = max(busy, (dram_read + dram_write) / float(target.dram_bytes_per_ns))
    return DmaCost(size, descriptors, busy, dram_read, dram_write)


def matmul_macs(instruction: Instruction) -> int:
    """Multiply-adds of an nc_matmul: K * M * N; 0 for any other instruction."""
    if instruction.name != "nc_matmul":
        return 0
    stationary = instruction.operands["stationary"].pattern
    return stationary.partitions * stationary.free_elements * instruction.operands["moving"].pattern.free_elements


def roofline_ns(macs: int, compulsory_bytes: int, target: Target, passes: float = 1.0) -> float:
    """The larger of `macs` at the tensor engine's peak (times `passes`: 4 for fp32) and the bytes at DRAM's peak."""
    return max(macs * passes / target.peak_macs_per_ns, compulsory_bytes / float(target.dram_bytes_per_ns))
