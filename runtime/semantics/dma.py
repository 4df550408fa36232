"""DMA: copies between SBUF and DRAM, and rows of a DRAM table addressed by indices in SBUF."""

import numpy as np

from runtime.semantics.elementwise import copy_kernel
from runtime.semantics.gpsimd import check_indices
from runtime.semantics.numerics import converter, integer_reader
from runtime.semantics.registry import Case, Effect, Kernel, Numbers, Views, meaning


@meaning("dma_copy")
def dma_copy(case: Case) -> Kernel:
    """dst = src, in the order in which the two patterns list their elements."""
    return copy_kernel(case, "dst", "src")


def _row_elements(case: Case, role: str) -> int:
    """Elements of one row: the leading dimension counts partitions (SBUF) or rows of the table (DRAM)."""
    return int(np.prod(case.shapes[role][1:]))


def _check_rows(case: Case, role: str) -> None:
    table, rows = _row_elements(case, "table"), _row_elements(case, role)
    if table != rows:
        raise case.broken(f"rows of the table have {table} elements, those of {role} {rows}")
    if case.shapes[role][0] != case.shapes["indices"][0]:
        raise case.broken(f"{role} has {case.shapes[role][0]} partitions, indices {case.shapes['indices'][0]}")


@meaning("dma_gather")
def dma_gather(case: Case) -> Kernel:
    """dst[p, :] = row indices[p] of the table. An index outside of 0 .. rows - 1 raises NX-RUN-002."""
    _check_rows(case, "dst")
    take, put = converter(case.dtypes["table"], case.dtypes["dst"])
    read_indices, limit = integer_reader(case.dtypes["indices"]), case.shapes["table"][0]

    def kernel(views: Views, numbers: Numbers) -> Effect:
        indices = read_indices(views["indices"]).reshape(-1)
        check_indices(case, indices, limit, "rows in the table")
        values = take(views["table"][indices])
        return lambda: put(views["dst"], values)

    return kernel


@meaning("dma_scatter")
def dma_scatter(case: Case) -> Kernel:
    """Row indices[p] of the table = data[p, :], partition by partition. An index outside of 0 .. rows - 1 raises
    NX-RUN-002.
    """
    _check_rows(case, "data")
    take, put = converter(case.dtypes["data"], case.dtypes["table"])
    read_indices, limit = integer_reader(case.dtypes["indices"]), case.shapes["table"][0]

    def kernel(views: Views, numbers: Numbers) -> Effect:
        table = views["table"]
        indices = read_indices(views["indices"]).reshape(-1)
        check_indices(case, indices, limit, "rows in the table")
        values = take(views["data"])

        def effect() -> None:
            converted = np.empty((len(indices), *table.shape[1:]), table.dtype)
            put(converted, values)
            # One by one: where two partitions name one row, the last one stays.
            for index, row in zip(indices, converted, strict=True):
                table[index] = row

        return effect

    return kernel
