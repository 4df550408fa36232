"""Converter of Einsum: transposes, reshapes, sums, and one matrix product per further operand.

An equation names every dimension of every operand by a label; dimensions of one label have one size, or 1, which
broadcasts. A label that the result lacks is summed over. Operands are combined from the left, two at a time: labels of
both that anything later needs are the batch of a matrix product, the others are what it sums over, and what only one
operand has are its rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

from xdsl.ir import SSAValue

from lowering.onnx_to_graph.movement import reshaped
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    MatMulOp,
    ReduceKind,
    ReduceOp,
    SliceOp,
    TransposeOp,
    shape_of,
)
from neuron_dialects.graph.shapes import ShapeError, element_count

Labels: TypeAlias = tuple[str, ...]
"""One label per dimension: a letter of the equation, or a number counted from the back for what `...` stands for."""

_ELLIPSIS = "..."


# Equations


def parse_equation(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """Labels of every operand and of the result; ShapeError for an equation that does not fit operands of these ranks.

    Without `->` the result has what `...` stands for, then in alphabetic order the letters that occur once.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ShapeError(f"equation '{equation}' has {len(terms)} operands instead of {len(ranks)}")
    operands = [_term_labels(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    widest = max((_hidden(labels) for labels in operands), key=len, default=())
    if arrow:
        if widest and _ELLIPSIS not in right:
            raise ShapeError(f"the result of equation '{equation}' lacks an ellipsis")
        result = _term_labels(right, len(right.replace(_ELLIPSIS, "")) + len(widest))
    else:
        letters = [label for labels in operands for label in labels if label.isalpha()]
        result = (*widest, *sorted(label for label in letters if letters.count(label) == 1))
    if len(set(result)) != len(result) or not set(result) <= {label for labels in operands for label in labels}:
        raise ShapeError(f"the result of equation '{equation}' repeats a label, or has one that no operand has")
    return operands, result


def _term_labels(term: str, rank: int) -> Labels:
    """The labels of one operand."""
    before, ellipsis, after = term.partition(_ELLIPSIS)
    letters = before + after
    hidden = rank - len(letters)
    if letters and not (letters.isascii() and letters.isalpha()):
        raise ShapeError(f"term '{term}' is not made of letters")
    if hidden < 0 or (hidden and not ellipsis):
        raise ShapeError(f"term '{term}' does not fit rank {rank}")
    return (*before, *(str(position) for position in range(hidden, 0, -1)), *after)


def _hidden(labels: Labels) -> Labels:
    """The labels that an ellipsis stands for."""
    return tuple(label for label in labels if not label.isalpha())


# Operands


@dataclass(frozen=True, slots=True)
class _Operand:
    """A tensor and the labels of its dimensions."""

    value: SSAValue
    labels: Labels

    def size(self, label: str) -> int:
        return shape_of(self.value)[self.labels.index(label)]

    def sizes(self, labels: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.size(label) for label in labels)


def _permuted(node: Node, x: _Operand, labels: Labels) -> _Operand:
    """x with its dimensions in another order."""
    if labels == x.labels:
        return x
    return _Operand(node.emit(TransposeOp(x.value, [x.labels.index(label) for label in labels])), labels)


def _diagonal(node: Node, x: _Operand) -> _Operand:
    """x with each repeated label once: of two equal dimensions of n, every (n+1)-th element of the n*n."""
    while repeated := next((label for label in x.labels if x.labels.count(label) > 1), None):
        first = x.labels.index(repeated)
        second = x.labels.index(repeated, first + 1)
        shape = shape_of(x.value)
        size = shape[first]
        if shape[second] != size:
            raise Unsupported(f"label {repeated} is repeated with sizes {size} and {shape[second]}")
        others = [d for d in range(len(shape)) if d not in (first, second)]
        value = node.emit(TransposeOp(x.value, [*others, first, second]))
        kept = [shape[d] for d in others]
        value = reshaped(node, value, (*kept, size * size))
        steps = [*[1] * len(kept), size + 1]
        value = node.emit(SliceOp(value, [0] * len(steps), [*kept, size], steps))
        x = _Operand(value, (*(x.labels[d] for d in others), repeated))
    return x


def _reduced(node: Node, x: _Operand, needed: Set[str], sizes: dict[str, int]) -> _Operand:
    """x without the labels that nothing else needs, which are summed, and without those that only broadcast."""
    broadcast = [label for label in x.labels if x.size(label) == 1 != sizes[label]]
    if broadcast:
        labels = tuple(label for label in x.labels if label not in broadcast)
        x = _Operand(reshaped(node, x.value, x.sizes(labels)), labels)
    summed = [d for d, label in enumerate(x.labels) if label not in needed]
    if not summed:
        return x
    labels = tuple(label for label in x.labels if label in needed)
    return _Operand(node.emit(ReduceOp(ReduceKind.SUM, x.value, summed, keep_dims=False)), labels)


# Products


def _product(node: Node, a: _Operand, b: _Operand, needed: Labels) -> _Operand:
    """The sum of products over the labels that are not needed; those that only one operand has are needed."""
    shared = [label for label in a.labels if label in b.labels]
    inner = tuple(label for label in shared if label not in needed)
    batch = tuple(label for label in needed if label in shared)
    rows = tuple(label for label in needed if label in a.labels and label not in shared)
    columns = tuple(label for label in needed if label in b.labels and label not in shared)
    if not inner:
        return _outer_product(node, a, b, tuple(label for label in needed if label in a.labels or label in b.labels))
    left, transpose_a = _matrices(node, a, batch, rows, inner)
    right, transpose_b = _matrices(node, b, batch, inner, columns)
    product = node.emit(MatMulOp(left, right, transpose_a=transpose_a, transpose_b=transpose_b))
    shape = (*a.sizes(batch), *a.sizes(rows), *b.sizes(columns))
    return _Operand(reshaped(node, product, shape), (*batch, *rows, *columns))


def _matrices(node: Node, x: _Operand, batch: Labels, rows: Labels, columns: Labels) -> tuple[SSAValue, bool]:
    """x as one matrix per index of the batch, and whether it is transposed; it is where that saves moving elements."""
    transposed = x.labels == (*batch, *columns, *rows) != (*batch, *rows, *columns)
    first, second = (columns, rows) if transposed else (rows, columns)
    moved = _permuted(node, x, (*batch, *first, *second))
    leading = (element_count(x.sizes(batch)),) if batch else ()
    shape = (*leading, element_count(x.sizes(first)), element_count(x.sizes(second)))
    return reshaped(node, moved.value, shape), transposed


def _outer_product(node: Node, a: _Operand, b: _Operand, labels: Labels) -> _Operand:
    """The elementwise product of what broadcasts to `labels`."""
    factors: list[SSAValue] = []
    for x in (a, b):
        ordered = _permuted(node, x, tuple(label for label in labels if label in x.labels))
        shape = [x.size(label) if label in x.labels else 1 for label in labels]
        factors.append(reshaped(node, ordered.value, shape))
    return _Operand(node.emit(BinaryOp(BinaryKind.MUL, *factors)), labels)


def _label_sizes(operands: Sequence[_Operand]) -> dict[str, int]:
    """The size of every label; ShapeError where two dimensions disagree."""
    sizes: dict[str, int] = {}
    for operand in operands:
        for label, size in zip(operand.labels, shape_of(operand.value), strict=True):
            known = sizes.get(label, 1)
            if size != known and 1 not in (size, known):
                raise ShapeError(f"label {label} has sizes {known} and {size}")
            sizes[label] = size if known == 1 else known
    return sizes


def _einsum(node: Node) -> Sequence[Value]:
    values = node.operands()
    terms, result = parse_equation(node.string_attr("equation"), [len(shape_of(value)) for value in values])
    operands = [_Operand(value, labels) for value, labels in zip(values, terms, strict=True)]
    sizes = _label_sizes(operands)
    operands = [_diagonal(node, operand) for operand in operands]
    total: _Operand | None = None
    for index, operand in enumerate(operands):
        later = {label for other in operands[index + 1 :] for label in other.labels}
        before = set(total.labels) if total is not None else set[str]()
        x = _reduced(node, operand, later | before | set(result), sizes)
        if total is None:
            total = x
            continue
        total = _reduced(node, total, later | set(x.labels) | set(result), sizes)
        needed = (*result, *sorted(later - set(result)))
        x = _reduced(node, x, set(total.labels) | set(needed), sizes)
        total = _product(node, total, x, needed)
    if total is None:
        raise ShapeError("Einsum has no operand")
    return [_permuted(node, total, result).value]


CONVERTERS: dict[str, Row] = {"Einsum": Row(_einsum, since=12)}
"""ONNX operator type -> row."""
