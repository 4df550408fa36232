"""Operators without operands: constant, weight; and the recipe of a derived weight.

Weights are referred to by name. Their data lives beside the IR in a weight store; the IR never holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    SymbolNameConstraint,
    SymbolRefAttr,
    TensorType,
    f64,
    i64,
)
from xdsl.ir import Attribute, Region
from xdsl.irdl import IRDLOperation, irdl_op_definition, prop_def, region_def, result_def, traits_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, Pure, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from neuron_dialects.dtypes import F64, I1, DType, dtype_of_numpy, dtype_of_or_none
from neuron_dialects.graph.assembly import float_text
from neuron_dialects.graph.base import GRAPH_OPTIONS, ComputeOp, spec_of, tensor_type
from neuron_dialects.graph.shapes import ShapeError, element_count, text
from neuron_dialects.graph.structure import YieldOp

MAX_CONSTANT_BYTES = 1024
"""Largest non-splat constant that the IR holds; anything larger is a weight."""

RANGE_ATTRIBUTE = "neuron.range"
"""Attribute of a `graph.weight` of integers: its least and its largest element, an array of two i64."""


def _wrapped(value: int) -> int:
    """An integer as the i64 with the same bits (only 64-bit unsigned values of 2**63 and more change)."""
    return value - 2**64 if value >= 2**63 else value


def _splat_attr(value: float | int, dtype: DType) -> Attribute:
    """One element, rounded to `dtype`, as an f64 or i64 attribute."""
    if dtype.is_float:
        return FloatAttr(float(np.array(value, np.float64).astype(dtype.numpy)), f64)
    return IntegerAttr(_wrapped(int(value)), i64)


def _dense_attr(values: Sequence[float | int], dtype: DType, shape: Sequence[int]) -> Attribute:
    """Elements in row-major order, rounded to `dtype`, as a dense attribute."""
    numbers = np.array(values, np.float64).astype(dtype.numpy).astype(np.float64).tolist() if dtype.is_float else values
    return DenseIntOrFPElementsAttr.from_list(tensor_type(dtype, shape), list(numbers))


@irdl_op_definition
class ConstantOp(IRDLOperation):
    """`graph.constant 1.0 : tensor<4xf32>` or `graph.constant dense [1, 2] : tensor<2xi64>`: known values.

    A single value fills the whole tensor. A dense list is row-major, finite, and at most 1 KiB; other data are weights.
    `array()` gives the values.
    """

    name = "graph.constant"
    value = prop_def(Attribute)
    result = result_def(TensorType)
    traits = traits_def(Pure())

    MAX_BYTES: ClassVar[int] = MAX_CONSTANT_BYTES

    def __init__(self, values: npt.ArrayLike, dtype: DType | None = None, shape: Sequence[int] | None = None) -> None:
        """A constant holding `values`: cast to `dtype` when given, broadcast to `shape` when given."""
        array = np.asarray(values)
        row = dtype or dtype_of_numpy(array.dtype)
        array = array.astype(row.numpy).astype(np.float64 if row.is_float else array.dtype)
        target = tuple(array.shape if shape is None else shape)
        if array.size == 1:
            value = _splat_attr(array.item(), row)
        else:
            value = _dense_attr(np.broadcast_to(array, target).reshape(-1).tolist(), row, target)
        super().__init__(properties={"value": value}, result_types=[tensor_type(row, target)])

    @property
    def is_splat(self) -> bool:
        """Whether one value fills the whole tensor."""
        return not isinstance(self.value, DenseIntOrFPElementsAttr)

    def array(self) -> npt.NDArray[Any]:
        """The values, read-only, with the result's shape and element type; a splat is a broadcast view."""
        dtype, shape = spec_of(self.result)
        if isinstance(self.value, DenseIntOrFPElementsAttr):
            numbers = np.array(_numbers(self.value), np.float64 if dtype.is_float else None)
            values = numbers.astype(dtype.numpy).reshape(shape)
        else:
            assert isinstance(self.value, FloatAttr | IntegerAttr)
            number = self.value.value.data
            scalar = np.array(number, np.int64 if isinstance(number, int) else np.float64).astype(dtype.numpy)
            values = np.broadcast_to(scalar, shape)
        values.flags.writeable = False
        return values

    def verify_(self) -> None:
        try:
            dtype, shape = spec_of(self.result)
        except ShapeError as error:
            raise VerifyException(str(error)) from error
        match self.value:
            case FloatAttr() if self.value.type == f64 and dtype.is_float:
                return
            case IntegerAttr() if self.value.type == i64 and not dtype.is_float:
                return
            case DenseIntOrFPElementsAttr():
                self._verify_dense(self.value, dtype, shape)
            case _:
                raise VerifyException(f"value {self.value} does not fit element type {dtype}")

    def _verify_dense(self, value: DenseIntOrFPElementsAttr[Any], dtype: DType, shape: Sequence[int]) -> None:
        count = element_count(shape)
        if value.get_element_type() != dtype.type or len(value) != count:
            raise VerifyException(f"{len(value)} values of {value.get_element_type()} for {text(shape)} of {dtype}")
        if count * dtype.size_bytes > self.MAX_BYTES:
            raise VerifyException(f"{count * dtype.size_bytes} bytes exceed {self.MAX_BYTES}; use graph.weight")
        if dtype.is_float and not all(np.isfinite(_numbers(value))):
            raise VerifyException("a dense constant holds only finite values; use graph.weight")

    def print(self, printer: Printer) -> None:
        dtype, _ = spec_of(self.result)

        def number(value: float | int) -> str:
            if dtype.is_float:
                return float_text(value, single=dtype is not F64)
            if dtype is I1:
                return "true" if value else "false"
            return str(value if value >= 0 or dtype.is_signed else value + 2**64)

        printer.print_string(" ")
        if isinstance(self.value, DenseIntOrFPElementsAttr):
            printer.print_string(f"dense [{', '.join(map(number, _numbers(self.value)))}]")
        else:
            assert isinstance(self.value, FloatAttr | IntegerAttr)
            printer.print_string(number(self.value.value.data))
        printer.print_op_attributes(self.attributes)
        printer.print_string(" : ")
        printer.print_attribute(self.result.type)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        dense = parser.parse_optional_keyword("dense") is not None
        if dense:
            values = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: _parse_number(parser))
        else:
            values = [_parse_number(parser)]
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        start = parser.pos
        type_ = parser.parse_type()
        dtype = dtype_of_or_none(type_)
        if not isinstance(type_, TensorType) or dtype is None:
            parser.raise_error("expected a tensor of a known element type", start, parser.pos)
        if dtype.is_integer and any(isinstance(value, float) for value in values):
            parser.raise_error(f"expected integer values for {type_}", start, parser.pos)
        if dense and len(values) != element_count(type_.get_shape()):
            parser.raise_error(f"{len(values)} values are given for {type_}", start, parser.pos)
        value = _dense_attr(values, dtype, type_.get_shape()) if dense else _splat_attr(values[0], dtype)
        return cls.create(properties={"value": value}, attributes=attributes, result_types=[type_])


