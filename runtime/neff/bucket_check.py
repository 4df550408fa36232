"""Whether the buckets of a `Neff` belong together: one model at several shapes, and dimensions that can be padded.

Given a `Neff` whose graphs are whole. What passes here the runtime may choose among, pad and cut without more checks.
"""

from collections.abc import Sequence

import numpy as np

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from runtime.neff.manifest import MAX_BUCKETS, MAX_DIMENSIONS
from runtime.neff.model import OPAQUE, Bucket, DynamicDimension, Neff, TensorSpec


def check_buckets(neff: Neff) -> None:
    """Raise NX-NEFF-005 for the first contradiction between buckets, NX-NEFF-010 for too many of them."""
    for what, count, limit in (
        ("buckets", len(neff.buckets), MAX_BUCKETS),
        ("dynamic dimensions", len(neff.dimensions), MAX_DIMENSIONS),
    ):
        if count > limit:
            raise NeuronError("NX-NEFF-010", f"{count} {what}, limit {limit}")
    first, *further = neff.buckets
    shapes = {_input_shapes(first)}
    for position, bucket in enumerate(further, 1):
        for kind, ours, theirs in (("input", first.inputs, bucket.inputs), ("output", first.outputs, bucket.outputs)):
            if [_signature(spec) for spec in ours] != [_signature(spec) for spec in theirs]:
                raise _broken(f"bucket {position} has other {kind}s than the first, or of another rank or type")
        if _input_shapes(bucket) in shapes:
            raise _broken(f"bucket {position} has the input shapes of an earlier one")
        shapes.add(_input_shapes(bucket))
    _check_dimensions(neff)
    _check_padding(neff)


def _signature(spec: TensorSpec) -> tuple[str, int, str, str]:
    """What a tensor has in common in all buckets."""
    return spec.name, len(spec.shape), spec.dtype, spec.device_dtype


def _input_shapes(bucket: Bucket) -> tuple[tuple[int, ...], ...]:
    return tuple(spec.shape for spec in bucket.inputs)


def _check_dimensions(neff: Neff) -> None:
    names = [dimension.name for dimension in neff.dimensions]
    if len(set(names)) != len(names) or "" in names:
        raise _broken("a dynamic dimension has no name, or the name of another")
    taken: set[tuple[str, str, int]] = set()
    for dimension in neff.dimensions:
        where = f"dimension {dimension.name[:80]!a}"
        if not dimension.inputs:
            raise _broken(f"{where} is that of no input")
        for kind, axes in (("input", dimension.inputs), ("output", dimension.outputs)):
            for tensor, axis in axes:
                if (kind, tensor, axis) in taken:
                    raise _broken(f"{where}: axis {axis} of {kind} {tensor[:80]!a} is listed twice")
                taken.add((kind, tensor, axis))
        for position, bucket in enumerate(neff.buckets):
            _check_sizes(dimension, bucket, f"bucket {position}: {where}")


def _check_sizes(dimension: DynamicDimension, bucket: Bucket, where: str) -> None:
    """In a bucket a dimension has one size, of at least 1; that of an output may be known only when it is made."""
    inputs = _sizes(dimension.inputs, bucket.inputs, where)
    outputs = [size for size in _sizes(dimension.outputs, bucket.outputs, where) if size != -1]
    if inputs[0] < 1 or len({*inputs, *outputs}) != 1:
        raise _broken(f"{where} has sizes {sorted({*inputs, *outputs})}, must be one of at least 1")


def _sizes(axes: Sequence[tuple[str, int]], specs: Sequence[TensorSpec], where: str) -> list[int]:
    tensors = {spec.name: spec for spec in specs}
    sizes: list[int] = []
    for tensor, axis in axes:
        spec = tensors.get(tensor)
        if spec is None or spec.dtype == OPAQUE or not 0 <= axis < len(spec.shape):
            raise _broken(f"{where}: there is no axis {axis} of tensor {tensor[:80]!a}")
        sizes.append(spec.shape[axis])
    return sizes


def _check_padding(neff: Neff) -> None:
    """A padding value belongs to an input and is one of its type."""
    inputs = {spec.name: spec for spec in neff.inputs}
    for name, value in neff.padding.items():
        where = f"the padding of {name[:80]!a}"
        if name not in inputs or inputs[name].dtype == OPAQUE:
            raise _broken(f"{where}: there is no such input, or none of numbers")
        if not is_padding(value, inputs[name].dtype):
            raise _broken(f"{where}: {value} is no {inputs[name].dtype}")


def is_padding(value: float, dtype: str) -> bool:
    """Whether an element type holds a number: an integer type only its own integers, i1 0 and 1, a float type any."""
    described = dtype_by_name(dtype)
    if described.is_float:
        return True
    if value != int(value):
        return False
    low, high = (0, 1) if dtype == "i1" else (np.iinfo(described.numpy).min, np.iinfo(described.numpy).max)
    return low <= value <= high


def _broken(message: str) -> NeuronError:
    return NeuronError("NX-NEFF-005", message)
