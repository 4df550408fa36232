"""Instructions of the vector engine that look along a partition's row: reductions, scan, statistics, the top eight."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.semantics.alu import BITWISE, domain_of, operator_of
from runtime.semantics.elementwise import REDUCTIONS, beside
from runtime.semantics.numerics import Write, fresh_reader, reader, wrapping_writer, writer
from runtime.semantics.registry import Case, Effect, Kernel, Numbers, Views, meaning

Array = NDArray[Any]


def rows(values: Array) -> Array:
    """[partitions, ...] as [partitions, elements]."""
    return values.reshape(values.shape[0], -1)


FEW_ELEMENTS = 32
"""Rows of up to so many elements are reduced column by column."""


PAIRS = {"maximum": np.maximum, "minimum": np.minimum}
"""Reductions that give the same in any order."""


@meaning("tensor_reduce")
def tensor_reduce(case: Case) -> Kernel:
    """dst = reduction over the `axes` innermost dims of data, in float32 (exact on integers where the engine is);
    negated if `negate`.
    """
    domain = domain_of(case, (case.field("op"),), ("data",))
    read, read_fresh, write = domain.reader("data"), domain.reader("data", fresh=True), domain.writer("dst")
    reduce, pair, negate = REDUCTIONS[case.field("op")], PAIRS.get(case.field("op")), case.field("negate")
    kept = len(case.shapes["data"]) - int(case.field("axes"))
    if kept < 1:
        raise case.broken(f"reduces {case.field('axes')} of {len(case.shapes['data']) - 1} free dimensions")
    few = pair is not None and prod(case.shapes["data"][kept:]) <= FEW_ELEMENTS
    columns = list(np.ndindex(case.shapes["data"][kept:])) if few else []

    def reduced(view: Array) -> Array:
        if pair is None or not columns:
            values = read(view)
            return reduce(values.reshape(*values.shape[:kept], -1), axis=-1)
        # Numpy is slow on many short rows: whole columns are compared instead.
        result = read_fresh(view[..., *columns[0]])
        for column in columns[1:]:
            pair(result, read(view[..., *column]), out=result)
        return result

    def kernel(views: Views, numbers: Numbers) -> Effect:
        result = reduced(views["data"])
        if negate:
            np.negative(result, out=result)
        return lambda: write(views["dst"], result)

    return kernel


@meaning("tensor_tensor_scan")
def tensor_tensor_scan(case: Case) -> Kernel:
    """dst[i] = (data[i] op0 dst[i-1]) op1 other[i] along the row, in float32; dst[-1] is `initial`."""
    if {case.field("op0"), case.field("op1")} & BITWISE:
        raise case.broken("does not take bitwise operators")
    read, read_other = reader(case.dtypes["data"]), reader(case.dtypes["other"])
    first, second, write = operator_of(case.field("op0")), operator_of(case.field("op1")), writer(case.dtypes["dst"])
    read_initial = fresh_reader(case.dtypes["initial"]) if case.has("initial") else None
    initial_value = np.float32(case.field("initial_value"))

    def kernel(views: Views, numbers: Numbers) -> Effect:
        # Columns become rows, so that each step works on contiguous memory.
        data = np.ascontiguousarray(rows(read(views["data"])).T)
        other = np.ascontiguousarray(rows(read_other(views["other"])).T)
        result = np.empty(data.shape, np.float32)
        if read_initial is None:
            state = np.full(data.shape[1], initial_value, np.float32)
        else:
            state = read_initial(views["initial"]).reshape(-1)
        for position in range(len(data)):
            combined = first(data[position], state, result[position])
            state = result[position]
            np.copyto(state, second(combined, other[position], state))
        return lambda: write(views["dst"], result.T)

    return kernel


@meaning("bn_stats")
def bn_stats(case: Case) -> Kernel:
    """dst = (count, mean, M2) of the elements at even positions of the row, then of those at odd positions."""
    read, write = reader(case.dtypes["data"]), writer(case.dtypes["dst"])

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = rows(read(views["data"])).astype(np.float64)
        result = np.zeros((len(values), 6))
        for first in (0, 1):
            part = values[:, first::2]
            if part.shape[1]:
                mean = part.mean(axis=1)
                squares = ((part - mean[:, np.newaxis]) ** 2).sum(axis=1)
                result[:, 3 * first : 3 * first + 3] = np.stack(
                    [np.full(len(part), part.shape[1]), mean, squares], axis=1
                )
        return lambda: write(views["dst"], result)

    return kernel


@meaning("bn_aggr")
def bn_aggr(case: Case) -> Kernel:
    """dst = mean and (population) variance of what the triples (count, mean, M2) of data describe together."""
    read, write = reader(case.dtypes["data"]), writer(case.dtypes["dst"])
    elements = int(np.prod(case.shapes["data"][1:]))
    if elements % 3:
        raise case.broken(f"data has {elements} elements per partition, must be a multiple of 3")

    def kernel(views: Views, numbers: Numbers) -> Effect:
        triples = rows(read(views["data"])).astype(np.float64).reshape(-1, elements // 3, 3)
        count, mean, squares = triples[..., 0], triples[..., 1], triples[..., 2]
        total = count.sum(axis=1)
        average = (count * mean).sum(axis=1) / total
        spread = (squares + count * (mean - average[:, np.newaxis]) ** 2).sum(axis=1) / total
        result = np.stack([average, spread], axis=1)
        return lambda: write(views["dst"], result)

    return kernel


@meaning("max8")
def max8(case: Case) -> Kernel:
    """dst = the 8 largest elements of the row, largest first; equal elements count as often as they occur."""
    read, write = reader(case.dtypes["data"]), writer(case.dtypes["dst"])

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = rows(read(views["data"]))
        top = np.partition(values, values.shape[1] - 8, axis=1)[:, -8:]
        result = np.sort(top, axis=1)[:, ::-1]
        return lambda: write(views["dst"], result)

    return kernel


def match8(data: Array, values: Array) -> Array:
    """Where each of eight values is found: positions [partitions, 8], -1 where absent.

    A value that is asked for twice matches two positions, the first ones from left to right, so that the top eight of a
    row with equal elements are eight different positions.
    """
    partitions = np.arange(len(data))
    free = np.ones(data.shape, np.bool_)
    positions = np.empty((len(data), values.shape[1]), np.int64)
    for column in range(values.shape[1]):
        match = (data == values[:, column : column + 1]) & free
        position = match.argmax(axis=1)
        found = match[partitions, position]
        free[partitions[found], position[found]] = False
        positions[:, column] = np.where(found, position, -1)
    return positions


@meaning("nc_find_index8")
def nc_find_index8(case: Case) -> Kernel:
    """dst = position in data's row of each of 8 values, all ones where it is absent; equal values get successive
    matches.
    """
    read, read_values = reader(case.dtypes["data"]), reader(case.dtypes["values"])
    write: Write = wrapping_writer(case.dtypes["dst"])

    def kernel(views: Views, numbers: Numbers) -> Effect:
        positions = match8(rows(read(views["data"])), rows(read_values(views["values"])))
        return lambda: write(views["dst"], positions)

    return kernel


@meaning("nc_match_replace8")
def nc_match_replace8(case: Case) -> Kernel:
    """dst = data with the first match of each of 8 values replaced; equal values replace successive matches."""
    read, read_values = fresh_reader(case.dtypes["data"]), reader(case.dtypes["values"])
    write, value = writer(case.dtypes["dst"]), np.float32(case.field("value"))

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = rows(np.ascontiguousarray(read(views["data"])))
        positions = match8(values, rows(read_values(views["values"])))
        partition, column = np.nonzero(positions >= 0)
        values[partition, positions[partition, column]] = value
        return lambda: write(views["dst"], values)

    return kernel


@meaning("range_select")
def range_select(case: Case) -> Kernel:
    """dst[i] = data[i] where lower <= i < upper (bounds per partition), else fill."""
    read, write = reader(case.dtypes["data"]), writer(case.dtypes["dst"])
    fill = np.float32(case.field("fill"))
    bounds = {role: reader(case.dtypes[role]) for role in ("lower", "upper") if case.has(role)}

    def kernel(views: Views, numbers: Numbers) -> Effect:
        values = rows(read(views["data"]))
        position = np.arange(values.shape[1], dtype=np.float32)
        inside = np.ones(values.shape, np.bool_)
        if "lower" in bounds:
            inside &= position >= beside(bounds["lower"](views["lower"]), values)
        if "upper" in bounds:
            inside &= position < beside(bounds["upper"](views["upper"]), values)
        result = np.where(inside, values, fill)
        return lambda: write(views["dst"], result)

    return kernel
