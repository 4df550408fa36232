"""The `neuron` dialect: what all three levels share.

It holds the target that a module is compiled for, the memory spaces of buffers, and the call by which a partitioned
program starts an outlined segment on a core or on the host. A module that our tools work on carries these attributes:

    builtin.module attributes {neuron.target = #neuron.target<"trn1">, neuron.weights = "model.safetensors"} { ... }

`weights_path` finds the weights file without opening it; `launch_problems` checks every launch of a module against the
function that it starts, in time linear in the module.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import auto
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import (
    ArrayAttr,
    FileLineColLoc,
    FlatSymbolRefAttrConstr,
    FusedLoc,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    NameLoc,
    Signedness,
    StringAttr,
    SymbolRefAttr,
    TensorType,
    f32,
    f64,
    i1,
    i32,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, Dialect, Operation, ParametrizedAttribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    base,
    irdl_attr_definition,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import Pure, SymbolTable
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa
from xdsl.utils.str_enum import StrEnum

from neuron_dialects.graph.attrs import OpaqueType

if TYPE_CHECKING:
    from neuron_dialects.target import Target

TARGET_ATTRIBUTE = "neuron.target"
"""Module attribute: the `TargetAttr` that the module is compiled for."""

WEIGHTS_ATTRIBUTE = "neuron.weights"
"""Module attribute: a string, the file that holds the weights which the module names."""

PIN_ATTRIBUTE = "neuron.pin_weights"
"""Function attribute (a unit): its parameters stay on chip from when the model is loaded."""

STAGE_ATTRIBUTE = "neuron.pipeline_stage"
"""Function attribute (an integer): the stage of a NeuronCore Pipeline that the function is."""

CORE_ATTRIBUTE = "neuron.pipeline_core"
"""Function attribute (an integer): the core of that stage. Functions with the same number share a core and its SBUF."""

WORKING_BYTES_ATTRIBUTE = "neuron.working_bytes"
"""Function attribute (an integer): bytes of each SBUF partition that kernels may use beside pinned weights."""

RESERVED_ATTRIBUTE = "neuron.reserved_bytes"
"""Function attribute (an integer): bytes at the start of each SBUF partition that pinned buffers of its core take."""

PART_ATTRIBUTE = "neuron.part_of"
"""Function attribute (a string): the segment that the function is a part of; `nisa-link-parts` puts it together."""

LAYER_WEIGHTS_ATTRIBUTE = "neuron.layer_weights"
"""Attribute of a function that is launched n times: arrays of n names of weights.

