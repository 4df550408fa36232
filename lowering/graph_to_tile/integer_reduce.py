"""Reductions of integers, exact modulo 2^32.

The vector engine reduces in f32, exact up to 2^24. Sums are therefore taken of 11-bit limbs, maxima of 16-bit halves
(the low ones only where the high ones are the largest), and products element by element. What is then left is one
number per row, which `Integers` finishes exactly.
"""

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.footprint import bytes_per_element
from lowering.graph_to_tile.integers import LIMB_BITS, Integers
from lowering.graph_to_tile.iteration import Access, Piece, Space
from lowering.graph_to_tile.row_space import RowSpace, reduce_rows, repeated_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import ReduceKind, UnaryKind
from neuron_dialects.target import Target

MOST_ADDED = 2 ** (24 - LIMB_BITS)
"""Limbs whose sum is exact in f32."""

_LOWEST = {ReduceKind.PROD: 1.0, ReduceKind.MAX: -(2.0**31), ReduceKind.MIN: 2.0**31 - 1}
"""What a running accumulator starts from; sums start from 0."""

_SBUF_SHARE = 0.5
"""Part of SBUF that a reduction's tiles may take."""


class IntegerReduction:
    """Emits one reduction of integers. Accesses of `rows`: the operand, then the result."""

    def __init__(self, b: KernelBuilder, target: Target, rows: RowSpace, kind: ReduceKind):
        self.b = b
        self.e = Emitter(b, target)
        self.integers = Integers(self.e)
        self.rows = rows
        self.kind = kind
        self.limit = 0

    @property
    def x(self) -> Access:
        """The operand."""
        return self.rows.accesses[0]

    @property
    def out(self) -> Access:
        """The result."""
        return self.rows.accesses[1]

    def _row_limit(self) -> int:
        """Elements of a row whose tiles fit SBUF together, and whose limbs add up exactly."""
        target, dtype = self.e.target, self.x.tensor.dtype

        def body(b: KernelBuilder, elements: int) -> None:
            rows = RowSpace(Space((1, elements), 0), (1,), ())
            row = b.alloc((1, elements), dtype, "sbuf", b.rotation).view()
            IntegerReduction(b, target, rows, self.kind).combined({0: (Affine(), 1)}, row)

        room = int(target.sbuf_bytes_per_partition) * _SBUF_SHARE / bytes_per_element(target, body)
        return min(MOST_ADDED, int(room))

    def emit(self) -> None:
        """All loops."""
        self.limit = self._row_limit()
        chunks = self.rows.chunks(self.limit)
        if chunks is None:
            self.rows.each_long_row(self.b, self._long_row)
        else:
            self.rows.each_piece(self.b, chunks, {"x": self.x}, self._whole_rows)

    def _whole_rows(self, piece: Piece, views: dict[str, View]) -> None:
        view, commit = self.out.store(self.b, self.rows.space, piece, self.b.rotation)
        with self.e.scope():
            self._last(self.rows.per_row(view), self.combined(piece, views["x"]))
        commit()

    def _long_row(self, piece: Piece) -> None:
        view, commit = self.out.store(self.b, self.rows.space, piece, self.b.rotation)
        total = self.rows.stats(self.b, piece, "i32")
        self.e.assign(total, self.integers.number(_LOWEST.get(self.kind, 0.0), total))

        def chunk(part: Piece) -> None:
            with self.e.scope():
                self._accumulate(total, self.combined(piece, self.rows.load(self.b, self.x, part)))

        self.rows.each_chunk(self.b, piece, self.limit, chunk)
        self._last(self.rows.per_row(view), total)
        commit()

    def _accumulate(self, total: View, fresh: View) -> None:
        """total = total combined with fresh."""
        match self.kind:
            case ReduceKind.MAX:
                self.integers.extreme(total, total, fresh, "greater")
            case ReduceKind.MIN:
                self.integers.extreme(total, total, fresh, "less")
            case ReduceKind.PROD:
                self.integers.multiply(total, total, fresh)
            case _:
                self.integers.add(total, total, fresh)

    def combined(self, piece: Piece, x: View) -> View:
        """[lanes, kept] as i32: the combination of rows [lanes, kept, reduced]."""
        x = self.e.converted(x, "i32")
        match self.kind:
            case ReduceKind.MAX:
                return self._largest(piece, x)
            case ReduceKind.MIN:
                result = self._largest(piece, self._complement(x))
                self.integers.bits(result, result, "bitwise_xor", -1)
                return result
            case ReduceKind.PROD:
                return self._product(piece, x)
            case ReduceKind.L1:
                return self._sum(piece, self._mapped(UnaryKind.ABS, x))
            case ReduceKind.L2 | ReduceKind.SUM_SQUARE:
                return self._sum(piece, self._mapped(UnaryKind.SQUARE, x))
            case _:
                return self._sum(piece, x)

    def _mapped(self, kind: UnaryKind, x: View) -> View:
        result = self.e.temp(x, "i32")
        self.integers.unary(kind, result, x)
        return result

    def _complement(self, x: View) -> View:
        """~x, which orders the other way round."""
        result = self.e.temp(x, "i32")
        self.integers.bits(result, x, "bitwise_xor", -1)
        return result

    def _sum(self, piece: Piece, x: View) -> View:
        """The sum of at most `MOST_ADDED` numbers a row, limb by limb."""
        limbs: list[View] = []
        part = self.e.temp(x, "i32")
        for number in range(3):
            self.integers.bits(part, x, "right_shift", LIMB_BITS * number, "bitwise_and", (1 << LIMB_BITS) - 1)
            limb = self.rows.stats(self.b, piece, "i32")
            reduce_rows(self.b, limb, part, "add")
            limbs.append(limb)
        total = self.rows.stats(self.b, piece, "i32")
        self.integers.weighted_sum(total, limbs)
        return total

    def _largest(self, piece: Piece, x: View) -> View:
        """The maximum: the largest high half, then the largest low half among the numbers that have it."""
        integers, e = self.integers, self.e
        high, low, matches = e.temp(x, "i32"), e.temp(x, "i32"), e.temp(x)
        top, rest = self.rows.stats(self.b, piece, "i32"), self.rows.stats(self.b, piece, "i32")
        integers.bits(high, x, "right_shift", 16, "bitwise_xor", 0x8000)
        reduce_rows(self.b, top, high, "maximum")
        e.tensors(matches, high, repeated_rows(top, x), "equal")
        integers.bits(low, x, "bitwise_and", 0xFFFF)
        # One more than the low half where the high half matches, else 0.
        e.scalar_tensor(low, low, "add", 1.0, "multiply", matches)
        reduce_rows(self.b, rest, low, "maximum")
        e.scalar(rest, rest, "add", -1.0)
        integers.bits(top, top, "bitwise_xor", 0x8000, "left_shift", 16)
        result = self.rows.stats(self.b, piece, "i32")
        e.tensors(result, top, rest, "bitwise_or")
        return result

    def _product(self, piece: Piece, x: View) -> View:
        """The product, one element of every row at a time."""
        total = self.rows.stats(self.b, piece, "i32")
        self.e.assign(total, 1.0)
        kept = len(total.dims)

        def multiply(rest: View) -> None:
            if len(rest.dims) == kept:
                self.integers.multiply(total, total, rest)
                return
            with self.b.loop(rest.shape[1 + kept]) as i:
                multiply(rest.at(1 + kept, i))

        multiply(x)
        return total

    def _last(self, dst: View, total: View) -> None:
        """dst = the kind's function of the combination, in dst's own width."""
        match self.kind:
            case ReduceKind.MEAN:
                total, _ = self.integers.divide(total, float(self.rows.row_length), total)
            case ReduceKind.L2:
                total = self._root(total)
            case _:
                pass
        self.integers.narrow(dst, total)

    def _root(self, square: View) -> View:
        """The whole part of the square root: rounded in f32, then one less where its square is too large."""
        e = self.e
        root, product, excess = e.temp(square, "i32"), e.temp(square, "i32"), e.temp(square, "i32")
        real = e.temp(square)
        e.function(real, square, "sqrt")
        e.assign(root, real)
        self.integers.multiply(product, root, root)
        self.integers.compare(excess, product, square, "greater")
        e.tensors(root, root, excess, "subtract")
        return root
