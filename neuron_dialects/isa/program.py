"""A finished core program as plain data: what the encoder writes into a NEFF and what the machine runs.

Every engine has one queue: a flat list of entries executed in order. In this form an `Affine` has at most one term with
coefficient 1, whose variable is a scalar register of the queue's engine (value = constant + register). On-chip operands
are absolute: their pattern's offset counts elements of the operand's type from the start of the partition, and `buffer`
is None. DRAM operands name a variable by its id in `buffer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa.model import Instruction

CONTROL_KINDS: dict[str, tuple[str, ...]] = {
    "reg_move": ("dst", "value"),
    "reg_add": ("dst", "src", "value"),
    "reg_multiply": ("dst", "src", "value"),
    "reg_add_register": ("dst", "src", "other"),
    "reg_rotate": ("dst", "value", "limit"),
    "branch_less": ("src", "value", "label"),
    "wait": (),
    "halt": (),
}
"""Control instructions -> their integer operands.

reg_rotate: dst += value, then 0 when that reaches limit. branch_less: jump to entry `label` of the same queue when
register src < value. wait: nothing but the waits of the entry.
"""


@dataclass(frozen=True)
class QueueEntry:
    """One entry of a queue: an instruction or a control instruction.

    `waits`: (semaphore number, least value), all awaited before the entry starts. `signal`: semaphore that the
    completion increments by 1. A DMA is triggered by the queue that holds it, runs on `ring` in the ring's order, and
    its signal comes from the ring. `origin` indexes `CoreProgram.origins`.
    """

    instruction: Instruction | None = None
    control: str | None = None
    numbers: tuple[int, ...] = ()
    ring: str | None = None
    waits: tuple[tuple[int, Affine], ...] = ()
    signal: int | None = None
    origin: int = 0


@dataclass(frozen=True)
class DramVariable:
    """A DRAM tensor of the program. `kind`: input, output, file (a parameter, in `file_name`) or tmp (scratch)."""

    id: int
    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    file_name: str = ""

    @property
    def elements(self) -> int:
        """Number of elements."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def size_bytes(self) -> int:
        """Bytes of all elements."""
        return self.elements * dtype_by_name(self.dtype).size_bytes


@dataclass(frozen=True)
class HandOver:
    """An input that a program on another core writes, or an output that one reads, while both run.

    `variable`: its id here, `peer`: index of the other program, `peer_variable`: its id there; both are one tensor in
    `buffers` copies, of which run after run uses the next. `semaphore`: how far the peer is; each of its transfers to
    an input (from an output) increments it by 1 when it completes, `count` times in each of the peer's runs. A run of
    this program ends by taking away what one run of its peers counts up. In the beginning all copies of an output are
    free: its semaphore stands at `buffers * count`, that of an input at 0.
    """

    variable: int
    peer: int
    peer_variable: int
    semaphore: int
    count: int
    buffers: int


@dataclass
class CoreProgram:
    """The program of one core: queues by engine, DRAM variables, semaphore names, and where each entry came from.

    `origins`: framework node names; entry.origin indexes it. `macs`: multiply-adds of the model (not of the
    instructions); `compulsory_bytes`: DRAM bytes that any program must move (inputs, parameters and outputs once), for
    the roofline. `pinned`: DMAs from parameters to SBUF that are executed in order when the program is loaded; what
    they write belongs to them for ever, and no queue writes it. `core`: programs of a model with the same number share
    a core and its SBUF (None: a core of its own); then `reserved_bytes` at the start of each partition belong to the
    pinned buffers of all of them. `hand_overs`: what the program exchanges with other cores as a stage of a pipeline;
    their semaphores are not 0 at the start of every run, as all others are.
    """

    target: str
    queues: dict[str, list[QueueEntry]]
    variables: list[DramVariable]
    semaphores: tuple[str, ...]
    origins: tuple[str, ...] = ("",)
    macs: int = 0
    compulsory_bytes: int = 0
    statistics: Mapping[str, int] = field(default_factory=dict)
    pinned: list[QueueEntry] = field(default_factory=list["QueueEntry"])
    core: int | None = None
    reserved_bytes: int = 0
    hand_overs: tuple[HandOver, ...] = ()

    @property
    def hand_over_counts(self) -> dict[int, int]:
        """Semaphore of hand-overs -> by how much a run of the peer counts it up and one of this program takes away."""
        counts: dict[int, int] = {}
        for row in self.hand_overs:
            counts[row.semaphore] = counts.get(row.semaphore, 0) + row.count
        return counts

    def other_side(self, peer: int, row: HandOver) -> HandOver:
        """What this program says of the hand-over that program `peer` describes as `row`; StopIteration if nothing."""
        key = (peer, row.variable, row.peer_variable)
        return next(own for own in self.hand_overs if (own.peer, own.peer_variable, own.variable) == key)

    @property
    def pinned_range(self) -> tuple[int, int]:
        """First byte of the pinned buffers in each SBUF partition, and the one behind them; (0, 0) without any."""
        starts: list[int] = []
        ends: list[int] = []
        for entry in self.pinned:
            assert entry.instruction is not None
            dst = entry.instruction.operands["dst"]
            item_bytes, (low, high) = dtype_by_name(dst.dtype).size_bytes, dst.pattern.extent
            starts.append((dst.pattern.offset.constant + low) * item_bytes)
            ends.append((dst.pattern.offset.constant + high + 1) * item_bytes)
        return min(starts, default=0), max(ends, default=0)

    @property
    def pinned_bytes(self) -> int:
        """Bytes at the start of each SBUF partition up to the end of the pinned buffers."""
        return self.pinned_range[1]
