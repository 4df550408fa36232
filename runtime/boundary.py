"""Tensors that enter a program: the caller's arrays, checked, and converted to the element types that it takes.

Floats are rounded, integers must fit the narrower type, and a float never becomes an integer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuron_dialects.dtypes import DType, dtype_by_name
from neuron_dialects.errors import NeuronError

Array = np.ndarray[Any, np.dtype[Any]]
Spec = tuple[Sequence[int], str]
"""Shape and element type of a tensor."""


def bind_inputs(specs: Mapping[str, Spec], inputs: Mapping[str, Array], convert: bool = True) -> dict[str, Array]:
    """Every input of a program, of the shape and element type that it takes, from what the caller gives by name.

    Without `convert` the inputs are checked and stay as they are. NeuronError NX-RUN-011 for one that is missing or
    unknown, NX-RUN-012 for another shape, and those of `converted`.
    """
    known_inputs(specs, inputs)
    values: dict[str, Array] = {}
    for name, (shape, dtype) in specs.items():
        value = np.asarray(inputs[name])
        if tuple(value.shape) != tuple(shape):
            raise NeuronError(
                "NX-RUN-012",
                f"input '{name}' has shape {list(value.shape)}, the model was compiled for {list(shape)}",
                help="recompile with --input-shape",
            )
        if convert:
            value = converted(value, name, dtype_by_name(dtype))
        else:
            check_converts(value, name, dtype_by_name(dtype))
        values[name] = value
    return values


def known_inputs(specs: Mapping[str, Spec], inputs: Mapping[str, Array]) -> None:
    """Raise NX-RUN-011 unless exactly the inputs of a program are given."""
    unknown = sorted(set(inputs) - set(specs))
    if unknown:
        known = ", ".join(sorted(specs)) or "none"
        raise NeuronError("NX-RUN-011", f"the model has no input '{unknown[0]}'", help=f"inputs: {known}")
    for name, (shape, _) in specs.items():
        if name not in inputs:
            raise NeuronError("NX-RUN-011", f"input '{name}' is missing", help=f"give an array of shape {list(shape)}")


def converted(value: Array, name: str, dtype: DType) -> Array:
    """`value` in another element type, contiguous. Raises as `check_converts`."""
    check_converts(value, name, dtype)
    if value.dtype == dtype.numpy:
        return np.ascontiguousarray(value).reshape(value.shape)
    with np.errstate(over="ignore"):  # Beyond the largest number lies infinity, as in every cast between floats.
        return np.ascontiguousarray(value.astype(dtype.numpy)).reshape(value.shape)


def check_converts(value: Array, name: str, dtype: DType) -> None:
    """Whether every element has its like in another element type.

    NeuronError NX-RUN-010 where a value does not fit, NX-RUN-005 where kinds of type differ. `name` is for messages.
    """
    if value.dtype == dtype.numpy:
        return
    kind = _kind(value)
    if kind is None or (kind == "float" and not dtype.is_float):
        raise NeuronError("NX-RUN-005", f"'{name}' is given as {value.dtype}, the model takes {dtype}")
    if not dtype.is_float:
        _check_range(value, name, dtype)


def _kind(value: Array) -> str | None:
    """integer (truth values too) or float; None for anything that is not a number."""
    if value.dtype.kind in "biu":
        return "integer"
    # ml_dtypes' narrow floats are of kind V to numpy, like raw bytes: what tells them apart is the registered type.
    is_float = value.dtype.kind == "f" or (
        value.dtype.kind == "V" and np.can_cast(value.dtype, np.float32, "same_kind")
    )
    return "float" if is_float else None


def _check_range(value: Array, name: str, dtype: DType) -> None:
    """NX-RUN-010 for an integer outside of the type's range; i1 takes 0 and 1."""
    if not value.size or value.dtype.kind == "b":
        return
    least, most = (0, 1) if dtype.name == "i1" else (np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max)
    low, high = int(value.min()), int(value.max())
    if low < least or high > most:
        raise NeuronError(
            "NX-RUN-010",
            f"'{name}' holds {low if low < least else high}, which does not fit {dtype}",
            help=f"values must lie in {least} .. {most}",
        )
