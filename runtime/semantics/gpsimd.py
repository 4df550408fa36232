"""Instructions of the GpSimd engine: indices, masks over indices, gathers in a row, reduction over partitions."""

import numpy as np

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.limits import CORE_PARTITIONS
from runtime.semantics.alu import BITWISE, domain_of, operator_of
from runtime.semantics.elementwise import REDUCTIONS
from runtime.semantics.numerics import converter, integer_reader, reader, wrapping_writer, writer
from runtime.semantics.registry import Array, Case, Effect, Kernel, Numbers, Views, meaning


def affine_indices(case: Case, role: str) -> Array:
    """offset + channel_multiplier * p + step * i for the elements of operand `role`, as int64 [partitions, *dims]."""
    shape = case.shapes[role]
    row = np.arange(int(np.prod(shape[1:])), dtype=np.int64) * int(case.field("step"))
    column = np.arange(shape[0], dtype=np.int64) * int(case.field("channel_multiplier")) + int(case.field("offset"))
    return (column[:, np.newaxis] + row).reshape(shape)


@meaning("iota")
def iota(case: Case) -> Kernel:
    """dst[p, i] = offset + channel_multiplier * p + step * i, in integers and then cast."""
    values, write = affine_indices(case, "dst"), wrapping_writer(case.dtypes["dst"])

    def kernel(views: Views, numbers: Numbers) -> Effect:
        return lambda: write(views["dst"], values)

    return kernel


@meaning("affine_select")
def affine_select(case: Case) -> Kernel:
    """dst[p, i] = data[p, i] where (offset + channel_multiplier * p + step * i) op 0, else fill."""
    if case.field("op") in BITWISE:
        raise case.broken("does not take bitwise operators")
    indices = affine_indices(case, "data")
    keep = np.asarray(operator_of(case.field("op"))(indices, np.int64(0), None)) != 0
    read, write, fill = reader(case.dtypes["data"]), writer(case.dtypes["dst"]), np.float32(case.field("fill"))

    def kernel(views: Views, numbers: Numbers) -> Effect:
        result = np.where(keep, read(views["data"]), fill)
        return lambda: write(views["dst"], result)

    return kernel


@meaning("local_gather")
def local_gather(case: Case) -> Kernel:
    """dst[p, i, :] = the `elements` of data[p, :] from index i on, which the 16 partitions of a core share: it is
    indices[16c + i % 16, i / 16] for those from 16c on. One that reaches out of the row raises NX-RUN-002.
    """
    take, put = converter(case.dtypes["data"], case.dtypes["dst"])
    read_indices = integer_reader(case.dtypes["indices"])
    width, partitions = int(np.prod(case.shapes["data"][1:])), case.shapes["dst"][0]
    together, cores = int(case.field("elements")), partitions // CORE_PARTITIONS
    count = int(np.prod(case.shapes["dst"][1:])) // together
    within = np.arange(together, dtype=np.int64)

    def kernel(views: Views, numbers: Numbers) -> Effect:
        listed = read_indices(views["indices"]).reshape(cores, CORE_PARTITIONS, -1)
        indices = listed.transpose(0, 2, 1).reshape(cores, -1)[:, :count]
        check_indices(case, indices, width - together + 1, f"places for {together} elements in the row")
        places = (indices[:, :, np.newaxis] + within).reshape(cores, 1, -1)
        rows = take(views["data"]).reshape(cores, CORE_PARTITIONS, width)
        result = np.take_along_axis(rows, places, axis=2)
        return lambda: put(views["dst"], result.reshape(case.shapes["dst"]))

    return kernel


def check_indices(case: Case, indices: Array, limit: int, what: str) -> None:
    """Raise NX-RUN-002 for the first index that is not in 0 .. limit - 1."""
    wrong = (indices < 0) | (indices >= limit)
    if wrong.any():
        position = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f"index {int(indices[position])} at position {list(position)} of the indices"
        raise NeuronError("NX-RUN-002", f"{case.name}: {place}, there are {limit} {what}")


@meaning("partition_reduce")
def partition_reduce(case: Case) -> Kernel:
    """dst[0, i] = reduction of data[:, i] over the partitions."""
    domain = domain_of(case, (case.field("op"),), ("data",))
    read, write, reduce = domain.reader("data"), domain.writer("dst"), REDUCTIONS[case.field("op")]

    def kernel(views: Views, numbers: Numbers) -> Effect:
        result = reduce(read(views["data"]), axis=0)
        return lambda: write(views["dst"], result)

    return kernel
