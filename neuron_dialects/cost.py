"""Time: how long an instruction keeps its engine busy and how long until its result can be used.

The compiler's estimates and the machine's clock are both made of these functions. Cycle formulas stand beside each
instruction (neuron_dialects/isa/definitions.py); this module turns them into nanoseconds and models what spans
instructions: pipeline latency, DMA and the roofline. What the partitioner weighs is here too: a whole operator on a
core and on the host, and a tensor between the two.
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


def weight_load_ns(instruction: Instruction, target: Target) -> float:
    """Nanoseconds from the start of a tensor engine instruction's weight load to the first moving column.

    A fixed part plus M / 4 cycles (fast weight load: four columns a cycle). The load runs behind the instruction before
    it, so only a tensor engine that has nothing to do waits for it. 0 for every other instruction.
    """
    if instruction.engine != "pe":
        return 0.0
    columns = instruction.operands["stationary" if instruction.name == "nc_matmul" else "data"].pattern.free_elements
    return float(target.pe_weight_load_ns) + columns / 4 / target.clock_ghz("pe")


def shared_ports(instruction: Instruction, target: Target) -> tuple[str, ...]:
    """Memories of which an instruction holds a port that two engines share, as long as it is issued.

    On some targets dve and pool take turns in SBUF, act and dve in PSUM.
    """
    spaces = {operand.space for operand in instruction.operands.values()}
    ports = {
        "sbuf": target.shared_sbuf_port and instruction.engine in ("dve", "pool"),
        "psum": target.shared_psum_port and instruction.engine in ("act", "dve"),
    }
    return tuple(space for space, shared in ports.items() if shared and space in spaces)


@dataclass(frozen=True)
class DmaCost:
    """A DMA transfer in bytes, descriptors and nanoseconds.

    `run_bytes`: longest run that is contiguous on both sides. `engines`: DMA engines that take part. `work_ns`: how
    long one of them moves data. `busy_ns`: from the start of this transfer to the earliest start of the next one.
    `span_ns`: from the first engine's start to the last one's end.
    """

    bytes: int
    descriptors: int
    engines: int
    work_ns: float
    busy_ns: float
    span_ns: float
    dram_read_bytes: int
    dram_write_bytes: int
    run_bytes: int


def _run_bytes(operand: Operand) -> int:
    """Longest contiguous run that one descriptor can cover on this side."""
    return operand.pattern.contiguous_run * dtype_by_name(operand.dtype).size_bytes


def dma_cost(instruction: Instruction, target: Target) -> DmaCost:
    """Cost of a DMA: descriptors spread over the DMA engines, each taking max(descriptor time, bytes / rate).

    One descriptor covers one run that is contiguous on both sides; a partition boundary ends a run. A long run is cut
    so that all engines take part. The E engines of a transfer start one after the other, `dma_stagger_ns` apart, which
    is as fast as transfers can be handed out:

        work = ceil(descriptors / DMA engines) * max(dma_descriptor_ns, bytes per descriptor / rate of an engine)
        busy = max(work, E * dma_stagger_ns, DRAM bytes / the core's share of the DRAM bandwidth)
        span = max((E - 1) * dma_stagger_ns + work, busy)

    While transfers queue, each engine goes from one to the next, so the stagger delays a large transfer's end but takes
    nothing from the rate at which large transfers follow each other.
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
    work = math.ceil(descriptors / target.dma_engines) * each
    engines, stagger = min(descriptors, int(target.dma_engines)), float(target.dma_stagger_ns)
    dram_read = read_bytes if source.space == "dram" else 0
    dram_write = write_bytes if destination.space == "dram" else 0
    busy = max(work, engines * stagger, (dram_read + dram_write) / float(target.dram_bytes_per_ns))
    span = max((engines - 1) * stagger + work, busy)
    return DmaCost(size, descriptors, engines, work, busy, span, dram_read, dram_write, run)


def matmul_macs(instruction: Instruction) -> int:
    """Multiply-adds of an nc_matmul: K * M * N; 0 for any other instruction."""
    if instruction.name != "nc_matmul":
        return 0
    stationary = instruction.operands["stationary"].pattern
    return stationary.partitions * stationary.free_elements * instruction.operands["moving"].pattern.free_elements


def roofline_ns(macs: int, compulsory_bytes: int, target: Target, passes: float = 1.0) -> float:
    """The larger of `macs` at the tensor engine's peak (times `passes`: 4 for fp32) and the bytes at DRAM's peak."""
    return max(macs * passes / target.peak_macs_per_ns, compulsory_bytes / float(target.dram_bytes_per_ns))


def core_operator_ns(macs: int, elements: int, touched_bytes: int, target: Target) -> float:
    """Nanoseconds that an operator takes on a core, before anybody has chosen tiles for it.

    As if it were a kernel of its own: the largest of its multiply-adds at the 16-bit peak, its result elements over the
    vector engine's lanes, and its bytes (operands, weights, results) at the rate of DRAM; and a load and a store that
    nothing hides. Kernels that pass values on in SBUF are faster, kernels that fill the array badly are slower.
    """
    lanes_per_ns = float(target.partitions) * target.clock_ghz("dve")
    rate = min(float(target.dram_bytes_per_ns), target.dma_rate_bytes_per_ns)
    busy = max(macs / target.peak_macs_per_ns, elements / lanes_per_ns, touched_bytes / rate)
    return busy + 2 * float(target.dma_start_ns + target.dma_completion_ns)


def host_operator_ns(flops: int, touched_bytes: int, target: Target) -> float:
    """Nanoseconds that an operator is assumed to take on the host of an instance with this target.

    The start of one operator in onnxruntime, and the larger of its operations at the host's rate and its bytes at that
    of host memory.
    """
    busy = max(flops / float(target.host_flops_per_ns), touched_bytes / float(target.host_bytes_per_ns))
    return float(target.host_op_ns) + busy


def boundary_ns(transferred_bytes: int, target: Target) -> float:
    """Nanoseconds for one tensor from the host to a core or back."""
    return float(target.link_start_ns) + transferred_bytes / float(target.link_bytes_per_ns)
