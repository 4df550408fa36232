"""`nisa-link-parts`: the parts of a segment become one program, in which a repeated part is a loop.

Given synchronised functions in program order (nisa form 3) that are parts of a segment, and the launches of @main that
pass tensors from one to the next, leaves one function for each segment (form 3 too) and one launch. What parts pass on
lies in DRAM. Of what a loop passes on every iteration writes a copy of its own; what differs between iterations besides
are weights, which lie one behind the other (`stacked_weights`). So every number of a repeated part that changes moves
by the same step in each iteration.

Semaphores count on through all parts, and no part begins before the ones in front of it, and the iterations before it,
are done: the first instruction of every engine waits for all streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import prod
from typing import cast

from xdsl.context import Context
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import (
    ArrayAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    StringAttr,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.dialects.scf import ForOp, YieldOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.access_ops import AccessAttr
from neuron_dialects.dtypes import dtype_of
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.neuron import (
    LAYER_WEIGHTS_ATTRIBUTE,
    PART_ATTRIBUTE,
    Executor,
    LaunchOp,
    MemorySpace,
    MemorySpaceAttr,
    layer_weights,
    number_attribute,
    target_of,
)
from neuron_dialects.nisa import AllocOp, NisaOp, ParamOp, PinnedOp, QueueOp, SlotOp, Sync, SyncAttr
from passes.nisa.program_tree import trip_count
from passes.nisa.stacked_weights import StackedWeights
from passes.nisa.synchronize import check_semaphores

INPUT_COUNT = "neuron.input_count"
MACS, COMPULSORY_BYTES = "neuron.macs", "neuron.compulsory_bytes"


@dataclass(frozen=True)
class NisaLinkPartsPass(ModulePass):
    """Put the parts of every segment together.

        func.func @main(%x: tensor<8x64xf32>) -> tensor<8x64xf32> {
          %0 = neuron.launch @neuron_0_part_0(%x) on core : ...
          %1 = neuron.launch @neuron_0_part_1(%0) on core times 6 : ...
          ...
        func.func @neuron_0_part_1(%x: memref<8x64xf32, ..>, %y: memref<8x64xf32, ..>) attributes {..} {
          %w = nisa.param "w0" : memref<64x64xf32, ..>
          nisa.dma_copy on sp ring load0 dst ... src %w[0 : 64 step 64, 64] signal(load0)
          nisa.matmul on pe dst ... moving ... wait(load0 >= 1)

    becomes

        func.func @main(%x: tensor<8x64xf32>) -> tensor<8x64xf32> {
          %0 = neuron.launch @neuron_0(%x) on core : ...
        func.func @neuron_0(...) {
          %w = nisa.param "w0.stacked" : memref<6x64x64xf32, ..>
          ...
          scf.for %i = %c0 to %c6 step %c1 {
            nisa.dma_copy on sp ring load0 dst ... src %w[4096*%i : 64 step 64, 64] wait(pe >= %i + 9) signal(load0)
            nisa.matmul on pe dst ... moving ... wait(load0 >= %i + 3, ...) signal(pe)
    """

    name = "nisa-link-parts"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Link the launches of @main that stand next to each other and are parts of one segment."""
        functions = {child.sym_name.data: child for child in op.ops if isinstance(child, FuncOp)}
        main = functions.get("main")
        launches = [child for child in main.walk() if isinstance(child, LaunchOp)] if main is not None else []
        parts = [(launch, functions[launch.callee.root_reference.data]) for launch in launches]
        for owner, members in groupby(parts, key=lambda part: _owner(part[1])):
            if owner is not None:
                with in_segment(owner):
                    _Linker(op, owner, [_Part.of(*member) for member in members]).run()


def _owner(function: FuncOp) -> str | None:
    """The segment that a function is a part of."""
    owner = function.attributes.get(PART_ATTRIBUTE)
    return owner.data if isinstance(owner, StringAttr) else None


@dataclass(frozen=True)
class _Part:
    """A launch, its function, and how many instructions each stream completes in one run of it."""

    launch: LaunchOp
    function: FuncOp
    counts: Mapping[str, int]

    @staticmethod
    def of(launch: LaunchOp, function: FuncOp) -> _Part:
        """NeuronError NX-PASS-002 for a function that is not in form 3, or that others launch too."""
        name = function.sym_name.data
        if not all(isinstance(argument.type, MemRefType) for argument in function.body.block.args):
            raise NeuronError("NX-PASS-002", f"part @{name} is not at the nisa level")
        if any(isinstance(op, QueueOp) for op in function.body.block.ops):
            raise NeuronError("NX-PASS-002", f"part @{name} is split into queues already")
        counts: dict[str, int] = {}
        _count(function.body.block, 1, counts)
        return _Part(launch, function, counts)

    @property
    def times(self) -> int:
        """How often it runs."""
        return self.launch.repetitions or 1

    @property
    def is_loop(self) -> bool:
        """Whether it runs on its own results."""
        return self.launch.repetitions is not None

    @property
    def arguments(self) -> list[tuple[SSAValue, SSAValue]]:
        """(value of @main, buffer) of what it takes."""
        return list(zip(self.launch.arguments, self.function.body.block.args, strict=False))

    @property
    def results(self) -> list[tuple[SSAValue, SSAValue]]:
        """(value of @main, buffer) of what it gives."""
        buffers = self.function.body.block.args[len(self.launch.arguments) :]
        return list(zip(self.launch.results, buffers, strict=True))


def _count(block: Block, executions: int, counts: dict[str, int]) -> None:
    for op in block.ops:
        if isinstance(op, NisaOp):
            stream = _stream(op)
            counts[stream] = counts.get(stream, 0) + executions
        elif isinstance(op, ForOp):
            _count(op.body.block, executions * trip_count(op), counts)


def _stream(op: NisaOp) -> str:
    """The stream that completes an instruction."""
    return op.engine.data if op.ring is None else op.ring.data


@dataclass(frozen=True)
class _Place:
    """Where a part's buffer lies in one of the linked function: `start` elements on, and `step` with each iteration."""

    buffer: SSAValue
    start: int = 0
    step: int = 0


def _memref(value: SSAValue) -> MemRefType[Attribute]:
    return cast("MemRefType[Attribute]", value.type)


def _elements(value: SSAValue) -> int:
    return prod(_memref(value).get_shape())


def _size_bytes(value: SSAValue) -> int:
    return _elements(value) * dtype_of(_memref(value).element_type).size_bytes


def _stack_type(value: SSAValue, count: int) -> MemRefType[Attribute]:
    """A buffer of so many like this one, in DRAM."""
    memref = _memref(value)
    return MemRefType(memref.element_type, (count, *memref.get_shape()), memory_space=MemorySpaceAttr(MemorySpace.DRAM))


@dataclass
class _Linker:
    """Writes the function of one segment.

    `places`: value of @main -> its buffer; `done`: what each stream has completed before the part at hand; `params`:
    parameters by symbol; `trigger`: ring -> the engine that triggers it.
    """

    module: ModuleOp
    owner: str
    parts: Sequence[_Part]
    places: dict[SSAValue, _Place] = field(default_factory=dict[SSAValue, _Place])
    done: dict[str, int] = field(default_factory=dict[str, int])
    params: dict[str, ParamOp] = field(default_factory=dict[str, ParamOp])
    constants: dict[int, SSAValue] = field(default_factory=dict[int, SSAValue])

    def run(self) -> None:
        """Replace the launches and their functions."""
        launches = [part.launch for part in self.parts]
        inputs, outputs = self._boundary(set(launches))
        self.block = Block(
            arg_types=[*(buffer.type for buffer in inputs.values()), *(b.type for b in outputs.values())]
        )
        self.stacked = StackedWeights(self.module)
        self.head: list[Operation] = []
        for (value, buffer), argument in zip((*inputs.items(), *outputs.items()), self.block.args, strict=True):
            argument.name_hint = buffer.name_hint
            self.places[value] = _Place(argument)
        self._place_passed()
        shared_bytes = [self._part(part) for part in self.parts]
        for op in reversed(self.head):
            Rewriter.insert_op(op, InsertPoint.at_start(self.block))
        self.block.add_op(ReturnOp())
        check_semaphores(self.done, target_of(self.module))
        self._replace(inputs, outputs, shared_bytes)

    def _boundary(self, launches: set[LaunchOp]) -> tuple[dict[SSAValue, SSAValue], dict[SSAValue, SSAValue]]:
        """What the segment takes and what it gives: value of @main -> a buffer like it."""
        inputs: dict[SSAValue, SSAValue] = {}
        outputs: dict[SSAValue, SSAValue] = {}
        for part in self.parts:
            for value, buffer in part.arguments:
                if value.owner not in launches:
                    inputs.setdefault(value, buffer)
            for value, buffer in part.results:
                if any(use.operation not in launches for use in value.uses):
                    outputs[value] = buffer
        return inputs, outputs

    def _place_passed(self) -> None:
        """Buffers for what one part gives to another, or to itself."""
        for part in self.parts:
            if part.is_loop:
                for (start, buffer), (result, written) in zip(part.arguments, part.results, strict=False):
                    if start in self.places or result in self.places or buffer.type != written.type:
                        problem = "starts from or gives a value of its own to the caller"
                        raise NeuronError("NX-PASS-002", f"repeated part @{part.function.sym_name.data} {problem}")
                    stack = self._scratch(_stack_type(buffer, part.times + 1), "carried")
                    self.places[start] = _Place(stack)
                    self.places[result] = _Place(stack, part.times * _elements(buffer))
        for part in self.parts:
            for value, buffer in part.results:
                if value not in self.places:
                    self.places[value] = _Place(self._scratch(_memref(buffer), "passed"))

    def _scratch(self, type_: MemRefType[Attribute], name: str) -> SSAValue:
        alloc = AllocOp(type_, name=name)
        self.head.append(alloc)
        return alloc.buffer

    def _constant(self, value: int) -> SSAValue:
        if value not in self.constants:
            made = ConstantOp(IntegerAttr(value, IndexType()))
            made.result.name_hint = f"c{value}"
            self.head.append(made)
            self.constants[value] = made.result
        return self.constants[value]

    # -- one part ----------------------------------------------------------------------------------------------------

    def _part(self, part: _Part) -> int:
        """Move a part into the function; returns the bytes of its parameters that all iterations share."""
        places = {buffer: self.places[value] for value, buffer in (*part.arguments, *part.results)}
        block, index = self.block, None
        if part.is_loop:
            block = Block(arg_types=[IndexType()])
            index = block.args[0]
            index.name_hint = "layer"
            for (value, buffer), (_, written) in zip(part.arguments, part.results, strict=False):
                size = _elements(buffer)
                place = self.places[value]
                places[buffer] = replace(place, step=size)
                places[written] = replace(place, start=place.start + size, step=size)
        shared_bytes = self._declare(part, places)
        steps = part.counts if part.is_loop else {}
        mover = _Mover(places, dict(self.done), steps, index)
        for op in part.function.walk():
            if isinstance(op, NisaOp):
                mover.move(op)
            elif isinstance(op, SlotOp) and part.is_loop:
                op.properties["within"] = IntegerAttr(op.outer_loops + 1, i64)
        for op in list(part.function.body.block.ops):
            if not isinstance(op, ReturnOp):
                op.detach()
                block.add_op(op)
        if part.is_loop:
            block.add_op(YieldOp())
            first, last, step = (self._constant(value) for value in (0, part.times, 1))
            loop = ForOp(first, last, step, [], Region(block))
            loop.location = part.launch.location
            self.block.add_op(loop)
        for stream, count in part.counts.items():
            self.done[stream] = self.done.get(stream, 0) + count * part.times
        return shared_bytes

    def _declare(self, part: _Part, places: dict[SSAValue, _Place]) -> int:
        """Move buffers and constants to the head of the function, and stack the parameters of a loop."""
        shared_bytes = 0
        names = layer_weights(part.function)
        for op in list(part.function.body.block.ops):
            if isinstance(op, ParamOp):
                symbol = self.stacked.stack(op.symbol.data, names, _memref(op.buffer)) if names else None
                places[op.buffer] = self._param(op, symbol, part.times)
                shared_bytes += 0 if symbol is not None else _size_bytes(op.buffer)
                op.detach()
            elif isinstance(op, AllocOp | ConstantOp | PinnedOp):
                op.detach()
                self.head.append(op)
        return shared_bytes

    def _param(self, op: ParamOp, stacked: str | None, times: int) -> _Place:
        """A parameter of the function in the place of a part's."""
        symbol = stacked or op.symbol.data
        if symbol not in self.params:
            made = ParamOp(symbol, op.buffer.type if stacked is None else _stack_type(op.buffer, times))
            made.location = op.location
            made.buffer.name_hint = op.buffer.name_hint
            self.params[symbol] = made
            self.head.append(made)
        return _Place(self.params[symbol].buffer, 0, 0 if stacked is None else _elements(op.buffer))

    # -- the segment -------------------------------------------------------------------------------------------------

    def _replace(
        self, inputs: Mapping[SSAValue, SSAValue], outputs: Mapping[SSAValue, SSAValue], shared_bytes: Sequence[int]
    ) -> None:
        """Put function and launch of the segment in the places of those of its parts."""
        first = self.parts[0]
        types = list(self.block.arg_types)
        function = FuncOp(
            self.owner, FunctionType.from_lists(types, []), Region(self.block), first.function.sym_visibility
        )
        function.location = first.function.location
        for part in self.parts:
            for name, value in part.function.attributes.items():
                function.attributes[name] = _merged(function.attributes.get(name, value), value, name)
        for name in (PART_ATTRIBUTE, LAYER_WEIGHTS_ATTRIBUTE):
            function.attributes.pop(name, None)
        boundary = sum(map(_size_bytes, self.block.args))
        compulsory = boundary + sum(map(_weight_bytes, self.parts, shared_bytes))
        macs = sum(number_attribute(part.function, MACS) * part.times for part in self.parts)
        numbers = {INPUT_COUNT: len(inputs), MACS: macs, COMPULSORY_BYTES: compulsory}
        function.attributes |= {name: IntegerAttr(value, i64) for name, value in numbers.items()}
        launch = LaunchOp(self.owner, list(inputs), [value.type for value in outputs], Executor.CORE)
        launch.location = first.launch.location
        Rewriter.insert_op(launch, InsertPoint.before(first.launch))
        for value, result in zip(outputs, launch.results, strict=True):
            result.name_hint = value.name_hint
            value.replace_all_uses_with(result)
        Rewriter.insert_op(function, InsertPoint.before(first.function))
        for part in reversed(self.parts):
            Rewriter.erase_op(part.launch, safe_erase=False)
            part.function.detach()
            part.function.erase(safe_erase=False)


def _weight_bytes(part: _Part, shared_bytes: int) -> int:
    """Bytes of weights that a part must read at least in all its iterations."""
    boundary = sum(map(_size_bytes, part.function.body.block.args))
    weights = max(0, number_attribute(part.function, COMPULSORY_BYTES) - boundary)
    shared = min(weights, shared_bytes)
    return shared + (weights - shared) * part.times


def _merged(first: Attribute, second: Attribute, name: str) -> Attribute:
    """An attribute of two parts as one of the whole: lists in order, the larger number."""
    if first is second:
        return first
    if isinstance(first, ArrayAttr) and isinstance(second, ArrayAttr):
        return ArrayAttr([*first.data, *second.data])
    if isinstance(first, IntegerAttr) and isinstance(second, IntegerAttr):
        return IntegerAttr(max(first.value.data, second.value.data), i64)
    return first


@dataclass
class _Mover:
    """Rewrites the instructions of one part for where they are moved to.

    `before`: what each stream has completed in front of the part; `steps`: what it completes in each iteration of
    `index`, the variable of the loop around the part. `begun`: engines that have begun with the part.
    """

    places: Mapping[SSAValue, _Place]
    before: Mapping[str, int]
    steps: Mapping[str, int]
    index: SSAValue | None
    begun: set[str] = field(default_factory=set[str])

    def move(self, op: NisaOp) -> None:
        """Give an instruction the buffers, offsets, counts and waits that it has in the linked function."""
        indices = list(op.indices)
        views: list[tuple[str, AccessPattern]] = []
        buffers: list[SSAValue] = []
        for (role, pattern), buffer in zip(op.access.data, op.buffers, strict=True):
            place = self.places.get(buffer)
            buffers.append(buffer if place is None else place.buffer)
            moved = pattern if place is None else pattern.shifted(_moving(place.start, place.step, len(indices)))
            views.append((role, moved))
        given = op.sync.data.waits if op.sync is not None else ()
        waits = [(stream, count + self._count(stream, len(indices))) for stream, count in given]
        if op.engine.data not in self.begun:
            self.begun.add(op.engine.data)
            enough = {stream for stream, count in given if count.is_constant and count.constant >= 0}
            streams = sorted({*self.before, *self.steps} - enough)
            waits += [(stream, self._count(stream, len(indices))) for stream in streams]
        if self.index is not None:
            indices.append(self.index)
        op.set_operands(buffers, indices)
        op.properties["access"] = AccessAttr(tuple(views))
        op.properties["sync"] = SyncAttr(Sync(tuple(waits), _stream(op)))

    def _count(self, stream: str, index: int) -> Affine:
        """What a stream has completed in front of the part and in earlier iterations of it."""
        return _moving(self.before.get(stream, 0), self.steps.get(stream, 0), index)


def _moving(start: int, step: int, variable: int) -> Affine:
    """A number that moves with the loop around a part."""
    return Affine.of(start, [(variable, step)] if step else [])
