"""A finished core function as plain data.

Given a function in nisa form 5 (queues, registers, addresses); leaves behind the `CoreProgram` that encoder and machine
share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from xdsl.dialects import arith, func
from xdsl.dialects.builtin import LocationAttr, MemRefType
from xdsl.ir import Operation, SSAValue

from neuron_dialects import nisa
from neuron_dialects.access import AccessPattern
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.isa.program import CoreProgram, DramVariable, HandOver, QueueEntry
from neuron_dialects.neuron import CORE_ATTRIBUTE, RESERVED_ATTRIBUTE, location_name, number_attribute
from neuron_dialects.target import Target
from runtime.neff import parameter_file_name

MACS, COMPULSORY_BYTES, INPUT_COUNT = "neuron.macs", "neuron.compulsory_bytes", "neuron.input_count"


@dataclass
class _Emitter:
    """State of one function's emission."""

    target: Target
    variables: list[DramVariable] = field(default_factory=list)
    variable_ids: dict[SSAValue, int] = field(default_factory=dict)
    addresses: dict[SSAValue, tuple[int, int]] = field(default_factory=dict)
    semaphores: dict[str, int] = field(default_factory=dict)
    origins: dict[str, int] = field(default_factory=lambda: {"": 0})

    def variable(self, value: SSAValue, name: str, kind: str, file_name: str = "") -> None:
        shape = cast("MemRefType[Any]", value.type).get_shape()
        self.variable_ids[value] = len(self.variables)
        self.variables.append(DramVariable(len(self.variables), name, kind, dtype_name_of(value), shape, file_name))

    def semaphore(self, name: str) -> int:
        return self.semaphores.setdefault(name, len(self.semaphores))

    def origin(self, location: LocationAttr) -> int:
        return self.origins.setdefault(location_name(location) or "", len(self.origins))

    def operand(self, buffer: SSAValue, pattern: AccessPattern) -> Operand:
        """An operand with an absolute on-chip address, or a DRAM variable's id."""
        space, dtype = space_of(buffer), dtype_name_of(buffer)
        if space == "dram":
            return Operand(space, dtype, pattern, self.variable_ids[buffer])
        if buffer not in self.addresses:
            raise NeuronError(
                "NX-NEFF-020", "an on-chip buffer has no address", help="run nisa-allocate before emission"
            )
        partition, address = self.addresses[buffer]
        offset = pattern.offset + address // dtype_by_name(dtype).size_bytes
        absolute = AccessPattern(pattern.partition + partition, pattern.partitions, offset, pattern.dims)
        return Operand(space, dtype, absolute, None)

    def entry(self, op: nisa.NisaOp) -> QueueEntry:
        """One instruction of a queue."""
        operands = {role: self.operand(buffer, pattern) for role, (buffer, pattern) in op.views.items()}
        engine = "dma" if op.is_dma else op.engine.data
        sync = op.sync.data if op.sync is not None else nisa.Sync()
        return QueueEntry(
            Instruction(op.DEFINITION.name, engine, operands, dict(op.fields.data)),
            ring=op.ring.data if op.ring is not None else None,
            waits=tuple((self.semaphore(name), value) for name, value in sync.waits),
            signal=self.semaphore(sync.signal) if sync.signal is not None else None,
            origin=self.origin(op.location),
        )

    def hand_over(self, op: nisa.HandOverOp, peers: dict[str, int]) -> HandOver:
        """One hand-over; a peer without a number gets the next one. Variables are numbered as arguments are."""
        return HandOver(
            variable=self.variable_ids[op.buffer],
            peer=peers.setdefault(op.peer.root_reference.data, len(peers)),
            peer_variable=op.argument.value.data,
            semaphore=self.semaphore(op.semaphore.data),
            count=op.count.value.data,
            buffers=op.buffers.value.data,
        )

    def queue(self, op: nisa.QueueOp) -> list[QueueEntry]:
        """The flat entries of one queue; labels become entry numbers."""
        entries: list[QueueEntry] = []
        labels: dict[int, int] = {}
        for inner in op.body.block.ops:
            if isinstance(inner, nisa.NisaOp):
                entries.append(self.entry(inner))
            elif isinstance(inner, nisa.ControlOp) and inner.kind.data == "label":
                if inner.operand_numbers[0] in labels:
                    raise _broken(f"queue {op.engine.data} has label L{inner.operand_numbers[0]} twice")
                labels[inner.operand_numbers[0]] = len(entries)
            elif isinstance(inner, nisa.ControlOp):
                entries.append(QueueEntry(control=inner.kind.data, numbers=inner.operand_numbers))
            else:
                raise NeuronError(
                    "NX-NEFF-021",
                    f"{inner.name} in queue {op.engine.data}",
                    help="run nisa-allocate-registers before emission",
                )
        return [replace(e, numbers=_resolved(e, labels, op)) if e.control == "branch_less" else e for e in entries]


