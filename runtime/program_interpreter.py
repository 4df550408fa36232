"""Executes tile and nisa functions in program order: the meaning of a program before it is split into queues.

Given a function in destination-passing form (DRAM arguments, inputs first, then outputs; `neuron.input_count` says how
many are inputs), it leaves behind the values of the outputs. Loops run as written, every access op runs the meaning of
its instruction, waits and signals are ignored: program order satisfies them. Memory is poisoned where the program
allocates it. Ops are decoded into closures once per function; all bounds are checked then, over the whole range of the
loop variables.

Buffers that have an address (nisa after allocation) lie in one shared SBUF and PSUM, so that an allocation which lets
two live buffers overlap gives wrong numbers here.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import IntegerAttr, MemRefType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.dialects.scf import ForOp, YieldOp
from xdsl.ir import Attribute, Block, Operation, SSAValue

from neuron_dialects import nisa, tile
from neuron_dialects.access import Affine
from neuron_dialects.access_ops import AccessOp, dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import location_name
from runtime.semantics import SEMANTICS, Case
from runtime.views import POISON, OperandView, Region, affine_function, bounds_problem, view_shape, widened

Array = NDArray[Any]
Step = Callable[[], None]
Parameters = Callable[[str], Array]

INPUT_COUNT = "neuron.input_count"
"""Function attribute: how many of the arguments are inputs."""


def run_function(function: FuncOp, inputs: Sequence[Array], parameters: Parameters) -> list[Array]:
    """Execute a tile or nisa function (forms 1 to 3) in program order; see `ProgramInterpreter`."""
    return ProgramInterpreter(function, parameters).run(inputs)


def _shape_of(buffer: SSAValue) -> tuple[int, ...]:
    return cast("MemRefType[Attribute]", buffer.type).get_shape()


def _numpy_of(buffer: SSAValue) -> np.dtype[Any]:
    return dtype_by_name(dtype_name_of(buffer)).numpy


def _row_bytes(buffer: SSAValue) -> int:
    """Bytes of a partition's row (on chip) or of the tensor (DRAM)."""
    shape = _shape_of(buffer)
    elements = int(np.prod(shape if space_of(buffer) == "dram" else shape[1:], dtype=np.int64))
    return elements * _numpy_of(buffer).itemsize