Where the function names the first weight of an array, iteration i means the weight at position i.
"""


class MemorySpace(StrEnum):
    """The memories a buffer can live in."""

    DRAM = auto()
    SBUF = auto()
    PSUM = auto()


EXECUTOR_ATTRIBUTE = "neuron.executor"
"""Function attribute: who runs an outlined segment, an `ExecutorAttr`."""


class Executor(StrEnum):
    """Who runs an outlined segment: a NeuronCore, or the host through onnxruntime."""

    CORE = auto()
    HOST = auto()


@irdl_attr_definition
class TargetAttr(ParametrizedAttribute):
    """The machine that a module is compiled for, by the name of a target description: `#neuron.target<"trn1">`."""

    name = "neuron.target"

    target: StringAttr

    def __init__(self, target: str | StringAttr) -> None:
        super().__init__(StringAttr(target) if isinstance(target, str) else target)

    def verify(self) -> None:
        # Imported here: reading target files is not needed to parse a module that names no target.
        from neuron_dialects.target import target_names

        if self.target.data not in target_names():
            raise VerifyException(f"unknown target '{self.target.data}', expected one of {', '.join(target_names())}")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return (StringAttr(parser.parse_str_literal("target name")),)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.target.data)


@irdl_attr_definition
class MemorySpaceAttr(EnumAttribute[MemorySpace]):
    """Memory space of a `memref`: `#neuron.space<sbuf>`. In sbuf and psum the first dimension is the partition."""

    name = "neuron.space"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> MemorySpace:
        with parser.in_angle_brackets():
            return super().parse_parameter(parser)

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            super().print_parameter(printer)


@irdl_attr_definition
class ExecutorAttr(EnumAttribute[Executor]):
    """Who runs a launched segment: `#neuron.executor<core>` or `#neuron.executor<host>`."""

    name = EXECUTOR_ATTRIBUTE

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Executor:
        with parser.in_angle_brackets():
            return super().parse_parameter(parser)

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            super().print_parameter(printer)


@irdl_op_definition
class LaunchOp(IRDLOperation):
    """Run the function `callee` on a core or on the host: tensors in, tensors out, nothing else is touched.

    Segments of the host also exchange what only the host understands (sequences, optionals).

        %y = neuron.launch @neuron_0(%x) on core : (tensor<1x64xf32>) -> tensor<1x10xf32>

    The callee is a function of the same module; `launch_problems` checks that it takes and returns these tensors. It
    may compute in narrower element types (i32 for i64, f32 for f64, ui8 for i1): then the launch converts. A function
    that was lowered to buffers takes one for each operand and then one for each result.

        %y = neuron.launch @neuron_0_layers(%x, %mask) on core times 8 : (tensor<..>, tensor<..>) -> tensor<..>

    runs the callee 8 times: each time its results take the place of as many first operands, the other operands stay as
    they are, and weights are those of the iteration (`neuron.layer_weights`).
    """

    name = "neuron.launch"

    callee = prop_def(FlatSymbolRefAttrConstr)
    executor = prop_def(ExecutorAttr)
    times = opt_prop_def(IntegerAttr)
    arguments = var_operand_def(base(TensorType) | base(OpaqueType))
    outputs = var_result_def(base(TensorType) | base(OpaqueType))

    traits = traits_def(Pure())

    def __init__(
        self,
        callee: str | SymbolRefAttr,
        arguments: Sequence[SSAValue],
        output_types: Sequence[Attribute],
        executor: Executor,
        times: int | None = None,
    ) -> None:
        super().__init__(
            operands=[arguments],
            result_types=[output_types],
            properties={
                "callee": SymbolRefAttr(callee) if isinstance(callee, str) else callee,
                "executor": ExecutorAttr(executor),
                "times": None if times is None else IntegerAttr(times, i64),
            },
        )

    @property
    def repetitions(self) -> int | None:
        """How often the callee runs with its results as its operands; None for a plain launch."""
        return None if self.times is None else self.times.value.data

    def verify_(self) -> None:
        """Repeated at least once, on a core, and what is passed on has the type of what it takes the place of."""
        if self.times is None:
            return
        if self.times.value.data < 1 or self.executor.data is not Executor.CORE:
            raise VerifyException("only a core repeats a launch, at least once")
        if [v.type for v in self.outputs] != [v.type for v in self.arguments[: len(self.outputs)]]:
            raise VerifyException("the results of a repeated launch have other types than its first operands")

    @classmethod
    def parse(cls, parser: Parser) -> LaunchOp:
        callee = parser.parse_symbol_name()
        position = parser.pos
        operands = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_unresolved_operand)
        parser.parse_keyword("on")
        executor = parser.parse_str_enum(Executor)
        times = parser.parse_integer() if parser.parse_optional_keyword("times") is not None else None
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        function_type = parser.parse_function_type()
        arguments = parser.resolve_operands(operands, function_type.inputs.data, position)
        op = cls(SymbolRefAttr(callee), arguments, function_type.outputs.data, executor, times)
        op.attributes = attributes
        return op

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_symbol_name(self.callee.root_reference.data)
        with printer.in_parens():
            printer.print_list(self.arguments, printer.print_ssa_value)
        printer.print_string(f" on {self.executor.data.value}")
        if self.times is not None:
            printer.print_string(f" times {self.times.value.data}")
        printer.print_op_attributes(self.attributes)
        printer.print_string(" : ")
        # Not print_operation_type: it would print the location a second time under --print-debuginfo.
        printer.print_function_type(self.operand_types, self.result_types)


def weights_path(module: ModuleOp) -> Path | None:
    """The weights file that `module` names in its `neuron.weights` attribute, or None; the file is not opened.

    A relative name is meant relative to the folder of the file that the module was read from (its location), so that a
    model can be moved together with its weights; a module that was built in memory has none, and the working folder
    counts.
    """
    name = module.attributes.get(WEIGHTS_ATTRIBUTE)
    if not isinstance(name, StringAttr):
        return None
    location = module.location
    folder = os.path.dirname(location.filename.data) if isinstance(location, FileLineColLoc) else ""
    return Path(folder) / name.data


def launch_problems(module: ModuleOp) -> list[tuple[LaunchOp, str]]:
    """Every launch below `module` that names no function, or one that does not fit, with what is wrong.

    Not part of the op's own verifier: looking up one symbol walks the whole symbol table, which would make verifying a
    module quadratic in its number of segments. Here the functions of a table are gathered once.
    """
    problems: list[tuple[LaunchOp, str]] = []
    pending: list[tuple[Operation, Mapping[str, FuncOp]]] = [(module, {})]
    while pending:
        op, functions = pending.pop()
        if isinstance(op, LaunchOp) and (problem := _launch_problem(op, functions)):
            problems.append((op, problem))
        if op.has_trait(SymbolTable, value_if_unregistered=False):
            functions = {child.sym_name.data: child for child in op.regions[0].block.ops if isinstance(child, FuncOp)}
        children = [child for region in op.regions for block in region.blocks for child in block.ops]
        pending.extend((child, functions) for child in reversed(children))
    return problems


def _launch_problem(op: LaunchOp, functions: Mapping[str, FuncOp]) -> str | None:
    name = op.callee.root_reference.data
    function = functions.get(name)
    if function is None:
        return f"launches @{name}, but the module has no such function"
    argument_types = tuple(argument.type for argument in op.arguments)
    taken, returned = function.function_type.inputs.data, function.function_type.outputs.data
    if not returned and any(isinstance(type_, MemRefType) for type_ in taken):
        # On buffers: the arguments are those of the launch, then one for each result.
        argument_types, returned = (*argument_types, *op.result_types), op.result_types
    if not _fit(argument_types, taken):
        return f"passes {_types(argument_types)} to @{name}, which takes {_types(taken)}"
    if not _fit(op.result_types, returned):
        return f"expects {_types(op.result_types)} of @{name}, which returns {_types(returned)}"
    return None


_CORE_ELEMENT_TYPES = {i64: i32, f64: f32, i1: IntegerType(8, Signedness.UNSIGNED)}
"""Element types of the program, and those in which a core may compute instead; a launch converts between the two."""


def _fit(launched: Sequence[Attribute], stated: Sequence[Attribute]) -> bool:
    """Whether the types of a launch agree with those that its function states, one by one."""
    return len(launched) == len(stated) and all(map(_fits, launched, stated))


def _fits(launched: Attribute, stated: Attribute) -> bool:
    """Whether a launched tensor can be passed as `stated`: a tensor of that shape, or a buffer of as many elements."""
    if launched == stated:
        return True
    if not isinstance(launched, TensorType) or not isinstance(stated, TensorType | MemRefType):
        return False
    if isinstance(stated, MemRefType):
        return prod(launched.get_shape()) == prod(stated.get_shape())
    core_type = _CORE_ELEMENT_TYPES.get(launched.element_type)
    return launched.get_shape() == stated.get_shape() and stated.element_type in (launched.element_type, core_type)


def _types(types: Sequence[Attribute]) -> str:
    return f"({', '.join(str(type_) for type_ in types)})"


def target_of(module: ModuleOp) -> Target:
    """The target description that `module` names; NeuronError NX-TARGET-003 when it names none."""
    from neuron_dialects.errors import NeuronError
    from neuron_dialects.target import load_target

    attribute = module.attributes.get(TARGET_ATTRIBUTE)
    if not isinstance(attribute, TargetAttr):
        raise NeuronError(
            "NX-TARGET-003",
            "the module names no target",
            help='add attributes {neuron.target = #neuron.target<"trn1">} to the module',
        )
    return load_target(attribute.target.data)


def location_name(location: Attribute) -> str | None:
    """The framework node that a location names (the first one of a fused location), or None."""
    if isinstance(location, NameLoc):
        return location.desc.data
    if isinstance(location, FusedLoc) and isa(location.locations, ArrayAttr[Attribute]):
        return next((name for part in location.locations if (name := location_name(part))), None)
    return None


def name_inside(op: Operation) -> str | None:
    """The first framework node that the location of an op, or of one inside it, names, or None."""
    return next((name for inner in op.walk() if (name := location_name(inner.location))), None)


def location_names(location: Attribute) -> list[str]:
    """All framework nodes that a location names, each once."""
    if isinstance(location, NameLoc):
        return [location.desc.data]
    if isinstance(location, FusedLoc) and isa(location.locations, ArrayAttr[Attribute]):
        return list(dict.fromkeys(name for part in location.locations for name in location_names(part)))
    return []


def layer_weights(function: FuncOp) -> dict[str, list[str]]:
    """Name of a weight in a repeated function -> the weight that it means in each iteration."""
    table = function.attributes.get(LAYER_WEIGHTS_ATTRIBUTE)
    if not isa(table, ArrayAttr[ArrayAttr[StringAttr]]):
        return {}
    rows = ([name.data for name in row] for row in table)
    return {row[0]: row for row in rows if row}


def number_attribute(op: Operation, name: str) -> int:
    """An integer attribute, 0 where there is none."""
    value = op.attributes.get(name)
    return value.value.data if isinstance(value, IntegerAttr) else 0


def functions_of(module: ModuleOp, executor: Executor) -> list[FuncOp]:
    """The outlined functions that run on `executor`, in the order in which they stand in the module."""
    wanted = ExecutorAttr(executor)
    return [op for op in module.ops if isinstance(op, FuncOp) and op.attributes.get(EXECUTOR_ATTRIBUTE) == wanted]


def core_functions(module: ModuleOp) -> list[FuncOp]:
    """Functions that run on a core, in module order."""
    return functions_of(module, Executor.CORE)


def core_groups(functions: Iterable[FuncOp]) -> list[list[FuncOp]]:
    """The functions by the core that they share; one that is no pipeline stage is alone."""
    groups: dict[object, list[FuncOp]] = {}
    for function in functions:
        core = function.attributes.get(CORE_ATTRIBUTE)
        groups.setdefault(core.value.data if isinstance(core, IntegerAttr) else function, []).append(function)
    return list(groups.values())


def working_target(function: FuncOp, target: Target) -> Target:
    """The target as kernels of a function may use it: with the SBUF that its pinned weights leave."""
    working = function.attributes.get(WORKING_BYTES_ATTRIBUTE)
    if not isinstance(working, IntegerAttr):
        return target
    size = target.figures["sbuf_bytes_per_partition"]
    smaller = replace(size, value=min(int(size.value), working.value.data))
    return replace(target, figures={**target.figures, "sbuf_bytes_per_partition": smaller})


Neuron = Dialect("neuron", [LaunchOp], [TargetAttr, MemorySpaceAttr, ExecutorAttr])
