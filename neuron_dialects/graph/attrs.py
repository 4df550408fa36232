"""Attributes of the graph dialect: operator kinds as enums, the opaque type, helpers for plain attributes.

The kinds are enum attributes, one per operator family. `OpaqueType` stands for ONNX values that no machine dtype
describes (strings, sequences, optionals); only `graph.onnx_node` touches such values. The helper functions turn builtin
attributes into Python values and back, so that no other module spells out how a list of integers is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import BoolAttr, DenseArrayBase, FloatAttr, IntegerAttr, StringAttr, f32, i64
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, ParametrizedAttribute, SpacedOpaqueSyntaxAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.str_enum import StrEnum


class UnaryKind(StrEnum):
    """What `graph.unary` computes."""

    ABS = "abs"
    NEG = "neg"
    EXP = "exp"
    LOG = "log"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    RECIPROCAL = "reciprocal"
    SQUARE = "square"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    RELU = "relu"
    ERF = "erf"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    SOFTPLUS = "softplus"
    SOFTSIGN = "softsign"
    MISH = "mish"
    HARD_SWISH = "hard_swish"
    SIN = "sin"
    COS = "cos"
    ATAN = "atan"
    SIGN = "sign"
    FLOOR = "floor"
    CEIL = "ceil"
    ROUND = "round"
    NOT = "not"
    IS_NAN = "is_nan"
    ELU = "elu"
    CELU = "celu"
    LEAKY_RELU = "leaky_relu"
    THRESHOLDED_RELU = "thresholded_relu"
    SELU = "selu"
    HARD_SIGMOID = "hard_sigmoid"


class BinaryKind(StrEnum):
    """What `graph.binary` computes."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    POW = "pow"
    MAX = "max"
    MIN = "min"
    MOD = "mod"
    FMOD = "fmod"
    AND = "and"
    OR = "or"
    XOR = "xor"
    BIT_AND = "bit_and"
    BIT_OR = "bit_or"
    BIT_XOR = "bit_xor"
    SHIFT_LEFT = "shift_left"
    SHIFT_RIGHT = "shift_right"
    PRELU = "prelu"


class CompareKind(StrEnum):
    """What `graph.compare` tests."""

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"


class ReduceKind(StrEnum):
    """What `graph.reduce` computes over the reduced elements."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    PROD = "prod"
    L1 = "l1"
    L2 = "l2"
    SUM_SQUARE = "sum_square"
    LOG_SUM = "log_sum"
    LOG_SUM_EXP = "log_sum_exp"


class PoolKind(StrEnum):
    """What `graph.pool` computes over a window."""

    MAX = "max"
    AVERAGE = "average"


class PadMode(StrEnum):
    """What the elements added by `graph.pad` hold."""

    CONSTANT = "constant"
    REFLECT = "reflect"
    EDGE = "edge"
    WRAP = "wrap"


@irdl_attr_definition
class UnaryKindAttr(EnumAttribute[UnaryKind], SpacedOpaqueSyntaxAttribute):
    """`#graph<unary relu>`"""

    name = "graph.unary"


@irdl_attr_definition
class BinaryKindAttr(EnumAttribute[BinaryKind], SpacedOpaqueSyntaxAttribute):
    """`#graph<binary add>`"""

    name = "graph.binary"


@irdl_attr_definition
class CompareKindAttr(EnumAttribute[CompareKind], SpacedOpaqueSyntaxAttribute):
    """`#graph<compare eq>`"""

    name = "graph.compare"


@irdl_attr_definition
class ReduceKindAttr(EnumAttribute[ReduceKind], SpacedOpaqueSyntaxAttribute):
    """`#graph<reduce sum>`"""

    name = "graph.reduce"


@irdl_attr_definition
class PoolKindAttr(EnumAttribute[PoolKind], SpacedOpaqueSyntaxAttribute):
    """`#graph<pool max>`"""

    name = "graph.pool"


@irdl_attr_definition
class PadModeAttr(EnumAttribute[PadMode], SpacedOpaqueSyntaxAttribute):
    """`#graph<pad reflect>`"""

    name = "graph.pad"


@irdl_attr_definition
class OpaqueType(ParametrizedAttribute, TypeAttribute):
    """`!graph.opaque<"seq(tensor(float))">`: an ONNX type that only the host understands, by its ONNX spelling.

    As the element type of a tensor it stands for strings, complex numbers and sub-byte numbers.
    """

    name = "graph.opaque"

    spelling: StringAttr = param_def()

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return (StringAttr(parser.parse_str_literal()),)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.spelling.data)


def ints_attr(values: Sequence[int]) -> DenseArrayBase[Any]:
    """A list of integers as an attribute."""
    return DenseArrayBase.from_list(i64, [int(value) for value in values])


def ints(attr: DenseArrayBase[Any]) -> tuple[int, ...]:
    """The integers of a list attribute."""
    return tuple(int(value) for value in attr.get_values())


def int_attr(value: int) -> IntegerAttr[Any]:
    """An integer as a 64-bit attribute."""
    return IntegerAttr(int(value), i64)


def flag_attr(value: bool) -> BoolAttr:
    """A truth value as an attribute; read it back with `bool(attr)`."""
    return BoolAttr.from_bool(bool(value))


def f32_attr(value: float) -> FloatAttr[Any]:
    """A number rounded to f32, as an attribute; read it back with `attr.value.data`."""
    return FloatAttr(float(value), f32)


def optional_f32_attr(value: float | None) -> FloatAttr[Any] | None:
    """As `f32_attr`, passing None through."""
    return None if value is None else f32_attr(value)