class ProgramInterpreter:
    """One decoded function, which can run many times.

    Args:
        function: a tile or nisa function in program order.
        parameters: gives the values of a `param` symbol, with the shape and element type of its memref.

    Raises NeuronError: NX-RUN-001 for an access out of bounds, NX-RUN-004 for what cannot be executed in program order,
    NX-RUN-005 for parameters that do not fit.
    """

    def __init__(self, function: FuncOp, parameters: Parameters) -> None:
        self._function = function
        self._parameters = parameters
        self._regions: dict[SSAValue, Region] = {}
        self._constants: dict[SSAValue, int] = {}
        self._variables: list[int] = []
        self._variable_of: dict[SSAValue, int] = {}
        self._trips: list[int] = []
        self._slot_counts: list[int] = []
        self._read_only: set[SSAValue] = set()
        self._on_chip: dict[str, Region] = {}
        self._arrays = [self._argument(argument) for argument in function.body.block.args]
        count = function.attributes.get(INPUT_COUNT)
        if not isinstance(count, IntegerAttr) or not 0 <= count.value.data <= len(self._arrays):
            raise NeuronError("NX-RUN-004", f"function @{function.sym_name.data} has no valid '{INPUT_COUNT}'")
        self._input_count = count.value.data
        self._read_only.update(function.body.block.args[: self._input_count])
        self._place_addressed(function)
        self._steps = self._block(function.body.block)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs (new arrays) for the given inputs; NX-RUN-005 when their number, shapes or element types differ."""
        if len(inputs) != self._input_count:
            raise NeuronError("NX-RUN-005", f"{len(inputs)} inputs given, the function has {self._input_count}")
        for position, (own, given) in enumerate(zip(self._arrays, inputs, strict=False)):
            if own.shape != given.shape or own.dtype != given.dtype:
                raise NeuronError(
                    "NX-RUN-005",
                    f"input {position} is {given.dtype}{list(given.shape)}, must be {own.dtype}{list(own.shape)}",
                )
            np.copyto(own, given)
        self._slot_counts[:] = [0] * len(self._slot_counts)
        outputs = self._arrays[self._input_count :]
        for output in outputs:
            output.reshape(-1).view(np.uint8)[...] = POISON
        with np.errstate(all="ignore"):
            for step in self._steps:
                step()
        return [output.copy() for output in outputs]

    # -- buffers ------------------------------------------------------------------------------------------------------

    def _argument(self, argument: SSAValue) -> Array:
        if not isinstance(argument.type, MemRefType) or space_of(argument) != "dram":
            raise NeuronError("NX-RUN-004", f"argument of type {argument.type} is not a buffer in dram")
        array = np.zeros(_shape_of(argument), _numpy_of(argument))
        self._regions[argument] = Region.of_array(array, "an argument")
        return array

    def _place_addressed(self, function: FuncOp) -> None:
        """One memory for all buffers of a space that have addresses, as large as they need."""
        ends: dict[str, int] = {}
        for op in function.walk():
            if isinstance(op, nisa.AllocOp) and op.address is not None:
                space = space_of(op.buffer)
                ends[space] = max(ends.get(space, 0), op.address.value.data + self._copies_bytes(op))
        self._on_chip = {space: Region.on_chip(128, end) for space, end in ends.items() if space != "dram"}

    @staticmethod
    def _copies_bytes(op: nisa.AllocOp) -> int:
        copy_bytes = op.copy_bytes.value.data if op.copy_bytes is not None else _row_bytes(op.buffer)
        return (op.copies.value.data - 1) * copy_bytes + _row_bytes(op.buffer)

    def _alloc(self, op: tile.AllocOp | nisa.AllocOp) -> Step:
        buffer, space, label = op.buffer, space_of(op.buffer), f"buffer {op.buffer.name_hint or ''}".rstrip()
        if isinstance(op, nisa.AllocOp) and op.address is not None and op.partition is not None and space != "dram":
            shared = self._on_chip[space]
            base = op.partition.value.data * shared.row_stride + op.address.value.data
            rows = _shape_of(buffer)[0]
            if op.address.value.data < 0 or not 0 <= op.partition.value.data <= shared.rows - rows:
                raise NeuronError("NX-RUN-001", f"{label} of {rows} partitions lies outside of {space}")
            region = Region(shared.memory, base, rows, self._copies_bytes(op), shared.row_stride, label)
        elif space == "dram":
            region = Region.of_array(np.empty(_row_bytes(buffer), np.uint8), label)
        else:
            region = Region.on_chip(_shape_of(buffer)[0], _row_bytes(buffer), label)
        self._regions[buffer] = region
        return region.poison

    def _param(self, op: tile.ParamOp | nisa.ParamOp) -> None:
        # A buffer has a dimension, also where the weight is a scalar.
        values = np.atleast_1d(np.asarray(self._parameters(op.symbol.data), order="C"))
        shape, dtype = _shape_of(op.buffer), _numpy_of(op.buffer)
        if values.shape != shape or values.dtype != dtype:
            raise NeuronError(
                "NX-RUN-005",
                f"parameter {op.symbol.data} is {values.dtype}{list(values.shape)}, must be {dtype}{list(shape)}",
                node=location_name(op.location),
            )
        self._regions[op.buffer] = Region.of_array(values, f"parameter {op.symbol.data}")
        self._read_only.add(op.buffer)

    # -- operations ---------------------------------------------------------------------------------------------------

    def _block(self, block: Block) -> list[Step]:
        """Closures of the ops of a block, in order; ops that do nothing at run time leave none."""
        return [step for op in block.ops if (step := self._operation(op)) is not None]

    def _operation(self, op: Operation) -> Step | None:
        match op:
            case AccessOp():
                return self._access(op)
            case ForOp():
                return self._loop(op)
            case tile.AllocOp() | nisa.AllocOp():
                return self._alloc(op)
            case nisa.SlotOp():
                return self._slot(op)
            case tile.ParamOp() | nisa.ParamOp():
                return self._param(op)
            case ConstantOp() if isinstance(op.value, IntegerAttr):
                self._constants[op.result] = op.value.value.data
                return None
            case nisa.PinnedOp():
                return self._pinned(op)
            case ReturnOp() | YieldOp() | nisa.HandOverOp():
                return None
            case _:
                raise NeuronError(
                    "NX-RUN-004", f"{op.name} cannot be executed in program order", node=location_name(op.location)
                )

    def _pinned(self, op: nisa.PinnedOp) -> Step:
        """Fills pinned buffers; once for each run, since a run of a function is also its load."""
        transfers = self._block(op.body.block)

        def fill() -> None:
            for step in transfers:
                step()

        return fill

    def _variable(self, value: SSAValue, trips: int) -> int:
        """A new variable that runs over 0 .. trips - 1."""
        self._variables.append(0)
        self._trips.append(max(1, trips))
        self._variable_of[value] = len(self._variables) - 1
        return len(self._variables) - 1

    def _loop(self, op: ForOp) -> Step | None:
        bounds = [self._constants.get(value) for value in (op.lb, op.ub, op.step)]
        if bounds[0] != 0 or bounds[1] is None or bounds[2] != 1 or op.iter_args:
            raise NeuronError(
                "NX-RUN-004",
                "a loop runs from 0 to a constant in steps of 1 and carries no values",
                node=location_name(op.location),
            )
        trips, variables = range(bounds[1]), self._variables
        variable = self._variable(op.body.block.args[0], len(trips))
        body = self._block(op.body.block) if trips else []

        def loop() -> None:
            for variables[variable] in trips:
                for step in body:
                    step()

        return loop if body else None

    def _slot(self, op: nisa.SlotOp) -> Step:
        copies, variables, counts = op.copies.value.data, self._variables, self._slot_counts
        if copies < 1:
            raise NeuronError("NX-RUN-004", f"a slot of {copies} copies, at least 1", node=location_name(op.location))
        variable, position = self._variable(op.slot, copies), len(counts)
        counts.append(0)

        def slot() -> None:
            variables[variable] = counts[position] % copies
            counts[position] += 1

        if op.outer_loops:
            outer = self._loops_around(op)[: op.outer_loops]
            iterations = [self._variable_of[loop.body.block.args[0]] for loop in outer]
            seen: list[int] = []

            def slot_within() -> None:
                now = [variables[number] for number in iterations]
                if now != seen:
                    seen[:], counts[position] = now, 0
                slot()

            return slot_within
        return slot

    @staticmethod
    def _loops_around(op: Operation) -> list[ForOp]:
        """The loops around an op, outermost first."""
        loops: list[ForOp] = []
        parent = op.parent_op()
        while parent is not None:
            if isinstance(parent, ForOp):
                loops.insert(0, parent)
            parent = parent.parent_op()
        return loops

    def _access(self, op: AccessOp) -> Step:
        name = op.INSTRUCTION if isinstance(op, tile.TileOp) else cast(nisa.NisaOp, op).DEFINITION.name
        engine = op.engine.data if isinstance(op, nisa.NisaOp) and not op.is_dma else ""
        values, node = dict(op.fields.data), location_name(op.location)
        try:
            variables = [self._variable_of[index] for index in op.indices]
        except KeyError:
            raise NeuronError("NX-RUN-004", f"{op.name} depends on something other than loops", node=node) from None
        dtypes: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        operands: list[tuple[str, OperandView]] = []
        writes = {role.name for role in op.ROLES if role.writes}
        for role, (buffer, own_pattern) in op.views.items():
            if role in writes and buffer in self._read_only:
                raise NeuronError("NX-RUN-004", f"{op.name} writes an input or a parameter", node=node)
            pattern = widened(name, role, own_pattern, values).rename(lambda i: variables[i])
            dtype, region, label = dtype_name_of(buffer), self._regions[buffer], f"{op.name}: operand {role}"
            starts = [start.bounds(dict(enumerate(self._trips))) for start in (pattern.partition, pattern.offset)]
            problem = bounds_problem(pattern, dtype, region.rows, region.row_bytes, starts[0], starts[1])
            if problem:
                raise NeuronError("NX-RUN-001", f"{label} {problem} ({region.label})", node=node)
            dtypes[role], shapes[role] = dtype, view_shape(pattern)
            operands.append((role, OperandView(region, pattern, dtype, label, node)))
        affine = {f.name: values.get(f.name, f.default) for f in op.FIELDS if f.kind == "affine"}
        numbers = {k: affine_function(cast(Affine, v).rename(lambda i: variables[i])) for k, v in affine.items()}
        kernel = SEMANTICS[name](Case(name, engine, dtypes, shapes, values))
        return _access_step(kernel, operands, numbers, self._variables)


def _access_step(
    kernel: Any, operands: list[tuple[str, OperandView]], numbers: dict[str, Any], variables: list[int]
) -> Step:
    """The closure that executes one access op."""
    if numbers:

        def step() -> None:
            views = {role: view(variables) for role, view in operands}
            kernel(views, {name: number(variables) for name, number in numbers.items()})()

        return step

    def plain() -> None:
        kernel({role: view(variables) for role, view in operands}, numbers)()

    return plain
