"""The tensor engine: matrix multiplication with float32 accumulation, and the transpose (on dve too, 32 x 32)."""

import numpy as np

from runtime.semantics.numerics import Read, Write, converter, reader, round_to_tf32, writer
from runtime.semantics.registry import Array, Case, Effect, Kernel, Numbers, Views, meaning

PRODUCT = "nc_matmul"
"""The instruction that multiplies matrices."""


def product_reader(dtype: str) -> Read | None:
    """How an operand becomes float32; None where a conversion of its elements does it."""
    return round_to_tf32 if dtype == "tf32" else None


def product_writer(dtype: str) -> Write:
    """How a product is stored that replaces what was there."""
    return writer(dtype)


@meaning(PRODUCT)
def nc_matmul(case: Case) -> Kernel:
    """dst[M, N] (+)= stationary[K, M]^T . moving[K, N]; adds where `accumulate` is non-zero.

    Products and sums are float32: products of 16-bit values are exact there. tf32 operands are rounded to their 10-bit
    mantissa on the way in. The sum is added at the write: the array adds in the order of its instructions, and two that
    follow each other into one bank need not wait for each other.
    """
    read_stationary, read_moving = (
        product_reader(case.dtypes[role]) or reader(case.dtypes[role]) for role in ("stationary", "moving")
    )
    write = product_writer(case.dtypes["dst"])

    def kernel(views: Views, numbers: Numbers) -> Effect:
        stationary, moving, dst = views["stationary"], views["moving"], views["dst"]
        k = stationary.shape[0]
        product = np.matmul(read_stationary(stationary).reshape(k, -1).T, read_moving(moving).reshape(k, -1))
        if not numbers["accumulate"]:
            return lambda: write(dst, product)
        return lambda: _add(dst, product.reshape(dst.shape))

    return kernel


def _add(dst: Array, product: Array) -> None:
    np.add(dst, product, out=dst)


@meaning("nc_transpose")
def nc_transpose(case: Case) -> Kernel:
    """dst[F, P] = data[P, F]^T, bit exact."""
    take, put = converter(case.dtypes["data"], case.dtypes["dst"])

    def kernel(views: Views, numbers: Numbers) -> Effect:
        data = take(views["data"])
        transposed = data.reshape(data.shape[0], -1).T
        return lambda: put(views["dst"], transposed)

    return kernel
