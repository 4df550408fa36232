"""Writes engine ops on views, hiding the engines' restrictions from the recipes that use it.

Recipes (pointwise_unary.py, pointwise_binary.py, integers.py) say what to compute; an `Emitter` knows which of two PSUM
inputs must move first, that a number or a per-partition column makes the cheaper tensor-scalar form, that such columns
are f32, that an engine addresses four free dimensions, and where temporaries come from. All tiles of one call are [P,
free...] of one shape.
"""

from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from xdsl.ir import Block

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.view import View
from neuron_dialects.access import merge_dims
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa.limits import MAX_ON_CHIP_DIMS
from neuron_dialects.target import Target

Operand = View | float
"""A tile, a per-partition column repeated along the row (a view that `is_column`), or a number."""

COMMUTATIVE = frozenset(
    {"add", "multiply", "maximum", "minimum", "equal", "not_equal", "logical_and", "logical_or", "logical_xor",
     "bitwise_and", "bitwise_or", "bitwise_xor"}
)  # fmt: skip
"""ALU operators whose operands may be exchanged."""

WORTHWHILE_COLUMN_ELEMENTS = 128
"""Row length from which converting a column to f32 costs less than reading it as a second tile."""


def within_rank(b: KernelBuilder, views: Sequence[View], body: Callable[[Sequence[View]], None]) -> None:
    """`body(views)`, looping over outer dimensions of all views until each merges to what an engine can address.

    The views have one shape. Each loop takes the shortest dimension whose removal brings the worst view closer.
    """

    def rank(candidates: Sequence[View]) -> int:
        return max(len(merge_dims(view.dims)) for view in candidates)

    worst = rank(views)
    if worst <= MAX_ON_CHIP_DIMS:
        body(views)
        return
    sizes = views[0].shape
    helpful = [d for d in range(1, len(sizes)) if sizes[d] > 1 and rank([view.at(d, 0) for view in views]) < worst] or [
        d for d in range(1, len(sizes)) if sizes[d] > 1
    ]
    outer = min(helpful, key=lambda d: sizes[d])
    with b.loop(sizes[outer]) as i:
        within_rank(b, [view.at(outer, i) for view in views], body)


