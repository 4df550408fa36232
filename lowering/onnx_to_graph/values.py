"""The values that flow between ONNX nodes during an import, and the function body that grows from them.

An ONNX value is an SSA value, a constant known at import (an initializer, or the result of folding), or a constant that
only the host understands. A constant becomes an operator only when a node needs it as an operand: `graph.constant` for
a single element, `graph.weight` otherwise, with its data in the weight store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from xdsl.dialects.builtin import NameLoc, NoneAttr, StringAttr
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.dtypes import DType, dtype_of_numpy
from neuron_dialects.graph import ConstantOp, TensorSpec, WeightOp, tensor_type
from neuron_dialects.graph.shapes import element_count
from neuron_dialects.weights import WeightStore

Array: TypeAlias = npt.NDArray[Any]

MAX_FOLDED_ELEMENTS = 64 * 1024
"""Nothing larger is computed at import: neither an input nor an output of a folded node has more elements."""


MAX_FOLDED_TOTAL = 2**24
"""Elements that all nodes folded in one import give; beyond this only short vectors, as of shapes, are computed."""
SHORT_ELEMENTS = 64


@dataclass(frozen=True, eq=False, slots=True)
class Constant:
    """A constant of a machine dtype."""

    name: str
    """Name of the weight that it becomes."""
    dtype: DType
    shape: tuple[int, ...]
    read: Callable[[], Array]
    """The elements; reading may load them from a file."""

    @property
    def spec(self) -> TensorSpec:
        """Element type and shape."""
        return self.dtype, self.shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return element_count(self.shape)


@dataclass(frozen=True, eq=False, slots=True)
class HostConstant:
    """A constant that only the host understands: strings, complex or sub-byte numbers."""

    tensor: TensorProto


Value: TypeAlias = SSAValue | Constant | HostConstant


def constant_of(name: str, array: Array) -> Constant:
    """A constant holding an array that nobody writes to any more."""
    return Constant(name, dtype_of_numpy(array.dtype), tuple(array.shape), lambda: array)


@dataclass(slots=True)
class Scope:
    """Values by ONNX name; an inner scope (a subgraph) also sees the outer ones."""

    parent: Scope | None = None
    prefix: str = ""
    """In front of the names of constants made here, so that two scopes can use one name."""
    values: dict[str, Value] = field(default_factory=dict[str, Value])

    def find(self, name: str) -> Value | None:
        """The value of that name, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None


def location_of(name: str) -> NameLoc:
    """The location naming an ONNX node."""
    return NameLoc(StringAttr(name), NoneAttr())


class Emitter:
    """The operators emitted so far, in order, and the operators that hold constants."""

    def __init__(self, store: WeightStore) -> None:
        self.store = store
        self._ops: list[Operation] = []
        self._held: dict[Constant | None, SSAValue] = {}
        self._holders: dict[Operation, Constant] = {}

    def emit(self, op: Operation, node_name: str) -> Sequence[SSAValue]:
        """Append an operator made from the ONNX node of that name; returns its results."""
        op.location = location_of(node_name)
        self._ops.append(op)
        return op.results

    def hold(self, constant: Constant, node_name: str) -> SSAValue:
        """The SSA value of a constant, emitted at its first use."""
        held = self._held.get(constant)
        if held is not None:
            return held
        if constant.size == 1:
            op: Operation = ConstantOp(constant.read(), constant.dtype, constant.shape)
        else:
            name = self._unused_name(constant.name)
            self.store.add_lazy(name, constant.dtype, constant.shape, constant.read)
            op = WeightOp(name, tensor_type(constant.dtype, constant.shape), _bounds(constant))
        value = self.emit(op, node_name)[0]
        self._held[constant] = value
        self._holders[op] = constant
        return value

    def _unused_name(self, name: str) -> str:
        """The name, or the name with a number where the store already has it."""
        candidate, number = name, 1
        while candidate in self.store:
            candidate, number = f"{name}.{number}", number + 1
        return candidate

    def mark(self) -> int:
        """A point to go back to."""
        return len(self._ops)

    def roll_back(self, mark: int) -> None:
        """Erase everything emitted since the mark."""
        while len(self._ops) > mark:
            op = self._ops.pop()
            if isinstance(op, WeightOp):
                self.store.discard(op.weight_name)
            self._held.pop(self._holders.pop(op, None), None)
            op.erase()

    def fill(self, block: Block) -> None:
        """Move the operators into a block."""
        block.add_ops(self._ops)
        self._ops = []


def _bounds(constant: Constant) -> tuple[int, int] | None:
    """The least and the largest element of integers that i64 holds."""
    if not constant.dtype.is_integer or constant.size == 0:
        return None
    values = constant.read()
    low, high = int(values.min()), int(values.max())
    return (low, high) if high < 2**63 else None


def readonly(array: Any) -> Array:
    """The array, not writable, in native byte order."""
    result = np.asarray(array)
    result = result.view()
    result.flags.writeable = False
    return result
