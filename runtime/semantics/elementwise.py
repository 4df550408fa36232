"""Instructions that work element by element: activation, tensor-tensor, tensor-scalar, copies, selects, fills."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_dialects.dtypes import dtype_by_name
from runtime.semantics.alu import BITWISE, Domain, domain_of, operator_of
from runtime.semantics.functions import FUNCTIONS, prelu
from runtime.semantics.numerics import converter, fresh_reader, non_zero, raw, reader, writer
from runtime.semantics.registry import Case, Effect, Kernel, Numbers, Views, meaning

Array = NDArray[Any]
Step = Callable[[Array, Views], Array]

REDUCTIONS: dict[str, Callable[..., Array]] = {
    "add": np.add.reduce,
    "maximum": np.maximum.reduce,
    "minimum": np.minimum.reduce,
    "multiply": np.multiply.reduce,
}
"""Reductions by name; they take an array and `axis`."""


def beside(column: Array, values: Array) -> Array:
    """One value per partition, shaped so that it broadcasts along the free dimensions of `values`."""
    return column.reshape(column.shape[0], *(1,) * (values.ndim - 1))


def row_reduction(name: str) -> Callable[[Array], Array]:
    """Reduction over all free dimensions of [partitions, ...] values."""
    reduce = REDUCTIONS[name]
    return lambda values: reduce(values.reshape(values.shape[0], -1), axis=1)


@meaning("activation")
def activation(case: Case) -> Kernel:
    """dst = func(data * scale + bias), all in float32; `sum` gets the row sum of the unrounded result."""
    name = case.field("func")
    function = prelu(case.field("alpha")) if name == "prelu" else FUNCTIONS[name]
    scale = np.float32(case.field("scale"))
    read_scale = reader(case.dtypes["scale_column"]) if case.has("scale_column") else None
    read_bias = reader(case.dtypes["bias"]) if case.has("bias") else None
    # The first of the operations makes a new array.
    scaled = read_scale is not None or scale != 1.0
    read = (reader if scaled or read_bias is not None else fresh_reader)(case.dtypes["data"])
    write, total = writer(case.dtypes["dst"]), row_reduction("add")
    write_sum = writer(case.dtypes["sum"]) if case.has("sum") else None

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = read(views["data"])
        if read_scale is not None:
            values = values * beside(read_scale(views["scale_column"]), values)
        elif scale != 1.0:
            values = values * scale
        if read_bias is not None:
            bias = beside(read_bias(views["bias"]), values)
            values = np.add(values, bias, out=values if scaled else None)
        result = function(values, values)
        if write_sum is None:
            return lambda: write(views["dst"], result)
        sums, store_sum = total(result), write_sum

        def effect() -> None:
            write(views["dst"], result)
            store_sum(views["sum"], sums)

        return effect

    return kernel


def scalar_step(case: Case, domain: Domain, number: int) -> Step:
    """`values op<number> scalar<number>`, the scalar an operand column or an immediate; it may overwrite `values`."""
    role = f"operand{number}"
    operator = operator_of(case.field(f"op{number}"), case.field(f"reverse{number}"))
    scalar = domain.scalar(case.field(f"scalar{number}"))
    read = domain.reader(role) if case.has(role) else None

    def step(values: Array, views: Views) -> Array:
        other = scalar if read is None else beside(read(views[role]), values)
        result = operator(values, other, values)
        # A bypass with exchanged operands gives the scalar alone.
        return result if result.shape == values.shape else np.broadcast_to(result, values.shape).copy()

    if case.field(f"op{number}") == "bypass" and not case.field(f"reverse{number}"):
        return lambda values, views: values
    return step


@meaning("tensor_scalar")
def tensor_scalar(case: Case) -> Kernel:
    """dst = (data op0 scalar0) op1 scalar1, not rounded in between."""
    roles = ("data", "operand0", "operand1")
    scalars = [
        case.field(f"scalar{n}") for n in (0, 1) if not case.has(f"operand{n}") and case.field(f"op{n}") != "bypass"
    ]
    domain = domain_of(case, (case.field("op0"), case.field("op1")), roles, scalars)
    read, write = domain.reader("data", fresh=True), domain.writer("dst")
    first, second = scalar_step(case, domain, 0), scalar_step(case, domain, 1)

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = second(first(read(views["data"]), views), views)
        return lambda: write(views["dst"], values)

    return kernel


@meaning("tensor_scalar_reduce")
def tensor_scalar_reduce(case: Case) -> Kernel:
    """dst = data op0 scalar0; result = row reduction of it before it is rounded."""
    domain = Domain("floating", case)
    read, write, write_result = domain.reader("data", fresh=True), domain.writer("dst"), domain.writer("result")
    step, reduce = scalar_step(case, domain, 0), row_reduction(case.field("reduce"))

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = step(read(views["data"]), views)
        reduced = reduce(values)

        def effect() -> None:
            write(views["dst"], values)
            write_result(views["result"], reduced)

        return effect

    return kernel


@meaning("tensor_tensor")
def tensor_tensor(case: Case) -> Kernel:
    """dst = data op other."""
    op = case.field("op")
    domain = domain_of(case, (op,), ("data", "other"))
    read, read_other, write = domain.reader("data", fresh=True), domain.reader("other"), domain.writer("dst")
    operator = operator_of(op)

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = read(views["data"])
        result = operator(values, read_other(views["other"]).reshape(values.shape), values)
        return lambda: write(views["dst"], result)

    return kernel


@meaning("scalar_tensor_tensor")
def scalar_tensor_tensor(case: Case) -> Kernel:
    """dst = (data op0 scalar0) op1 other, not rounded in between."""
    domain = Domain("floating", case)
    if {case.field("op0"), case.field("op1")} & BITWISE:
        raise case.broken("does not take bitwise operators")
    read, write = domain.reader("data", fresh=True), domain.writer("dst")
    # A bypass with exchanged operands hands `other` itself to the write, which comes later than the read.
    read_other = domain.reader("other", fresh=case.field("op1") == "bypass")
    step, operator = scalar_step(case, domain, 0), operator_of(case.field("op1"), case.field("reverse1"))

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = step(read(views["data"]), views)
        result = operator(values, read_other(views["other"]).reshape(values.shape), values)
        return lambda: write(views["dst"], result)

    return kernel


@meaning("tensor_copy")
def tensor_copy(case: Case) -> Kernel:
    """dst = data: bit exact between equal types, integers exactly with saturation, else through float32."""
    return copy_kernel(case, "dst", "data")


def copy_kernel(case: Case, destination: str, source: str) -> Kernel:
    """The kernel that moves operand `source` to operand `destination`, element by element in their orders."""
    take, put = converter(case.dtypes[source], case.dtypes[destination])
    if source in case.constant and case.dtypes[source] == case.dtypes[destination]:
        take = raw

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = take(views[source])
        return lambda: put(views[destination], values)

    return kernel


@meaning("tensor_copy_predicated")
def tensor_copy_predicated(case: Case) -> Kernel:
    """dst = data where the predicate is non-zero (zero if `reverse`); elsewhere dst stays as it is."""
    take, put = converter(case.dtypes["data"], case.dtypes["dst"])
    holds, reverse = non_zero(case.dtypes["predicate"]), case.field("reverse")

    def kernel(views: Views, numbers: Numbers) -> Effect:
        dst, values = views["dst"], take(views["data"])
        where = holds(views["predicate"]).reshape(dst.shape)
        if reverse:
            np.logical_not(where, out=where)

        def effect() -> None:
            converted = np.empty(dst.shape, dst.dtype)
            put(converted, values)
            np.copyto(raw(dst), raw(converted), where=where)

        return effect

    return kernel


@meaning("memset")
def memset(case: Case) -> Kernel:
    """dst = value."""
    value = np.empty((1,), dtype_by_name(case.dtypes["dst"]).numpy)
    writer(case.dtypes["dst"])(value, np.full((1,), case.field("value"), np.float32))
    bits = raw(value)[0]

    def kernel(views: Views, numbers: Numbers) -> Effect:
        return lambda: raw(views["dst"]).fill(bits)

    return kernel


@meaning("reciprocal")
def reciprocal(case: Case) -> Kernel:
    """dst = 1 / data."""
    read, write = fresh_reader(case.dtypes["data"]), writer(case.dtypes["dst"])

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = read(views["data"])
        np.reciprocal(values, out=values)
        return lambda: write(views["dst"], values)

    return kernel
