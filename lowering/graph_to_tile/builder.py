"""Builds tile-level code: buffers, loops and ops, from views.

One `KernelBuilder` writes the body of one core function. Loops are opened as context managers and give an affine
variable; every op is placed at the current end of the innermost open loop and carries the location of the graph op
being lowered.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from xdsl.dialects import arith, scf
from xdsl.dialects.builtin import IndexType, IntegerAttr, LocationAttr, MemRefType, UnknownLoc
from xdsl.ir import Block, Operation, Region, SSAValue

from lowering.graph_to_tile.view import Buffer, View
from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.neuron import MemorySpace, MemorySpaceAttr
from neuron_dialects.target import Target
from neuron_dialects.tile import TILE_OPS, AllocOp, ParamOp

_SPACES = {name: MemorySpaceAttr(MemorySpace(name)) for name in ("dram", "sbuf", "psum")}


def buffer_type(shape: tuple[int, ...], dtype: str, space: str) -> MemRefType[Any]:
    """memref of `shape` in memory space `space`."""
    return MemRefType(dtype_by_name(dtype).type, shape, memory_space=_SPACES[space])


class KernelBuilder:
    """Writer of tile ops into a function's entry block. `rotates`: whether buffers have the copies kernels want."""

    def __init__(self, block: Block, target: Target, rotates: bool = True):
        self.target, self.rotates = target, rotates
        self.location: LocationAttr = UnknownLoc()
        self._top = block
        self._blocks: list[Block] = [block]
        self._loop_values: list[SSAValue] = []
        self._values: list[SSAValue] = []
        self._constants: dict[int, SSAValue] = {}
        self._params: dict[str, Buffer] = {}

    # -- buffers -------------------------------------------------------------------------------------------------------

    def adopt(self, value: SSAValue, shape: tuple[int, ...], dtype: str, space: str = "dram") -> Buffer:
        """A buffer for a value that exists already (a function argument)."""
        self._values.append(value)
        return Buffer(len(self._values) - 1, shape, dtype, space)

    def alloc(
        self, shape: tuple[int, ...], dtype: str, space: str = "sbuf", copies: int = 1, name: str | None = None
    ) -> Buffer:
        """A buffer in the current loop; `copies` physical ones over which its iterations rotate."""
        op = AllocOp(buffer_type(shape, dtype, space), copies if self.rotates else 1, name)
        self._append(op)
        return self.adopt(op.buffer, shape, dtype, space)

    def alloc_outer(self, shape: tuple[int, ...], dtype: str, space: str = "sbuf", name: str | None = None) -> Buffer:
        """A buffer of the whole function body, whatever loop is open."""
        op = AllocOp(buffer_type(shape, dtype, space), 1, name)
        op.location = self.location
        top_loop = self._blocks[1].parent_op() if len(self._blocks) > 1 else None
        if top_loop is None:
            self._top.add_op(op)
        else:
            self._top.insert_op_before(op, top_loop)
        return self.adopt(op.buffer, shape, dtype, space)

    def param(self, symbol: str, shape: tuple[int, ...], dtype: str) -> Buffer:
        """The constant DRAM tensor `symbol`; one per symbol."""
        if symbol not in self._params:
            op = ParamOp(symbol, buffer_type(shape, dtype, "dram"))
            op.location = self.location
            first = self._top.first_op
            if first is None:
                self._top.add_op(op)
            else:
                self._top.insert_op_before(op, first)
            self._params[symbol] = self.adopt(op.buffer, shape, dtype)
        return self._params[symbol]

    # -- loops ---------------------------------------------------------------------------------------------------------

    @property
    def block(self) -> Block:
        """The block that ops are added to now."""
        return self._blocks[-1]

    @property
    def rotation(self) -> int:
        """Copies of a buffer allocated here that let loop iterations overlap: 2 in a loop, 1 outside of all loops."""
        return 2 if len(self._blocks) > 1 else 1

    @contextmanager
    def loop(self, trips: int) -> Generator[Affine]:
        """`scf.for` from 0 to `trips`; a single iteration opens no loop and gives the constant 0."""
        if trips == 1:
            yield Affine(0)
            return
        body = Block(arg_types=[IndexType()])
        body.args[0].name_hint = "i"
        loop = scf.ForOp(self._constant(0), self._constant(trips), self._constant(1), [], Region(body))
        self._append(loop)
        self._blocks.append(body)
        self._loop_values.append(body.args[0])
        number = len(self._loop_values) - 1
        try:
            yield Affine.variable(number)
        finally:
            body.add_op(scf.YieldOp())
            self._blocks.pop()

    def tiles(self, extent: int, size: int, body: Callable[[Affine, int], None]) -> None:
        """`body(start, size)` for every tile of `extent`: a loop over the full tiles, then the remainder peeled."""
        full, rest = divmod(extent, size)
        if full:
            with self.loop(full) as i:
                body(i * size, size)
        if rest:
            body(Affine(full * size), rest)

    def _constant(self, value: int) -> SSAValue:
        if value not in self._constants:
            op = arith.ConstantOp(IntegerAttr(value, IndexType()))
            op.result.name_hint = f"c{value}"
            first = self._top.first_op
            if first is None:
                self._top.add_op(op)
            else:
                self._top.insert_op_before(op, first)
            self._constants[value] = op.result
        return self._constants[value]

    # -- ops -----------------------------------------------------------------------------------------------------------

    def emit(self, name: str, operands: Mapping[str, View | None], fields: Mapping[str, Any] | None = None) -> None:
        """`tile.<name>` with views by role (None: absent) and fields."""
        op_class = TILE_OPS[name]
        present = [(role, view, view.pattern()) for role, view in operands.items() if view is not None]
        used: set[int] = set()
        for _, _, pattern in present:
            used |= pattern.variables()
        for value in (fields or {}).values():
            if isinstance(value, Affine):
                used |= {v for v, _ in value.terms}
        order = {variable: position for position, variable in enumerate(sorted(used))}
        packed: list[tuple[str, SSAValue, AccessPattern]] = [
            (role, self._values[view.buffer.key], pattern.rename(order.__getitem__)) for role, view, pattern in present
        ]
        values = {
            key: value.rename(order.__getitem__) if isinstance(value, Affine) else value
            for key, value in (fields or {}).items()
        }
        self._append(op_class.make(packed, [self._loop_values[v] for v in sorted(used)], values))

    def _append(self, op: Operation) -> None:
        op.location = self.location
        self._blocks[-1].add_op(op)

    def load(self, dst: View, src: View) -> None:
        """DRAM to SBUF (cast if the types differ); both list the same elements in the same order."""
        self.emit("load", {"dst": dst, "src": src})

    def store(self, dst: View, src: View) -> None:
        """SBUF to DRAM."""
        self.emit("store", {"dst": dst, "src": src})

    def copy(self, dst: View, src: View) -> None:
        """On-chip copy with cast."""
        self.emit("copy", {"dst": dst, "data": src})

    def memset(self, dst: View, value: float) -> None:
        """dst = value."""
        self.emit("memset", {"dst": dst}, {"value": value})

    def matmul(self, dst: View, stationary: View, moving: View, accumulate: Affine | int) -> None:
        """dst[M, N] (+)= stationary[K, M]^T moving[K, N]; adds where `accumulate` is non-zero."""
        if isinstance(accumulate, int):
            accumulate = Affine(accumulate)
        self.emit("matmul", {"dst": dst, "stationary": stationary, "moving": moving}, {"accumulate": accumulate})

    def transpose(self, dst: View, src: View) -> None:
        """dst[F, P] = src[P, F]^T, SBUF to PSUM, within the array."""
        self.emit("transpose", {"dst": dst, "data": src})

    def activation(
        self,
        dst: View,
        src: View,
        func: str,
        scale: float | View = 1.0,
        bias: View | None = None,
        row_sum: View | None = None,
        alpha: float = 0.0,
    ) -> None:
        """dst = func(src * scale + bias); `row_sum` also receives the sum of dst over each row."""
        column = scale if isinstance(scale, View) else None
        fields: dict[str, Any] = {"func": func, "alpha": alpha}
        if column is None:
            fields["scale"] = scale
        roles = {"dst": dst, "data": src, "bias": bias, "scale_column": column, "sum": row_sum}
        self.emit("activation", roles, fields)

    def tensor_tensor(self, dst: View, a: View, b: View, op: str) -> None:
        """dst = a op b."""
        self.emit("tensor_tensor", {"dst": dst, "data": a, "other": b}, {"op": op})

    def tensor_scalar(
        self,
        dst: View,
        src: View,
        op0: str,
        scalar0: float | View,
        op1: str = "bypass",
        scalar1: float | View = 0.0,
        reverse0: bool = False,
        reverse1: bool = False,
    ) -> None:
        """dst = (src op0 scalar0) op1 scalar1; a scalar is a number or a [P, 1] view."""
        roles: dict[str, View | None] = {"dst": dst, "data": src}
        fields: dict[str, Any] = {"op0": op0, "reverse0": reverse0, "op1": op1, "reverse1": reverse1}
        for number, scalar in enumerate((scalar0, scalar1)):
            if isinstance(scalar, View):
                roles[f"operand{number}"] = scalar
            else:
                fields[f"scalar{number}"] = scalar
        self.emit("tensor_scalar", roles, fields)

    def reduce(self, dst: View, src: View, op: str, axes: int = 1, negate: bool = False) -> None:
        """dst = reduction of the `axes` innermost free dims of src (which are kept unmerged from the others)."""
        self.emit_reduce(dst, src, {"op": op, "negate": negate}, axes)

    def emit_reduce(self, dst: View, src: View, fields: Mapping[str, Any], axes: int) -> None:
        """A reduction, with the kept and the reduced dims merged apart so that `axes` counts merged dims."""
        from neuron_dialects.access import merge_dims

        kept, reduced = merge_dims(src.dims[: len(src.dims) - axes]), merge_dims(src.dims[len(src.dims) - axes :])
        kept = () if kept == ((1, 1),) else kept
        op_class = TILE_OPS["reduce"]
        source = AccessPattern(src.partition, src.partitions, src.offset, (*kept, *reduced))
        target = dst.pattern()
        used = sorted(source.variables() | target.variables())
        order = {variable: position for position, variable in enumerate(used)}
        packed = [
            ("dst", self._values[dst.buffer.key], target.rename(order.__getitem__)),
            ("data", self._values[src.buffer.key], source.rename(order.__getitem__)),
        ]
        values = {**fields, "axes": len(reduced)}
        self._append(op_class.make(packed, [self._loop_values[v] for v in used], values))
