"""Fixing the shapes of a model's inputs.

The graph level knows static shapes only. This module is given the declared input shapes of a model, with symbolic
dimensions, and the shapes that the user asks for; it leaves one static shape per input and the size of every symbol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lowering.onnx_to_graph.result import SymbolUse
from neuron_dialects.errors import NeuronError

MAX_TENSOR_ELEMENTS = 2**40
"""A tensor with more elements than this is a mistake, not a model."""

Dimension = int | str | None
"""A declared dimension: a size, a symbol, or nothing."""


@dataclass(frozen=True, slots=True)
class DeclaredInput:
    """A model input as the file declares it; `shape` is None when not even the rank is declared."""

    name: str
    shape: Sequence[Dimension] | None


@dataclass(slots=True)
class BoundShapes:
    """Static shapes of all inputs."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    dimensions: dict[str, int] = field(default_factory=dict[str, int])
    """Symbol -> size; an unnamed dimension is called INPUT[POSITION]."""
    notes: list[str] = field(default_factory=list[str])


def bind_inputs(inputs: Sequence[DeclaredInput], given: Mapping[str, Sequence[int]] | None) -> BoundShapes:
    """Bind every dimension: by a given shape, by its symbol elsewhere, or, for a batch dimension, to 1.

    NeuronError: NX-ONNX-005 when a given shape names no input or contradicts the model, NX-ONNX-004 when a dimension
    stays unknown.
    """
    given = given or {}
    unknown = sorted(set(given) - {declared.name for declared in inputs})
    if unknown:
        raise NeuronError(
            "NX-ONNX-005",
            f"the model has no input '{unknown[0]}'",
            help=f"its inputs are {', '.join(declared.name for declared in inputs)}",
        )
    bound = BoundShapes()
    for declared in inputs:
        if declared.name in given:
            _bind_given(declared, [int(dim) for dim in given[declared.name]], bound)
    batch = batch_symbols(inputs)
    for declared in inputs:
        if declared.name not in bound.shapes:
            _bind_declared(declared, batch, bound)
    return bound


def batch_symbols(inputs: Sequence[DeclaredInput]) -> set[str]:
    """Symbols that name a batch: they occur only as first dimensions, and are not called a length."""
    first: set[str] = set()
    later: set[str] = set()
    for declared in inputs:
        for position, dim in enumerate(declared.shape or ()):
            if isinstance(dim, str):
                (later if position else first).add(dim)
    lengths = {symbol for symbol in first if any(word in symbol.lower() for word in ("seq", "len", "time"))}
    return first - later - lengths


def symbol_uses(inputs: Sequence[DeclaredInput]) -> dict[str, SymbolUse]:
    """The symbolic dimensions of inputs of known rank, in order of first use."""
    axes: dict[str, list[tuple[str, int]]] = {}
    for declared in inputs:
        for position, dim in enumerate(declared.shape or ()):
            if not isinstance(dim, int):
                axes.setdefault(_symbol(declared, position), []).append((declared.name, position))
    batch = batch_symbols(inputs)
    unnamed = {_symbol(declared, 0) for declared in inputs if declared.shape and declared.shape[0] is None}
    return {symbol: SymbolUse(tuple(places), symbol in batch | unnamed) for symbol, places in axes.items()}


def _symbol(declared: DeclaredInput, position: int) -> str:
    """Name under which a dimension is bound."""
    dim = declared.shape[position] if declared.shape is not None else None
    return dim if isinstance(dim, str) else f"{declared.name}[{position}]"


def _bind_given(declared: DeclaredInput, shape: Sequence[int], bound: BoundShapes) -> None:
    if declared.shape is not None and len(shape) != len(declared.shape):
        raise NeuronError(
            "NX-ONNX-005",
            f"input '{declared.name}' has {len(declared.shape)} dimensions but {len(shape)} are given",
        )
    for position, size in enumerate(shape):
        dim = declared.shape[position] if declared.shape is not None else None
        if size < 0:
            raise NeuronError("NX-ONNX-005", f"dimension {position} of input '{declared.name}' is given as {size}")
        if isinstance(dim, int):
            if dim != size:
                raise NeuronError(
                    "NX-ONNX-005",
                    f"dimension {position} of input '{declared.name}' is fixed to {dim} in the model, not {size}",
                    help="export the model with a dynamic axis there",
                )
            continue
        symbol = _symbol(declared, position)
        if bound.dimensions.setdefault(symbol, size) != size:
            raise NeuronError(
                "NX-ONNX-005",
                f"dimension '{symbol}' is given as {size} for input '{declared.name}'"
                f" but as {bound.dimensions[symbol]} for another",
            )
    bound.shapes[declared.name] = _checked(declared.name, shape)


def _bind_declared(declared: DeclaredInput, batch: set[str], bound: BoundShapes) -> None:
    if declared.shape is None:
        raise NeuronError(
            "NX-ONNX-004",
            f"the shape of input '{declared.name}' is unknown",
            help=f"give it with --input-shape {declared.name}=...",
        )
    shape: list[int] = []
    for position, dim in enumerate(declared.shape):
        symbol = _symbol(declared, position)
        is_batch = position == 0 and (dim is None or dim in batch)
        if isinstance(dim, int):
            shape.append(dim)
        elif symbol in bound.dimensions:
            shape.append(bound.dimensions[symbol])
        elif is_batch:
            bound.dimensions[symbol] = 1
            bound.notes.append(f"dimension '{symbol}' of input '{declared.name}' is taken as a batch of 1")
            shape.append(1)
        else:
            example = ",".join(str(other) if isinstance(other, int) else "?" for other in declared.shape)
            raise NeuronError(
                "NX-ONNX-004",
                f"dimension {position} ('{symbol}') of input '{declared.name}' is unknown",
                help=f"give the shape with --input-shape {declared.name}={example} and a number for every ?",
            )
    bound.shapes[declared.name] = _checked(declared.name, shape)


def _checked(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    count = 1
    for dim in shape:
        count *= dim
    if count > MAX_TENSOR_ELEMENTS:
        raise NeuronError("NX-ONNX-005", f"input '{name}' has {count} elements, more than {MAX_TENSOR_ELEMENTS}")
    return tuple(shape)
