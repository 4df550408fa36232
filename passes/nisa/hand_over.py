"""`nisa-hand-over`: what the stages of a pipeline hand over to one another, as part of their programs.

Given a module whose core functions are synchronised (nisa form 3) and whose @main launches the stages of a pipeline,
leaves in each stage a `nisa.hand_over` for each tensor that another stage makes or reads, and the waits: before the
first transfer of a queue that reads such an input until it is there, before the first one that writes such an output
until a buffer is free. Which semaphores count what is decided on plain data (`assigned`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import cast

from xdsl.context import Context
from xdsl.dialects.builtin import MemRefType, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Attribute, Block, Operation, OpResult, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from neuron_dialects.access import Affine
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.hand_over import HandOverOp
from neuron_dialects.neuron import CORE_ATTRIBUTE, STAGE_ATTRIBUTE, Executor, LaunchOp, target_of
from neuron_dialects.nisa import ControlOp, NisaOp, Sync, SyncAttr
from neuron_dialects.target import Target
from passes.nisa.program_tree import nisa_functions, trip_count


@dataclass(frozen=True)
class NisaHandOverPass(ModulePass):
    """Let the stages of a pipeline wait for each other.

        func.func @stage_1(%x: memref<64x64xf32>, %y: memref<64x64xf32>) attributes {neuron.pipeline_stage = 1} {
          scf.for %i = %c0 to %c2 step %c1 {
            nisa.dma_copy on sp ring load0 dst %t[0:32][64*%i : 64] src %x[2048*%i : 32 step 64, 64] signal(load0)
          }
          ...

    where @stage_0 makes `%x` with three transfers, becomes

        func.func @stage_1(%x: memref<64x64xf32>, %y: memref<64x64xf32>) attributes {neuron.pipeline_stage = 1} {
          nisa.hand_over %x from @stage_0 argument 1 semaphore ready0 count 3 buffers 2 : memref<64x64xf32>
          scf.for %i = %c0 to %c2 step %c1 {
            nisa.dma_copy on sp ring load0 dst ... src %x[...] wait(ready0 >= 3) signal(load0)
          }
          ...

    and @stage_0 waits with its first store to the tensor until `free0 >= 2`: that is how many transfers @stage_1 takes
    it with. A run takes away from these semaphores what it waited for, so that the numbers are the same for each
    request. A tensor has as many buffers as there are stages from its maker to its last reader, both
    counted. Every tensor
    has semaphores of its own; where the target has too few, those for one peer share one.
    """

    name = "nisa-hand-over"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Write the hand-overs of a module that has stages."""
        functions = {function.sym_name.data: function for function in nisa_functions(op)}
        if not any(STAGE_ATTRIBUTE in function.attributes for function in functions.values()):
            return
        for function in functions.values():
            _clear(function)
        stages = {name: _Stage(function) for name, function in functions.items()}
        sides: dict[str, list[Side]] = {name: [] for name in stages}
        for edge in evened(list(_edges(op, stages))):
            sides[edge.reader].append(Side(edge, "from"))
            sides[edge.maker].append(Side(edge, "to"))
        target = target_of(op)
        rooms = _rooms(stages.values(), int(target.semaphores))
        for name, stage in stages.items():
            if sides[name]:
                with in_segment(name):
                    _write(stage, sides[name], target, rooms[name])


# -- plain data --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edge:
    """A tensor that one stage makes and another one reads. `result`, `argument`: its position among all arguments of
    the functions of both; `stores` and `loads`: transfers of a run to and from it; `buffers`: how many it has.
    """

    maker: str
    result: int
    reader: str
    argument: int
    stores: int
    loads: int
    buffers: int


@dataclass(frozen=True)
class Side:
    """An edge as one of its stages sees it: `from` a peer, or `to` one."""

    edge: Edge
    direction: str

    @property
    def peer(self) -> str:
        """The other stage."""
        return self.edge.maker if self.direction == "from" else self.edge.reader

    @property
    def own(self) -> int:
        """Position of the tensor among this stage's arguments."""
        return self.edge.argument if self.direction == "from" else self.edge.result

    @property
    def others(self) -> int:
        """The same for the peer's."""
        return self.edge.result if self.direction == "from" else self.edge.argument

    @property
    def count(self) -> int:
        """Transfers of the peer's in one of its runs."""
        return self.edge.stores if self.direction == "from" else self.edge.loads


def evened(edges: Sequence[Edge]) -> list[Edge]:
    """The edges with as many buffers for each tensor as its last reader needs."""
    most: dict[tuple[str, int], int] = {}
    for edge in edges:
        most[edge.maker, edge.result] = max(edge.buffers, most.get((edge.maker, edge.result), 0))
    return [replace(edge, buffers=most[edge.maker, edge.result]) for edge in edges]


def assigned(sides: Sequence[Side], room: int) -> list[str] | None:
    """A semaphore for each side of one stage: one of its own, or where there is no `room` one for each peer and
    direction; None where there is no room for that either.
    """
    prefixes = {"from": "ready", "to": "free"}
    if len(sides) <= room:
        numbers = dict.fromkeys(prefixes, 0)
        names: list[str] = []
        for side in sides:
            names.append(f"{prefixes[side.direction]}{numbers[side.direction]}")
            numbers[side.direction] += 1
        return names
    known: dict[tuple[str, str], str] = {}
    for direction, prefix in prefixes.items():
        peers = dict.fromkeys(side.peer for side in sides if side.direction == direction)
        known.update({(direction, peer): f"{prefix}{number}" for number, peer in enumerate(peers)})
    return [known[side.direction, side.peer] for side in sides] if len(known) <= room else None


# -- reading -----------------------------------------------------------------------------------------------------------


class _Stage:
    """A function, and in which order its instructions stand."""

    def __init__(self, function: FuncOp) -> None:
        self.function = function
        self.name = function.sym_name.data
        self._order = {op: place for place, op in enumerate(function.walk()) if isinstance(op, NisaOp)}

    def argument(self, position: int) -> SSAValue:
        """A buffer that the function is called with."""
        return self.function.body.block.args[position]

    def touching(self, position: int, *, writes: bool) -> list[NisaOp]:
        """The transfers that a run executes and that write, or read, an argument; in program order."""
        buffer = self.argument(position)
        found: list[NisaOp] = []
        for op in {use.operation for use in buffer.uses}:
            if isinstance(op, NisaOp) and _executions(op):
                operands = [op.DEFINITION.operand(role) for role, (own, _) in op.views.items() if own is buffer]
                if any(operand.writes if writes else operand.reads for operand in operands):
                    found.append(op)
        return sorted(found, key=self._order.__getitem__)

    def count(self, position: int, *, writes: bool) -> int:
        """How many transfers of a run write, or read, an argument."""
        return sum(map(_executions, self.touching(position, writes=writes)))

    def semaphores(self) -> set[str]:
        """The semaphores that the instructions name."""
        syncs = [op.sync.data for op in self._order if op.sync is not None]
        return {name for sync in syncs for name in (*(n for n, _ in sync.waits), *filter(None, (sync.signal,)))}


def _edges(module: ModuleOp, stages: Mapping[str, _Stage]) -> Iterator[Edge]:
    """What core functions hand over to one another, in the order of their launches."""
    launches = [op for op in module.walk() if isinstance(op, LaunchOp) and op.executor.data == Executor.CORE]
    names = [launch.callee.root_reference.data for launch in launches]
    times = Counter(names)
    places: dict[Operation | Block, int] = {launch: place for place, launch in enumerate(launches)}
    for place, (launch, reader) in enumerate(zip(launches, names, strict=True)):
        for argument, value in enumerate(launch.arguments):
            if not isinstance(value, OpResult) or value.op not in places:
                continue
            made = places[value.op]
            maker, result = names[made], len(launches[made].arguments) + value.index
            # A function that is launched twice would have to know which launch its run is.
            if any(name not in stages or times[name] > 1 for name in (maker, reader)):
                continue
            if not _one_buffer(stages[maker].argument(result), stages[reader].argument(argument)):
                continue
            stores, loads = stages[maker].count(result, writes=True), stages[reader].count(argument, writes=False)
            if stores and loads:
                yield Edge(maker, result, reader, argument, stores, loads, place - made + 1)


def _one_buffer(first: SSAValue, second: SSAValue) -> bool:
    """Whether what one function writes is what the other reads, element by element, without the host in between."""
    types = [cast("MemRefType[Attribute]", value.type) for value in (first, second)]
    (made, read), (sizes, others) = [t.element_type for t in types], [prod(t.get_shape()) for t in types]
    return made == read and sizes == others


def _executions(op: NisaOp) -> int:
    """How often a run executes the instruction."""
    trips: list[int] = []
    parent = op.parent_op()
    while parent is not None:
        if isinstance(parent, ForOp):
            trips.append(trip_count(parent))
        parent = parent.parent_op()
    return prod(trips)


# -- writing -----------------------------------------------------------------------------------------------------------


def _clear(function: FuncOp) -> None:
    """Take out the hand-overs of an earlier application, with their waits."""
    old = [op for op in function.walk() if isinstance(op, HandOverOp)]
    names = {op.semaphore.data for op in old}
    for op in old:
        Rewriter.erase_op(op)
    for op in function.walk():
        if isinstance(op, ControlOp):
            raise NeuronError(
                "NX-PASS-002",
                f"function @{function.sym_name.data} has no loops to count transfers in",
                help="run nisa-hand-over before nisa-allocate-registers",
            )
        if names and isinstance(op, NisaOp) and op.sync is not None:
            sync = op.sync.data
            op.properties["sync"] = SyncAttr(Sync(tuple(w for w in sync.waits if w[0] not in names), sync.signal))


def _rooms(stages: Iterable[_Stage], semaphores: int) -> dict[str, int]:
    """How many semaphores each stage has for hand-overs. Stages that share a core use the others in turn."""
    rooms: dict[str, int] = {}
    together: dict[object, list[_Stage]] = {}
    for stage in stages:
        together.setdefault(stage.function.attributes.get(CORE_ATTRIBUTE, stage), []).append(stage)
    for group in together.values():
        left = semaphores - max(len(stage.semaphores()) for stage in group)
        rooms.update({stage.name: left // len(group) for stage in group})
    return rooms


def _write(stage: _Stage, sides: Sequence[Side], target: Target, room: int) -> None:
    """Declare the hand-overs of one stage, and let it wait. NX-SEM-001 when the target's semaphores do not do."""
    names = assigned(sides, room)
    if names is None:
        raise NeuronError(
            "NX-SEM-001",
            f"{len(stage.semaphores())} streams are waited for, and each stage that tensors are handed over to or from"
            f" needs one more semaphore; target {target.name} has {target.semaphores}",
            help="use fewer DMA rings, or other numbers of cores",
        )
    totals: Counter[str] = Counter()
    for side, name in zip(sides, names, strict=True):
        totals[name] += side.count
    rows: list[HandOverOp] = []
    for side, name in zip(sides, names, strict=True):
        most = totals[name] * (side.edge.buffers + 1)
        if most > int(target.semaphore_max):
            raise NeuronError(
                "NX-SEM-001",
                f"a hand-over with @{side.peer} counts to {most}, a semaphore of target {target.name} to"
                f" {target.semaphore_max}",
                help="compile a smaller batch, or use larger tiles",
            )
        _wait_first(stage.touching(side.own, writes=side.direction == "to"), name, totals[name])
        buffer = stage.argument(side.own)
        row = HandOverOp(buffer, side.direction, side.peer, side.others, name, side.count, side.edge.buffers)
        row.location = stage.function.location
        rows.append(row)
    block = stage.function.body.block
    assert block.first_op is not None
    block.insert_ops_before(rows, block.first_op)


def _wait_first(transfers: Sequence[NisaOp], semaphore: str, count: int) -> None:
    """Let the first transfer of each queue wait; the others of the queue come behind it."""
    engines: set[str] = set()
    for op in transfers:
        if op.engine.data not in engines:
            engines.add(op.engine.data)
            sync = op.sync.data if op.sync is not None else Sync()
            wait = (semaphore, Affine(count))
            if wait not in sync.waits:
                op.properties["sync"] = SyncAttr(Sync((*sync.waits, wait), sync.signal))