def _resolved(branch: QueueEntry, labels: Mapping[int, int], queue: nisa.QueueOp) -> tuple[int, ...]:
    """Numbers of a branch with its label as an entry number."""
    *others, label = branch.numbers
    if label not in labels:
        raise _broken(f"queue {queue.engine.data} branches to L{label}, which it does not have")
    return (*others, labels[label])


def _broken(message: str) -> NeuronError:
    return NeuronError("NX-NEFF-007", message)


def core_program(function: func.FuncOp, target: Target, peers: Mapping[str, int] | None = None) -> CoreProgram:
    """The program of a core function.

    `peers`: index of each function that it exchanges tensors with; without, they are numbered as they are named.
    NeuronError NX-NEFF-020/021 when passes are missing before emission, NX-NEFF-007 for a queue that the target lacks.
    """
    emitter = _Emitter(target)
    block = function.body.block
    inputs = number_attribute(function, INPUT_COUNT)
    taken = {op.symbol.data for op in block.ops if isinstance(op, nisa.ParamOp)}
    for position, argument in enumerate(block.args):
        kind = "input" if position < inputs else "output"
        number = position if position < inputs else position - inputs
        emitter.variable(argument, _free_name(f"{kind}{number}", taken), kind)
    queues: dict[str, list[QueueEntry]] = {}
    pinned: list[QueueEntry] = []
    hand_overs: list[HandOver] = []
    numbers: dict[str, int] = dict(peers or {})
    for op in block.ops:
        if isinstance(op, nisa.PinnedOp):
            pinned += [emitter.entry(inner) for inner in op.transfers]
        elif isinstance(op, nisa.QueueOp):
            engine = op.engine.data
            if engine in queues or engine not in target.engines:
                problem = "two queues" if engine in queues else f"a queue, which target {target.name} does not have,"
                raise _broken(f"engine {engine} has {problem}")
            queues[engine] = emitter.queue(op)
        elif isinstance(op, nisa.HandOverOp):
            hand_overs.append(emitter.hand_over(op, numbers))
        else:
            _declare(emitter, op, taken)
    return CoreProgram(
        target=target.name,
        queues={engine: queues.get(engine, []) for engine in target.engines},
        variables=emitter.variables,
        semaphores=tuple(emitter.semaphores),
        origins=tuple(emitter.origins),
        macs=number_attribute(function, MACS),
        compulsory_bytes=number_attribute(function, COMPULSORY_BYTES),
        pinned=pinned,
        core=number_attribute(function, CORE_ATTRIBUTE) if CORE_ATTRIBUTE in function.attributes else None,
        reserved_bytes=number_attribute(function, RESERVED_ATTRIBUTE),
        hand_overs=tuple(hand_overs),
    )


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or with underscores behind it where a weight of the model is called so."""
    while name in taken:
        name += "_"
    return name


def _declare(emitter: _Emitter, op: Operation, taken: set[str]) -> None:
    """Note the buffer that an op defines. NX-NEFF-021 for an op that belongs into a queue."""
    if isinstance(op, nisa.ParamOp):
        name = op.symbol.data
        emitter.variable(op.buffer, name, "file", parameter_file_name(len(emitter.variables), name))
    elif isinstance(op, nisa.AllocOp) and space_of(op.buffer) == "dram":
        emitter.variable(op.buffer, _free_name(f"scratch{len(emitter.variables)}", taken), "tmp")
    elif isinstance(op, nisa.AllocOp) and op.address is not None and op.partition is not None:
        emitter.addresses[op.buffer] = (op.partition.value.data, op.address.value.data)
    elif not isinstance(op, nisa.AllocOp | arith.ConstantOp | func.ReturnOp):
        raise NeuronError("NX-NEFF-021", f"{op.name} outside a queue", help="run nisa-split-queues before emission")