class Emitter:
    """Engine ops on views of one shape, with temporaries in the current loop."""

    def __init__(self, b: KernelBuilder, target: Target):
        self.b = b
        self.target = target
        self._scopes: list[list[View]] = []
        self._free: defaultdict[tuple[Block, tuple[int, ...], str, int], list[View]] = defaultdict(list)
        self._copies: dict[int, int] = {}

    @property
    def exact_integers(self) -> bool:
        """Whether an engine of the target has 32-bit integer arithmetic; elsewhere it goes through f32."""
        return "pool" in self.target.compute_engines

    # -- values
    # -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def scope(self) -> Generator[None]:
        """Temporaries made inside are free again when it ends; all that a loop nest allocates is live at once."""
        self._scopes.append([])
        try:
            yield
        finally:
            for tile in self._scopes.pop():
                self.release(tile)

    def release(self, tile: View) -> None:
        """Give a temporary, as `temp` gave it, back: the next one of its kind in this block takes it."""
        self._free[self.b.block, tile.buffer.shape, tile.dtype, self._copies[tile.buffer.key]].append(
            tile.buffer.view()
        )

    def _tile(self, shape: tuple[int, ...], dtype: str, copies: int) -> View:
        """A tile of this shape that nobody uses."""
        free = self._free[self.b.block, shape, dtype, copies]
        if free:
            return free.pop()
        view = self.b.alloc(shape, dtype, "sbuf", copies).view()
        self._copies[view.buffer.key] = copies
        return view

    def temp(self, like: View, dtype: str = "f32", rotating: bool = False) -> View:
        """A dense temporary of the shape of `like`.

        A `rotating` one lets the next iteration of a loop start while this one still reads it, and outlives its scope.
        """
        sizes = like.shape[1:]
        tile = self._tile((like.partitions, *(sizes or (1,))), dtype, self.b.rotation if rotating else 1)
        if self._scopes and not rotating:
            self._scopes[-1].append(tile)
        return tile if sizes else tile.at(1, 0)

    def filled(self, like: View, value: float, dtype: str = "f32") -> View:
        """A view of the shape of `like` that holds `value` everywhere; one element per partition is stored."""
        column = self._tile((like.partitions, 1), dtype, 1)
        if self._scopes:
            self._scopes[-1].append(column)
        self.b.memset(column, value)
        return self.repeated(column, like)

    @staticmethod
    def repeated(column: View, like: View) -> View:
        """A [P, 1] view repeated to the shape of `like`."""
        column = column.at(1, 0)
        for size in reversed(like.shape[1:]):
            column = column.insert(0, size)
        return column

    def tile(self, operand: Operand, like: View, dtype: str = "f32") -> View:
        """An operand as a view."""
        return operand if isinstance(operand, View) else self.filled(like, operand, dtype)

    def in_sbuf(self, view: View) -> View:
        """The view itself, or a copy where it lies in PSUM."""
        if view.space != "psum":
            return view
        moved = self.temp(view, view.dtype)
        self.assign(moved, view)
        return moved

    def converted(self, view: View, dtype: str) -> View:
        """The view itself, or a copy in another element type."""
        if view.dtype == dtype:
            return view
        copied = self.temp(view, dtype)
        self.assign(copied, view)
        return copied

    def column(self, view: View) -> View:
        """The [P, 1] f32 form of a column, as engines take scalars per partition."""
        return self.converted(view.column, "f32")

    # -- ops
    # --------------------------------------------------------------------------------------------------------------

    def scalar(
        self,
        dst: View,
        src: View,
        op0: str,
        scalar0: Operand,
        op1: str = "bypass",
        scalar1: Operand = 0.0,
        reverse0: bool = False,
        reverse1: bool = False,
    ) -> None:
        """dst = (src op0 scalar0) op1 scalar1; scalars are numbers or columns."""
        first = self.column(scalar0) if isinstance(scalar0, View) else scalar0
        second = self.column(scalar1) if isinstance(scalar1, View) else scalar1
        within_rank(
            self.b, [dst, src], lambda v: self.b.tensor_scalar(v[0], v[1], op0, first, op1, second, reverse0, reverse1)
        )

    def alu(self, dst: View, a: Operand, b: Operand, op: str) -> None:
        """dst = a op b, as tensor-scalar where one operand is a number or a column worth it."""
        if not isinstance(a, View) and not isinstance(b, View):
            a = self.filled(dst, a)
        if isinstance(a, View) and (not isinstance(b, View) or self._is_scalar(b, op)):
            self.scalar(dst, a, op, b)
        elif isinstance(b, View) and (not isinstance(a, View) or self._is_scalar(a, op)):
            self.scalar(dst, b, op, a, reverse0=op not in COMMUTATIVE)
        else:
            assert isinstance(a, View)
            assert isinstance(b, View)
            self.tensors(dst, a, b, op)

    def _is_scalar(self, view: View, op: str) -> bool:
        if not view.is_column or op.startswith("bitwise") or op.endswith("shift"):
            return False
        worthwhile = view.free_elements >= WORTHWHILE_COLUMN_ELEMENTS and dtype_by_name(view.dtype).is_float
        return view.dtype == "f32" or worthwhile

    def tensors(self, dst: View, a: View, b: View, op: str) -> None:
        """dst = a op b of two tiles; at most one is read from PSUM."""
        if a.space == b.space == "psum":
            b = self.in_sbuf(b)
        within_rank(self.b, [dst, a, b], lambda v: self.b.tensor_tensor(v[0], v[1], v[2], op))

    def scalar_tensor(
        self,
        dst: View,
        src: View,
        op0: str,
        scalar0: Operand,
        op1: str,
        other: View,
        reverse0: bool = False,
        reverse1: bool = False,
    ) -> None:
        """dst = (src op0 scalar0) op1 other."""
        if src.space == other.space == "psum":
            other = self.in_sbuf(other)
        column = self.column(scalar0) if isinstance(scalar0, View) else None
        fields: dict[str, Any] = {"op0": op0, "reverse0": reverse0, "op1": op1, "reverse1": reverse1}
        if not isinstance(scalar0, View):
            fields["scalar0"] = scalar0

        def emit(views: Sequence[View]) -> None:
            roles = {"dst": views[0], "data": views[1], "operand0": column, "other": views[2]}
            self.b.emit("scalar_tensor_tensor", roles, fields)

        within_rank(self.b, [dst, src, other], emit)

    def function(
        self,
        dst: View,
        src: View,
        func: str,
        scale: Operand = 1.0,
        bias: Operand | None = None,
        alpha: float = 0.0,
        row_sum: View | None = None,
    ) -> None:
        """dst = func(src * scale + bias); `row_sum` [P, 1] receives the sums of its rows, which are one piece."""
        shift = None if bias is None else self.column(self.tile(bias, dst))
        factor = self.column(scale) if isinstance(scale, View) else scale
        within_rank(self.b, [dst, src], lambda v: self.b.activation(v[0], v[1], func, factor, shift, row_sum, alpha))

    def total(self, dst: View, src: View) -> None:
        """dst [P, 1] = the sums of the rows of src, which are one piece."""
        self.b.reduce(dst.at(1, 0), src, "add", len(src.dims))

    def reciprocal(self, dst: View, src: View) -> None:
        """dst = 1 / src, over the whole range of f32."""
        within_rank(self.b, [dst, src], lambda v: self.b.emit("reciprocal", {"dst": v[0], "data": v[1]}))

    def select(self, dst: View, src: Operand, predicate: View) -> None:
        """dst = src where the predicate is not zero; elsewhere dst keeps what it holds."""
        data = self.converted(self.tile(src, dst, dst.dtype), dst.dtype)
        if data.space == predicate.space == "psum":
            data = self.in_sbuf(data)
        within_rank(
            self.b,
            [dst, data, predicate],
            lambda v: self.b.emit("select", {"dst": v[0], "data": v[1], "predicate": v[2]}),
        )

    def assign(self, dst: View, src: Operand) -> None:
        """dst = src with the hardware's cast."""
        if isinstance(src, View):
            within_rank(self.b, [dst, src], lambda v: self.b.copy(v[0], v[1]))
        else:
            within_rank(self.b, [dst], lambda v: self.b.memset(v[0], src))

    def run(self, dst: View, src: View, steps: Sequence[tuple[str, Operand]]) -> None:
        """dst = src taken through ALU steps `running op operand` with numbers and columns, two per instruction."""
        for start in range(0, len(steps), 2):
            pair = steps[start : start + 2]
            target = dst if start + 2 >= len(steps) else self.temp(dst)
            second: tuple[str, Operand] = pair[1] if len(pair) == 2 else ("bypass", 0.0)
            self.scalar(target, src, pair[0][0], pair[0][1], *second)
            src = target
