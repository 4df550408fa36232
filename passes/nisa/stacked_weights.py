"""Weights of all iterations of a loop as one parameter: one behind the other, in the order of the iterations.

Given what a repeated function names and which weight that is in each iteration, leaves a `graph.derived_weight` that
concatenates them. What kernels derived of a weight is derived of each iteration's weight in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from xdsl.dialects.builtin import MemRefType, ModuleOp, TensorType
from xdsl.ir import Attribute, Block, Region, SSAValue

from neuron_dialects.graph import ConcatOp, DerivedWeightOp, ReshapeOp, WeightOp, YieldOp

Rows = Mapping[str, Sequence[str]]
"""Weight as a function names it -> the weight that it means in each iteration."""


@dataclass
class StackedWeights:
    """Makes the stacks of a module."""

    module: ModuleOp

    def __post_init__(self) -> None:
        self._recipes = {op.sym_name.data: op for op in self.module.ops if isinstance(op, DerivedWeightOp)}
        self._taken = set(self._recipes)
        self._taken |= {op.weight_name for op in self.module.walk() if isinstance(op, WeightOp)}

    def stack(self, symbol: str, rows: Rows, type_: MemRefType[Attribute]) -> str | None:
        """The weight that holds `symbol`, which has this type, of every iteration; None where all mean the same."""
        if not self._varies(symbol, rows):
            return None
        block = Block()
        pieces: list[SSAValue] = []
        for iteration in range(len(next(iter(rows.values())))):
            tensor = TensorType(type_.element_type, type_.get_shape())
            value = self._value(symbol, rows, iteration, tensor, block)
            piece = ReshapeOp(value, (1, *type_.get_shape()))
            block.add_op(piece)
            pieces.append(piece.result)
        whole = ConcatOp(pieces, 0)
        block.add_ops([whole, YieldOp(whole.result)])
        name, count = f"{symbol}.stacked", 1
        while name in self._taken:
            count += 1
            name = f"{symbol}.stacked.{count}"
        self._taken.add(name)
        self.module.body.block.add_op(DerivedWeightOp(name, cast("TensorType[Any]", whole.result.type), Region(block)))
        return name

    def _varies(self, symbol: str, rows: Rows) -> bool:
        """Whether a weight is another one in other iterations."""
        if symbol in rows:
            return True
        recipe = self._recipes.get(symbol)
        return recipe is not None and any(
            self._varies(op.weight_name, rows) for op in recipe.body.block.ops if isinstance(op, WeightOp)
        )

    def _value(self, symbol: str, rows: Rows, iteration: int, type_: Attribute, block: Block) -> SSAValue:
        """What a weight that varies means in an iteration; adds to the block what computes it."""
        if symbol in rows:
            weight = WeightOp(rows[symbol][iteration], type_)
            block.add_op(weight)
            return weight.result
        values: dict[SSAValue, SSAValue] = {}
        for op in self._recipes[symbol].body.block.ops:
            if isinstance(op, YieldOp):
                return values[op.values[0]]
            if isinstance(op, WeightOp) and self._varies(op.weight_name, rows):
                values[op.result] = self._value(op.weight_name, rows, iteration, op.result.type, block)
            else:
                block.add_op(op.clone(values))
        raise AssertionError("a recipe ends with what it yields")
