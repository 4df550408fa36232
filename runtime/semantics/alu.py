"""ALU operators: which arithmetic an instruction uses, and the operators in it.

Three domains. Floating: operands upcast to float32 (the rule). Bits: bitwise operators and shifts work on integers, bit
exact. Integers: on pool, arithmetic between integer operands is exact, modulo 2^bits of the destination; so it is where
no engine is chosen yet. dve and act compute integers through float32, exact up to 2^24.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_dialects.dtypes import dtype_by_name
from runtime.semantics.functions import rsqrt
from runtime.semantics.numerics import (
    Read,
    Write,
    fresh_reader,
    integer_reader,
    is_integer,
    raw,
    reader,
    wrapping_writer,
    writer,
)
from runtime.semantics.registry import Case

Array = NDArray[Any]
Out = Array | None
Operator = Callable[[Any, Any, Out], Array]
"""(first, second, out): `out` is an array of the result's type and shape that may be overwritten (it may be an
operand), or None; without it comparisons give bool arrays. `bypass`, `rsqrt` and `abs` ignore their second operand.
"""

BITWISE = frozenset({"bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"})
EXACT = frozenset(
    {"bypass", "add", "subtract", "multiply", "maximum", "minimum", "abs", "equal", "not_equal", "greater_equal",
     "greater", "less_equal", "less", "logical_and", "logical_or", "logical_xor"}
)  # fmt: skip
"""Operators that are exact on integers where the engine has integer arithmetic."""


def _first(a: Any, b: Any, out: Out) -> Array:
    return np.asarray(a)


def _rsqrt(a: Any, b: Any, out: Out) -> Array:
    return rsqrt(np.asarray(a))


def _abs(a: Any, b: Any, out: Out) -> Array:
    return np.abs(np.asarray(a))


def _arithmetic(function: np.ufunc) -> Operator:
    return lambda a, b, out: function(a, b, out=out)


def _predicate(function: np.ufunc) -> Operator:
    def operator(a: Any, b: Any, out: Out) -> Array:
        result = np.asarray(function(a, b))
        return result if out is None else result.astype(out.dtype)

    return operator


def _logical(function: np.ufunc) -> Operator:
    predicate = _predicate(function)
    return lambda a, b, out: predicate(np.not_equal(a, 0), np.not_equal(b, 0), out)


_ARITHMETIC: dict[str, np.ufunc] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "left_shift": np.left_shift,
    "right_shift": np.right_shift,
    "power": np.power,
}
_COMPARISONS: dict[str, np.ufunc] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater_equal": np.greater_equal,
    "greater": np.greater,
    "less_equal": np.less_equal,
    "less": np.less,
}
_LOGICAL: dict[str, np.ufunc] = {
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}

OPERATORS: dict[str, Operator] = {
    "bypass": _first,
    "rsqrt": _rsqrt,
    "abs": _abs,
    **{name: _arithmetic(function) for name, function in _ARITHMETIC.items()},
    **{name: _predicate(function) for name, function in _COMPARISONS.items()},
    **{name: _logical(function) for name, function in _LOGICAL.items()},
}
"""Operator by name."""


@dataclass(frozen=True)
class Domain:
    """The arithmetic of one static instruction."""

    kind: str  # "floating", "integers" or "bits"
    case: Case

    def reader(self, role: str, fresh: bool = False) -> Read:
        """How an operand is read. `fresh`: into a new array that may be overwritten."""
        dtype = self.case.dtypes[role]
        if self.kind == "floating":
            return fresh_reader(dtype) if fresh else reader(dtype)
        if self.kind == "bits":
            # Of data's width, so that a shift to the left drops bits; unsigned, so that one to the right is logical.
            width = self._width
            return lambda view: raw(view).astype(width)
        return integer_reader(dtype)

    @property
    def _width(self) -> np.dtype[Any]:
        return np.dtype(f"u{dtype_by_name(self.case.dtypes['data']).size_bytes}")

    def writer(self, role: str) -> Write:
        """How the result is written."""
        dtype = self.case.dtypes[role]
        return writer(dtype) if self.kind == "floating" else wrapping_writer(dtype)

    def scalar(self, value: float) -> Any:
        """An immediate in this arithmetic."""
        if self.kind == "floating":
            return np.float32(value)
        if not float(value).is_integer():
            raise self.case.broken(f"integer arithmetic with the immediate {value}")
        if self.kind == "bits":
            return np.array(int(value) & ((1 << 8 * self._width.itemsize) - 1), self._width)
        return np.int64(int(value))


def domain_of(case: Case, operators: Iterable[str], roles: Iterable[str], immediates: Iterable[float] = ()) -> Domain:
    """The arithmetic of `operators` over the operands `roles` (those present) and `immediates`."""
    names = [name for name in operators if name != "bypass"]
    dtypes = [case.dtypes[role] for role in roles if case.has(role)]
    whole = all(is_integer(dtype) for dtype in dtypes)
    if any(name in BITWISE for name in names):
        mixed = [name for name in names if name not in BITWISE]
        if mixed:
            raise case.broken(f"cannot combine bitwise operators with {mixed[0]}")
        if not whole:
            raise case.broken(f"bitwise operators need integers, not {', '.join(dtypes)}")
        return Domain("bits", case)
    exact = case.engine not in ("dve", "act") and whole and all(name in EXACT for name in names)
    if exact and all(float(value).is_integer() for value in immediates):
        return Domain("integers", case)
    return Domain("floating", case)


def operator_of(name: str, reverse: bool = False) -> Operator:
    """The operator, with its operands exchanged if `reverse`."""
    operator = OPERATORS[name]
    return (lambda a, b, out: operator(b, a, out)) if reverse else operator
