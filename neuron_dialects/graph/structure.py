"""Operators that carry or group others: onnx_node, fused, yield."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence, Set
from typing import Self

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, StringAttr, UnitAttr
from xdsl.ir import Attribute, Operation, Region
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import (
    EffectInstance,
    IsolatedFromAbove,
    IsTerminator,
    MemoryEffect,
    MemoryEffectKind,
    Pure,
    RecursiveMemoryEffect,
)
from xdsl.utils.exceptions import VerifyException

from neuron_dialects.graph.assembly import DIRECTIVES
from neuron_dialects.graph.attrs import int_attr
from neuron_dialects.graph.base import GRAPH_OPTIONS, Value


class HostEffect(MemoryEffect):
    """An ONNX node has no effect, unless it is marked `random`: then it advances the host's random number generator."""

    @classmethod
    def get_effects(cls, op: Operation) -> Set[EffectInstance]:
        return {EffectInstance(MemoryEffectKind.WRITE)} if "random" in op.properties else set()


@irdl_op_definition
class OnnxNodeOp(IRDLOperation):
    """`graph.onnx_node "TopK"(%x, %k) domain "" opset 13 node "..." : ...`: an ONNX node as it is, for the host.

    op_type, domain: what the node says. node: base64 of the serialized NodeProto. opset: version of the node's domain.
    inputs: one operand for each non-empty input name of the node, in order; then one for each name in `captures`,
    values of the enclosing graph that the node's subgraphs use. outputs: one for each non-empty output name. random:
    the node or one inside it draws random numbers. Types are what is known: dimensions may be dynamic and elements
    opaque, because only the host touches them.
    """

    name = "graph.onnx_node"
    inputs = var_operand_def()
    op_type = prop_def(StringAttr)
    domain = prop_def(StringAttr)
    node = prop_def(StringAttr)
    opset = prop_def(IntegerAttr)
    captures = opt_prop_def(ArrayAttr[StringAttr])
    random = opt_prop_def(UnitAttr)
    outputs = var_result_def()
    traits = traits_def(HostEffect())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$op_type `(` $inputs `)` `domain` $domain custom<Integer>($opset) (`captures` $captures^)?"
        " (`random` $random^)? `node` $node attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        inputs: Sequence[Value],
        *,
        op_type: str,
        domain: str,
        node: bytes,
        opset: int,
        result_types: Sequence[Attribute],
        captures: Sequence[str] = (),
        random: bool = False,
    ) -> None:
        super().__init__(
            operands=[list(inputs)],
            properties={
                "op_type": StringAttr(op_type),
                "domain": StringAttr(domain),
                "node": StringAttr(base64.b64encode(node).decode("ascii")),
                "opset": int_attr(opset),
                "captures": ArrayAttr([StringAttr(name) for name in captures]) if captures else None,
                "random": UnitAttr() if random else None,
            },
            result_types=[list(result_types)],
        )

    @property
    def node_bytes(self) -> bytes:
        """The serialized NodeProto."""
        return base64.b64decode(self.node.data, validate=True)

    @property
    def capture_names(self) -> tuple[str, ...]:
        """Names of the captured values, which are the last operands."""
        return tuple(name.data for name in self.captures) if self.captures is not None else ()

    def verify_(self) -> None:
        try:
            base64.b64decode(self.node.data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise VerifyException(f"node is not base64: {error}") from error
        if len(self.capture_names) > len(self.inputs):
            raise VerifyException(f"{len(self.capture_names)} captures but {len(self.inputs)} operands")


@irdl_op_definition
class YieldOp(IRDLOperation):
    """`graph.yield %a : tensor<..>`: the results of the enclosing graph.fused or graph.derived_weight."""

    name = "graph.yield"
    values = var_operand_def()
    traits = traits_def(IsTerminator(), Pure())
    assembly_format = "attr-dict ($values^ `:` type($values))?"

    def __init__(self, *values: Value) -> None:
        super().__init__(operands=[list(values)])


@irdl_op_definition
class FusedOp(IRDLOperation):
    """`graph.fused (%a = %x, %b = %y) : (...) -> ... { ... graph.yield %r : ... }`: operators that become one kernel.

    The body has one argument for each operand, of the same type, and sees nothing else of the enclosing function. It
    ends with graph.yield of the results.
    """

    name = "graph.fused"
    inputs = var_operand_def()
    outputs = var_result_def()
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), RecursiveMemoryEffect())

    def __init__(self, inputs: Sequence[Value], result_types: Sequence[Attribute], body: Region) -> None:
        super().__init__(operands=[list(inputs)], result_types=[list(result_types)], regions=[body])

    def verify_(self) -> None:
        arguments = [argument.type for argument in self.body.block.args]
        if arguments != [value.type for value in self.inputs]:
            raise VerifyException("the body's arguments differ from the operands in number or type")
        terminator = self.body.block.last_op
        if not isinstance(terminator, YieldOp):
            raise VerifyException("the body of graph.fused must end with graph.yield")
        if [value.type for value in terminator.values] != [value.type for value in self.outputs]:
            raise VerifyException("graph.yield differs from the results in number or type")

    def print(self, printer: Printer) -> None:
        pairs = list(zip(self.body.block.args, self.inputs, strict=True))

        def print_pair(pair: tuple[object, object]) -> None:
            printer.print_ssa_value(pair[0])  # pyright: ignore[reportArgumentType]
            printer.print_string(" = ")
            printer.print_ssa_value(pair[1])  # pyright: ignore[reportArgumentType]

        printer.print_string(" ")
        with printer.in_parens():
            printer.print_list(pairs, print_pair)
        printer.print_string(" : ")
        printer.print_function_type([value.type for value in self.inputs], [value.type for value in self.outputs])
        printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" ")
        printer.print_region(self.body, print_entry_block_args=False)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        def parse_pair():
            argument = parser.parse_argument(expect_type=False)
            parser.parse_punctuation("=")
            return argument, parser.parse_unresolved_operand()

        pairs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parse_pair)
        parser.parse_punctuation(":")
        start = parser.pos
        type_ = parser.parse_function_type()
        if len(pairs) != len(type_.inputs):
            parser.raise_error(f"{len(pairs)} operands but {len(type_.inputs)} operand types", start, parser.pos)
        typed = list(zip(pairs, type_.inputs, strict=True))
        operands = [parser.resolve_operand(operand, operand_type) for (_, operand), operand_type in typed]
        attributes = parser.parse_optional_attr_dict_with_keyword()
        body = parser.parse_region([argument.resolve(argument_type) for (argument, _), argument_type in typed])
        return cls.create(
            operands=operands,
            result_types=type_.outputs.data,
            attributes=attributes.data if attributes else {},
            regions=[body],
        )
