"""Recurrent layers: LSTM, GRU and plain RNN cells applied to one time step after the other.

`graph.recurrent` is given what does not depend on the state: the inputs times their weights plus biases, of all steps
at once, which is a matmul. What is left is the product of state and recurrence weight, and the functions of the cell.
Hidden units come first and the batch last in its tensors, so that a kernel with hidden units on the partitions turns
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from xdsl.dialects.builtin import ArrayAttr, BoolAttr, DenseArrayBase, FloatAttr, StringAttr, TensorType, i32, i64
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, ParametrizedAttribute, SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    AttrSizedOperandSegments,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    opt_result_def,
    param_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from neuron_dialects.dtypes import F64, I1
from neuron_dialects.graph.assembly import float_text, parse_float_text
from neuron_dialects.graph.attrs import f32_attr, flag_attr, ints, ints_attr
from neuron_dialects.graph.base import (
    GRAPH_OPTIONS,
    ComputeOp,
    TensorSpec,
    Value,
    require_dtype,
    require_same_dtype,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.shapes import ShapeError, text


class CellKind(StrEnum):
    """What `graph.recurrent` does in a step."""

    LSTM = "lstm"
    GRU = "gru"
    RNN = "rnn"

    @property
    def gates(self) -> int:
        """Gates per hidden unit: input, output, forget, cell; or update, reset, hidden; or one."""
        return {CellKind.LSTM: 4, CellKind.GRU: 3, CellKind.RNN: 1}[self]

    @property
    def functions(self) -> int:
        """Functions per direction: of the gates, of the cell or hidden gate, of the cell state."""
        return {CellKind.LSTM: 3, CellKind.GRU: 2, CellKind.RNN: 1}[self]


class GateFunction(StrEnum):
    """A function of a recurrent cell. Most are a kind of `graph.unary` of the same name."""

    SIGMOID = "sigmoid"
    TANH = "tanh"
    RELU = "relu"
    SOFTSIGN = "softsign"
    SOFTPLUS = "softplus"
    LEAKY_RELU = "leaky_relu"
    THRESHOLDED_RELU = "thresholded_relu"
    ELU = "elu"
    HARD_SIGMOID = "hard_sigmoid"
    AFFINE = "affine"
    SCALED_TANH = "scaled_tanh"

    @property
    def parameters(self) -> int:
        """How many of alpha and beta it has."""
        if self in (GateFunction.HARD_SIGMOID, GateFunction.AFFINE, GateFunction.SCALED_TANH):
            return 2
        return int(self in (GateFunction.LEAKY_RELU, GateFunction.THRESHOLDED_RELU, GateFunction.ELU))


@irdl_attr_definition
class CellKindAttr(EnumAttribute[CellKind], SpacedOpaqueSyntaxAttribute):
    """`#graph<cell lstm>`"""

    name = "graph.cell"


@irdl_attr_definition
class GateFunctionAttr(ParametrizedAttribute):
    """`#graph.gate<hard_sigmoid 0.2 0.5>`: a function of a recurrent cell with alpha and beta, where it has them.

    affine is alpha * x + beta, scaled_tanh alpha * tanh(beta * x).
    """

    name = "graph.gate"

    kind: StringAttr = param_def()
    alpha: FloatAttr = param_def()
    beta: FloatAttr = param_def()

    @staticmethod
    def of(function: GateFunction, alpha: float = 0.0, beta: float = 0.0) -> GateFunctionAttr:
        """The function; parameters that it does not have are zero."""
        count = function.parameters
        return GateFunctionAttr(
            StringAttr(function.value), f32_attr(alpha if count else 0.0), f32_attr(beta if count == 2 else 0.0)
        )

    @property
    def function(self) -> GateFunction:
        """The function without its parameters."""
        return GateFunction(self.kind.data)

    @property
    def numbers(self) -> tuple[float, float]:
        """alpha and beta."""
        return self.alpha.value.data, self.beta.value.data

    def verify(self) -> None:
        """The function exists."""
        if self.kind.data not in {member.value for member in GateFunction}:
            raise VerifyException(f"{self.kind.data} is no function of a recurrent cell")

    def print_short(self, printer: Printer) -> None:
        """`hard_sigmoid 0.2 0.5`."""
        numbers = self.numbers[: self.function.parameters]
        printer.print_string(" ".join([self.kind.data, *(float_text(number) for number in numbers)]))

    @staticmethod
    def parse_short(parser: AttrParser) -> GateFunctionAttr:
        """Inverse of `print_short`."""
        function = GateFunction(_keyword_of(parser, GateFunction))
        numbers = [parse_float_text(parser) for _ in range(function.parameters)]
        return GateFunctionAttr.of(function, *numbers)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            self.print_short(printer)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return GateFunctionAttr.parse_short(parser).parameters


def _keyword_of(parser: AttrParser, kinds: type[StrEnum]) -> str:
    """The next word, which must be the name of one of `kinds`."""
    names = [str(member) for member in kinds]
    word = parser.parse_optional_keyword_in(names)
    if word is None:
        parser.raise_error(f"one of {', '.join(names)} expected")
    return word


@dataclass(frozen=True)
class RecurrentSizes:
    """Sizes of a recurrent layer."""

    directions: int
    steps: int
    batch: int
    hidden: int


_OPTIONAL = ("initial_h", "initial_c", "peepholes", "recurrent_bias", "mask")
"""Names of the optional operands, in order."""


@irdl_op_definition
class RecurrentOp(ComputeOp):
    """`graph.recurrent lstm %gates, %r initial_h %h initial_c %c reversed [0] functions [sigmoid, tanh, tanh]`.

    For every direction d, from the first step to the last or, where `reversed` is 1, from the last to the first, with
    p = gates[d, :, t] + r[d] . h(t-1), clipped to +-clip and cut into gates:

    - lstm (input i, output o, forget f, cell g; functions F, G, H): i = F(p_i + peephole_i * c), f = F(p_f +
      peephole_f * c), or 1 - i with input_forget, c = f * c + i * G(p_g), o = F(p_o + peephole_o * c), h = o * H(c).
    - gru (update z, reset s, hidden n; functions F, G): z = F(p_z), s = F(p_s), n = G(gates_n + r_n . (s * h)), or with
      linear_before_reset G(gates_n + s * (r_n . h + recurrent_bias)), h = (1 - z) * n + z * h.
    - rnn (function F): h = F(p).

    gates: [D, G*H, T, B], for D directions, G gates of H hidden units, T steps and B sequences. r: [D, G*H, H]. Both
    float; r may be narrower, then h is rounded to its type before it is multiplied, and products are summed in f32.
    initial_h, initial_c: [D, H, B], zero if absent. peepholes: [D, 3*H] for i, o, f. recurrent_bias: [D, H]. All have
    the element type of the gates. mask: [T, B] of i1, true for the steps that a sequence has, which are its first ones;
    in the others the state stays as it is and y is 0. results: y [D, H, T, B], final_h [D, H, B] and, for lstm, final_c
    [D, H, B]. Narrow floats are computed in f32, and the state stays f32 from step to step. There is no f64.
    """

    name = "graph.recurrent"
    gates = operand_def(TensorType)
    r = operand_def(TensorType)
    initial_h = opt_operand_def(TensorType)
    initial_c = opt_operand_def(TensorType)
    peepholes = opt_operand_def(TensorType)
    recurrent_bias = opt_operand_def(TensorType)
    mask = opt_operand_def(TensorType)
    cell = prop_def(CellKindAttr)
    reversed = prop_def(DenseArrayBase.constr(i64))
    functions = prop_def(ArrayAttr[GateFunctionAttr])
    clip = opt_prop_def(FloatAttr)
    input_forget = prop_def(BoolAttr)
    linear_before_reset = prop_def(BoolAttr)
    y = result_def(TensorType)
    final_h = result_def(TensorType)
    final_c = opt_result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = (*GRAPH_OPTIONS, AttrSizedOperandSegments(as_property=True))

    def __init__(
        self,
        cell: CellKind,
        gates: Value,
        r: Value,
        *,
        functions: Sequence[GateFunctionAttr],
        initial_h: Value | None = None,
        initial_c: Value | None = None,
        peepholes: Value | None = None,
        recurrent_bias: Value | None = None,
        mask: Value | None = None,
        reversed: Sequence[bool] = (False,),
        clip: float | None = None,
        input_forget: bool = False,
        linear_before_reset: bool = False,
    ) -> None:
        optional = (initial_h, initial_c, peepholes, recurrent_bias, mask)
        given = {name: spec_of(value) for name, value in zip(_OPTIONAL, optional, strict=True) if value is not None}
        specs = self.infer(cell, spec_of(gates), spec_of(r), given, len(reversed), len(functions), linear_before_reset)
        super().__init__(
            operands=[gates, r, *([value] if value is not None else [] for value in optional)],
            properties={
                "cell": CellKindAttr(cell),
                "reversed": ints_attr([int(flag) for flag in reversed]),
                "functions": ArrayAttr(functions),
                "clip": f32_attr(clip) if clip is not None else None,
                "input_forget": flag_attr(input_forget),
                "linear_before_reset": flag_attr(linear_before_reset),
            },
            result_types=[*(tensor_type(*spec) for spec in specs[:2]), [tensor_type(*spec) for spec in specs[2:]]],
        )

    @staticmethod
    def infer(
        cell: CellKind,
        gates: TensorSpec,
        r: TensorSpec,
        optional: Mapping[str, TensorSpec],
        directions: int,
        functions: int,
        linear_before_reset: bool,
    ) -> Sequence[TensorSpec]:
        """Results; `optional` has the optional operands that are present, by name."""
        dtype = gates[0]
        require_dtype(dtype.is_float and dtype is not F64, "a recurrent layer", dtype)
        require_dtype(r[0].is_float and r[0].size_bytes <= dtype.size_bytes, f"a recurrence of {dtype} gates", r[0])
        if len(gates[1]) != 4 or gates[1][0] != directions or gates[1][1] % cell.gates:
            raise ShapeError(
                f"gates are {text(gates[1])}, must be {directions} x multiple of {cell.gates} x steps x batch"
            )
        hidden, (steps, batch) = gates[1][1] // cell.gates, gates[1][2:]
        state = (directions, hidden, batch)
        shapes = {
            "initial_h": state,
            "initial_c": state,
            "peepholes": (directions, 3 * hidden),
            "recurrent_bias": (directions, hidden),
            "mask": (steps, batch),
        }
        if r[1] != (directions, gates[1][1], hidden):
            raise ShapeError(f"r is {text(r[1])}, must be {text((directions, gates[1][1], hidden))}")
        for name, (have, shape) in optional.items():
            require_same_dtype(I1 if name == "mask" else dtype, have)
            if shape != shapes[name]:
                raise ShapeError(f"{name} is {text(shape)}, must be {text(shapes[name])}")
        if functions != directions * cell.functions:
            raise ShapeError(
                f"{functions} functions given, {directions} directions of {cell} need {cell.functions} each"
            )
        if cell is not CellKind.LSTM and not optional.keys().isdisjoint(("initial_c", "peepholes")):
            raise ShapeError(f"{cell} has no cell state and no peepholes")
        if "recurrent_bias" in optional and (cell is not CellKind.GRU or not linear_before_reset):
            raise ShapeError("a recurrent bias is for gru with linear_before_reset")
        results = [(dtype, (directions, hidden, steps, batch)), (dtype, state)]
        return [*results, (dtype, state)] if cell is CellKind.LSTM else results

    @property
    def optional(self) -> dict[str, Any]:
        """The optional operands that are present, by name."""
        return {name: value for name in _OPTIONAL if (value := getattr(self, name)) is not None}

    @property
    def sizes(self) -> RecurrentSizes:
        """Sizes of the layer."""
        directions, hidden, steps, batch = spec_of(self.y)[1]
        return RecurrentSizes(directions, steps, batch, hidden)

    def functions_of(self, direction: int) -> list[GateFunctionAttr]:
        """The functions of one direction."""
        count = self.cell.data.functions
        return list(self.functions.data[direction * count : (direction + 1) * count])

    def inferred(self) -> TensorSpec:
        return self.inferred_results()[0]

    def inferred_results(self) -> Sequence[TensorSpec]:
        given = {name: spec_of(value) for name, value in self.optional.items()}
        counts = len(ints(self.reversed)), len(self.functions.data)
        specs = spec_of(self.gates), spec_of(self.r)
        return self.infer(self.cell.data, *specs, given, *counts, bool(self.linear_before_reset))

    def print(self, printer: Printer) -> None:
        printer.print_string(f" {self.cell.data.value} ")
        printer.print_list((self.gates, self.r), printer.print_ssa_value)
        for name, value in self.optional.items():
            printer.print_string(f" {name} ")
            printer.print_ssa_value(value)
        printer.print_string(f" reversed [{', '.join(map(str, ints(self.reversed)))}] functions ")
        with printer.in_square_brackets():
            printer.print_list(self.functions.data, lambda function: function.print_short(printer))
        if self.clip is not None:
            printer.print_string(f" clip {float_text(self.clip.value.data)}")
        for name in ("input_forget", "linear_before_reset"):
            if bool(getattr(self, name)):
                printer.print_string(f" {name}")
        printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" : ")
        printer.print_function_type(self.operand_types, self.result_types)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        cell = CellKind(_keyword_of(parser, CellKind))
        operands = [parser.parse_unresolved_operand()]
        parser.parse_punctuation(",")
        operands.append(parser.parse_unresolved_operand())
        present = [1, 1]
        for name in _OPTIONAL:
            present.append(int(parser.parse_optional_keyword(name) is not None))
            if present[-1]:
                operands.append(parser.parse_unresolved_operand())
        parser.parse_keyword("reversed")
        flags = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        parser.parse_keyword("functions")
        functions = parser.parse_comma_separated_list(
            parser.Delimiter.SQUARE, lambda: GateFunctionAttr.parse_short(parser)
        )
        clip = f32_attr(parse_float_text(parser)) if parser.parse_optional_keyword("clip") is not None else None
        input_forget = parser.parse_optional_keyword("input_forget") is not None
        linear_before_reset = parser.parse_optional_keyword("linear_before_reset") is not None
        attributes = parser.parse_optional_attr_dict_with_keyword()
        parser.parse_punctuation(":")
        type_ = parser.parse_function_type()
        properties: dict[str, Attribute] = {
            "cell": CellKindAttr(cell),
            "reversed": ints_attr(flags),
            "functions": ArrayAttr(functions),
            "input_forget": flag_attr(input_forget),
            "linear_before_reset": flag_attr(linear_before_reset),
            "operandSegmentSizes": DenseArrayBase.from_list(i32, present),
        }
        if clip is not None:
            properties["clip"] = clip
        return cls.create(
            operands=parser.resolve_operands(operands, type_.inputs.data, parser.pos),
            result_types=type_.outputs.data,
            properties=properties,
            attributes=attributes.data if attributes else {},
        )