def _numbers(value: DenseIntOrFPElementsAttr[Any]) -> list[float | int]:
    return [number for number in value.iter_values() if not isinstance(number, tuple)]


def _parse_number(parser: Parser) -> float | int:
    """A number, `true`, `false`, `inf`, `neg_inf` or `nan`."""
    word = parser.parse_optional_keyword_in(("true", "false", "inf", "neg_inf", "nan"))
    if word is None:
        return parser.parse_number()
    return int(word == "true") if word in ("true", "false") else float(word.replace("neg_", "-"))


@irdl_op_definition
class WeightOp(IRDLOperation):
    """`graph.weight @name : tensor<64x3x7x7xf32>`: the weight called `name`.

    The name is that of an entry of the weight store, or of a `graph.derived_weight` of the module.
    """

    name = "graph.weight"
    symbol = prop_def(SymbolRefAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    assembly_format = "$symbol attr-dict `:` type($result)"

    def __init__(self, symbol: str, type_: Attribute, bounds: tuple[int, int] | None = None) -> None:
        """The weight `symbol`; `bounds`: the least and the largest of its elements, if they are integers and known."""
        attributes = {} if bounds is None else {RANGE_ATTRIBUTE: ArrayAttr(IntegerAttr(b, i64) for b in bounds)}
        super().__init__(properties={"symbol": SymbolRefAttr(symbol)}, attributes=attributes, result_types=[type_])

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The least and the largest element where they are known."""
        match self.attributes.get(RANGE_ATTRIBUTE):
            case ArrayAttr(data=(IntegerAttr(value=low), IntegerAttr(value=high))):
                return low.data, high.data
            case _:
                return None

    @property
    def weight_name(self) -> str:
        """The name of the weight."""
        return self.symbol.root_reference.data

    def verify_(self) -> None:
        _verify_static(self.result.type)
        if self.symbol.nested_references.data:
            raise VerifyException(f"weight name {self.symbol} is nested")


def _verify_static(type_: Attribute) -> None:
    if not isinstance(type_, TensorType) or dtype_of_or_none(type_) is None or not type_.has_static_shape():
        raise VerifyException(f"{type_} is not a static tensor of an element type of the table")


@irdl_op_definition
class DerivedWeightOp(IRDLOperation):
    """`graph.derived_weight @name : tensor<..> { ... graph.yield %w : tensor<..> }`: a weight computed from weights.

    The body holds graph.weight, graph.constant and pure graph operators; it runs once, when the weights are laid out
    for the compiled program, and its result is what `graph.weight @name` means.
    """

    name = "graph.derived_weight"
    sym_name = prop_def(SymbolNameConstraint())
    type = prop_def(TensorType)
    body = region_def("single_block")
    traits = traits_def(SymbolOpInterface(), IsolatedFromAbove())

    def __init__(self, sym_name: str, type_: TensorType[Any], body: Region) -> None:
        super().__init__(properties={"sym_name": StringAttr(sym_name), "type": type_}, regions=[body])

    def verify_(self) -> None:
        _verify_static(self.type)
        if self.body.block.args:
            raise VerifyException("the body of a derived weight has no arguments")
        terminator = self.body.block.last_op
        if not isinstance(terminator, YieldOp) or [value.type for value in terminator.values] != [self.type]:
            raise VerifyException(f"the body of a derived weight must end with graph.yield of one {self.type}")
        for op in self.body.block.ops:
            if not isinstance(op, ComputeOp | ConstantOp | WeightOp | YieldOp):
                raise VerifyException(f"{op.name} cannot be computed when the weights are laid out")

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        printer.print_string(" : ")
        printer.print_attribute(self.type)
        printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" ")
        printer.print_region(self.body)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        name = parser.parse_symbol_name()
        parser.parse_punctuation(":")
        type_ = parser.parse_type()
        attributes = parser.parse_optional_attr_dict_with_keyword()
        body = parser.parse_region()
        return cls.create(
            properties={"sym_name": name, "type": type_},
            attributes=attributes.data if attributes else {},
            regions=[body],
        )
