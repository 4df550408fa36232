"""Kernel of layer normalisation over trailing dimensions.

Mean and variance come from the vector engine's statistics instruction, which looks at 512 elements at a time and is
numerically safe; the parts are aggregated per row. Scale and bias are brought on chip once, repeated over the
partitions. Rows too long for SBUF are read twice: for their statistics, and to be normalised.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.iteration import Access, Piece, Shape, Space
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pointwise import require_supported
from lowering.graph_to_tile.row_space import RowSpace, agreed_lane, dram_rows, each_row, resident_rows
from lowering.graph_to_tile.softmax import one_row, whole_access
from lowering.graph_to_tile.spread_rows import is_spread, spread_rows
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine, merge_dims
from neuron_dialects.dtypes import F32, dtype_by_name
from neuron_dialects.graph import LayerNormOp, shape_of, spec_of
from passes.graph.kernel_layouts import FEATURES, SHORT_ROW, normalises_turned

STATISTICS_ELEMENTS = 512
"""Most elements of one statistics instruction."""

GROUP_ELEMENTS = 1536
"""Elements of the rows that a lane works on together where they lie on chip."""

SHORT_LOADED_ROW = 512
"""The longest rows in DRAM that are grouped so, as `SHORT_ROW` are on chip: an instruction on a short row takes less
time than its result needs to be there for the next one, a transfer of 128 short rows less than starting it."""

ROW_SHARE = 0.5
"""Part of the SBUF beside resident tensors that whole rows may take."""

STATISTICS_SIZE = 6
"""Values that it leaves: count, mean and sum of squares, of the even and of the odd elements."""


def lower_layer_norm(k: Kernel, op: LayerNormOp) -> None:
    """Lower `graph.layer_norm`."""
    require_supported(op)
    shape, first = shape_of(op.x), op.axis.value.data
    if 0 in shape:
        k.output(op.result)
        return
    axes = range(first, len(shape))
    given = {name: value for name, value in (("scale", op.scale), ("bias", op.bias)) if value is not None}
    parameters = {name: k.dram(value) for name, value in given.items()}
    walks = {name: (0,) * first + tensor.strides for name, tensor in parameters.items()}
    turned = _turned_rows(k, op)
    lane = 0 if turned is not None else agreed_lane(k, op.x, op.result, axes, range(len(shape)))
    out, grouped = k.output(op.result), None
    if lane is None:
        x = k.dram(op.x)
        assert isinstance(out, DramTensor)
        tensors = [(x, x.strides), (out, out.strides)]
        rows = dram_rows(k, shape, axes, [*tensors, *((parameters[name], walk) for name, walk in walks.items())])
    elif (grouped := _grouped_rows(shape, lane, [turned or k.tensor(op.x), out])) is not None:
        split, accesses = grouped
        accesses += [Access.dram(parameters[name], split, (0, *walk)) for name, walk in walks.items()]
        rows = resident_rows(split, (2,), 1, accesses)
    else:
        accesses = [whole_access(tensor, shape) for tensor in (k.tensor(op.x), out)]
        accesses += [Access.dram(parameters[name], shape, walk) for name, walk in walks.items()]
        rows = resident_rows(shape, axes, lane, accesses)
    norm = _LayerNorm(Emitter(k.b, k.target), rows, list(given), op.epsilon.value.data, uncentred=bool(op.uncentred))
    windows = {name: tensor.broadcast((prod(shape[:first]), *shape[first:])) for name, tensor in parameters.items()}
    chosen = {name: window for name, window in windows.items() if len(rows.reduced) == 1 and is_spread(k, window)}
    limit = k.row_budget_elements
    room = int(ROW_SHARE * (int(k.target.sbuf_bytes_per_partition) - k.resident_bytes))
    if rows.row_length * norm.element_bytes(chosen) <= room:
        limit = max(limit, rows.row_length)
    chunks = rows.chunks(limit if grouped is None else GROUP_ELEMENTS if turned is None else turned.bank_elements)
    if chunks is None:
        norm.long_rows(limit)
        return
    norm.whole_rows(chunks, {name: spread_rows(k, window, window.shape[0]) for name, window in chosen.items()})


@dataclass(frozen=True)
class _TurnedRows(Access):
    """A matrix on chip with features on partitions, seen as [tiles, 128, features]: tiles of its rows are turned, and
    stay in PSUM, where engines read them as well as in SBUF.

    `bank_elements`: how many a bank takes of a lane; `columns`: of the array that turns.
    """

    bank_elements: int
    columns: int

    def load(self, b: KernelBuilder, space: Space, piece: Piece, dtype: str | None, copies: int) -> View:
        """[128, tiles, features]."""
        assert isinstance(self.tensor, SbufTensor)
        start, count = piece.get(0, (Affine(), space.shape[0]))
        features = self.tensor.shape[FEATURES]
        turned = b.alloc((LANES, count, features), self.tensor.dtype, "psum", 2, "turned").view()
        with b.loop(count) as i:
            rows = (start + i) * LANES
            for number, low in enumerate(range(0, features, LANES)):
                size = min(LANES, features - low)
                block = self.tensor.whole.slice(0, 0, size).at(1, number)
                for lane in range(0, LANES, self.columns):
                    part = turned.at(1, i).slice(0, lane, self.columns).slice(1, low, size)
                    b.transpose(part, block.slice(1, rows + lane, self.columns))
        return turned


def _turned_rows(k: Kernel, op: LayerNormOp) -> _TurnedRows | None:
    """The operand, where it is a matrix on chip with features on partitions that can be turned as it is read."""
    tensor, out = k.tensor(op.x), k.residents.get(op.result, (0, ()))
    if not isinstance(tensor, SbufTensor) or tensor.partition != FEATURES or tensor.halo or tensor.first_lane:
        return None
    if out != (0, ()) or not any(normalises_turned(tensor.shape, spec_of(op.x)[0], use) for use in op.x.uses):
        return None
    elements = int(k.target.psum_bank_bytes) // dtype_by_name(tensor.dtype).size_bytes
    return _TurnedRows(tensor, (0, 1, 2), elements, min(LANES, int(k.target.pe_columns)))


def _grouped_rows(
    shape: Sequence[int], lane: int, tensors: Sequence[Tensor | _TurnedRows]
) -> tuple[Shape, list[Access]] | None:
    """A matrix of short rows, on chip as tiles of 128, as [tiles, 128, elements], for a lane to work on several rows.

    None where it is anything else.
    """
    most = SHORT_LOADED_ROW if isinstance(tensors[0], DramTensor) else SHORT_ROW
    if len(shape) != 2 or lane != 0 or shape[1] > most or shape[0] % LANES or shape[0] == LANES:
        return None
    split = (shape[0] // LANES, LANES, shape[1])
    seen = [_split_rows(tensor, split) for tensor in tensors]
    return None if None in seen else (split, [access for access in seen if access is not None])


def _split_rows(tensor: Tensor | _TurnedRows, shape: Shape) -> Access | None:
    """A matrix [tiles * 128, elements] as [tiles, 128, elements]."""
    if isinstance(tensor, _TurnedRows):
        return tensor
    if isinstance(tensor, DramTensor):
        window = tensor.reshape(shape)
        return None if window is None else whole_access(window, shape)
    if tensor.halo or tensor.first_lane or tensor.first_tile or tensor.buffer.shape[1] != shape[0]:
        return None
    # Tiles lie behind each other in a lane, as do positions of a dimension that is not on the partitions.
    buffer = replace(tensor.buffer, shape=(LANES, 1, shape[0], shape[2]))
    return whole_access(SbufTensor(buffer, tuple(shape), 1), shape)


class _LayerNorm:
    """Emits one layer normalisation. Accesses of `rows`: x, the result, then the parameters called `names`."""

    def __init__(self, e: Emitter, rows: RowSpace, names: list[str], epsilon: float, *, uncentred: bool):
        self.e = e
        self.uncentred = uncentred
        self.b = e.b
        self.rows = rows
        self.epsilon = epsilon
        self.x, self.out, *parameters = rows.accesses
        self.parameters = dict(zip(names, parameters, strict=True))

    def element_bytes(self, repeated: Collection[str]) -> int:
        """Bytes of a partition that each element of a row takes beside resident tensors and `repeated` parameters."""
        loaded = [self.x, *(access for name, access in self.parameters.items() if name not in repeated)]
        tensors = [access.tensor for access in (*loaded, self.out) if isinstance(access.tensor, DramTensor)]
        moved = sum(dtype_by_name(tensor.dtype).size_bytes for tensor in tensors) * self.b.rotation
        return moved + (F32.size_bytes if self.parameters else 0)

    def whole_rows(self, chunks: list[int], repeated: Mapping[str, View]) -> None:
        """Rows that fit SBUF, several per lane. `repeated`: parameters that are there, the same on all lanes."""
        rows, b = self.rows, self.b
        kept = len(rows.kept)

        def body(piece: Piece, views: dict[str, View]) -> None:
            view, commit = self.out.store(b, rows.space, piece, b.rotation)
            dst, x = rows.arranged(view), views["x"]
            moments = self._moments(piece)
            parts = -(-rows.row_length // STATISTICS_ELEMENTS)
            shape = (*rows.row_shape(piece), STATISTICS_SIZE * parts)
            statistics = b.alloc(shape, "f32", "sbuf", b.rotation).view()
            each_row(b, kept, [x, statistics], lambda v: self._statistics(v[1], v[0]))
            each_row(b, kept, [moments, statistics], lambda v: self._aggregate(v[0], v[1]))
            mean, scale = moments.at(1 + kept, 0), moments.at(1 + kept, 1)
            self._prepare_moments(mean, scale)
            target = self._target(dst)
            for name, row in repeated.items():
                views[name] = row.slice(0, 0, dst.partitions)
                for size in reversed(dst.shape[1 : 1 + kept]):
                    views[name] = views[name].insert(0, size)
            operands = [dst, target, x, mean, scale, *(views[name] for name in self.parameters)]
            each_row(b, kept, operands, self._normalize)
            commit()

        loaded = {name: access for name, access in self.parameters.items() if name not in repeated}
        rows.each_piece(b, chunks, {"x": self.x, **loaded}, body)

    def long_rows(self, limit: int) -> None:
        """Rows that do not fit SBUF, one per lane."""
        rows, b = self.rows, self.b

        def row(piece: Piece) -> None:
            moments = one_row(self._moments(piece))
            self._long_moments(moments, piece, limit)
            mean, scale = moments.at(1, 0), moments.at(1, 1)
            self._prepare_moments(mean, scale)

            def chunk(part: Piece) -> None:
                views = {name: rows.load(b, access, part) for name, access in self.parameters.items()}
                x = rows.load(b, self.x, part)
                view, commit = self.out.store(b, rows.space, part, b.rotation)
                dst = rows.arranged(view)
                self._normalize([dst, self._target(dst), x, mean, scale, *views.values()])
                commit()

            rows.each_chunk(b, piece, limit, chunk)

        rows.each_long_row(b, row)

    # -- statistics
    # -------------------------------------------------------------------------------------------------------

    def _moments(self, piece: Piece) -> View:
        """A new [lanes, kept, 2] tile for mean and variance."""
        return self.b.alloc((*self.rows.row_shape(piece), 2), "f32", "sbuf", self.b.rotation).view()

    def _row_moments(self, moments: View, x: View) -> None:
        """moments [lanes, 2] = mean and variance of x [lanes, row]."""
        b, length = self.b, x.free_elements
        parts = -(-length // STATISTICS_ELEMENTS)
        statistics = b.alloc((x.partitions, STATISTICS_SIZE * parts), "f32", "sbuf", b.rotation).view()
        self._statistics(statistics, x)
        self._aggregate(moments, statistics)

    def _aggregate(self, moments: View, statistics: View) -> None:
        """moments [lanes, 2] = mean and variance of rows with such statistics."""
        self.b.emit("bn_aggregate", {"dst": moments, "data": statistics})

    def _long_moments(self, moments: View, piece: Piece, limit: int) -> None:
        """The same for a row in DRAM, chunk by chunk; each chunk's statistics are aggregated to one triple."""
        b, rows, lanes = self.b, self.rows, moments.partitions
        mean, variance, count = (b.alloc((lanes, 1), "f32", "sbuf", b.rotation).view() for _ in range(3))
        for column in (mean, variance, count):
            b.memset(column, 0.0)

        def chunk(part: Piece) -> None:
            x = one_row(rows.load(b, self.x, part))
            fresh = b.alloc((lanes, 2), "f32", "sbuf", b.rotation).view()
            self._row_moments(fresh, x)
            # Two triples (count, mean, M2), of the row so far and of this chunk, where M2 is variance times count.
            pair = b.alloc((lanes, 2, 3), "f32", "sbuf", b.rotation).view()
            size = float(x.free_elements)
            b.copy(pair.at(1, 0).slice(1, 0, 1), count)
            b.copy(pair.at(1, 0).slice(1, 1, 1), mean)
            self.e.tensors(pair.at(1, 0).slice(1, 2, 1), variance, count, "multiply")
            b.memset(pair.at(1, 1).slice(1, 0, 1), size)
            b.copy(pair.at(1, 1).slice(1, 1, 1), fresh.slice(1, 0, 1))
            self.e.scalar(pair.at(1, 1).slice(1, 2, 1), fresh.slice(1, 1, 1), "multiply", size)
            merged = b.alloc((lanes, 2), "f32", "sbuf", b.rotation).view()
            b.emit("bn_aggregate", {"dst": merged, "data": pair})
            b.copy(mean, merged.slice(1, 0, 1))
            b.copy(variance, merged.slice(1, 1, 1))
            self.e.scalar(count, count, "add", size)

        rows.each_chunk(b, piece, limit, chunk)
        b.copy(moments.slice(1, 0, 1), mean)
        b.copy(moments.slice(1, 1, 1), variance)

    def _statistics(self, statistics: View, x: View) -> None:
        """Statistics of x [lanes, row] in parts of 512 elements, six values each."""
        b = self.b
        if len(merge_dims(x.dims)) > 1:
            dense = self.e.temp(x, x.dtype)
            b.copy(dense, x)
            x = dense
        x = x.flat()
        full, rest = divmod(x.free_elements, STATISTICS_ELEMENTS)
        if full:
            with b.loop(full) as i:
                self._part(statistics, i * STATISTICS_SIZE, x.slice(1, i * STATISTICS_ELEMENTS, STATISTICS_ELEMENTS))
        if rest:
            self._part(statistics, Affine(full * STATISTICS_SIZE), x.slice(1, full * STATISTICS_ELEMENTS, rest))

    def _part(self, statistics: View, place: Affine, x: View) -> None:
        self.b.emit("bn_stats", {"dst": statistics.slice(1, place, STATISTICS_SIZE), "data": x})

    # -- normalising
    # ------------------------------------------------------------------------------------------------------

    def _prepare_moments(self, mean: View, variance: View) -> None:
        """variance = 1 / sqrt(variance + epsilon), in place.

        Uncentred, the mean of squares takes the place of the variance.

        Without parameters also mean = -mean * that, so that one activation normalises. Then the vector engine, whose
        next statistics wait for nothing, does not wait for the scalar engine's root either.
        """
        e, row = self.e, mean.free_elements == 1
        if self.uncentred:
            e.tensors(mean, mean, mean, "multiply")
            e.scalar_tensor(variance, mean, "add", self.epsilon, "add", variance)
            e.function(variance, variance, "rsqrt")
            return
        e.scalar(variance, variance, "add", self.epsilon)
        if self.parameters:
            e.function(variance, variance, "rsqrt")
        elif row:
            e.scalar(mean, mean, "multiply", -1.0)
            e.function(variance, variance, "rsqrt")
            e.function(mean, mean, "copy", variance)
        else:
            e.function(variance, variance, "rsqrt")
            e.scalar_tensor(mean, mean, "multiply", -1.0, "multiply", variance)

    def _target(self, dst: View) -> View:
        """Where a value that is not finished goes: dst itself where that does not round it, or there is none."""
        return dst if dst.dtype == "f32" or not self.parameters else self.e.temp(dst)

    def _normalize(self, views: Sequence[View]) -> None:
        """dst = (x - mean) * inverse deviation * scale + bias with the parameters that there are.

        `views`: dst, a tile for the unfinished value, x, mean, inverse deviation, and the parameters in order; mean
        and deviation as `_prepare_moments` leaves them.
        """
        dst, target, x, mean, deviation, *parameters = views
        given = dict(zip(self.parameters, parameters, strict=True))
        bias = given.get("bias")
        if self.uncentred:
            self._scale(dst, target if bias is not None else dst, x, deviation, given)
            return
        if "scale" in given:
            self.e.scalar_tensor(target, x, "subtract", mean, "multiply", given["scale"])
        elif bias is not None:
            self.e.scalar(target, x, "subtract", mean)
        if bias is not None:
            self.e.scalar_tensor(dst, target, "multiply", deviation, "add", bias)
        elif "scale" in given:
            self.e.scalar(dst, target, "multiply", deviation)
        else:
            self.e.function(dst, x, "copy", deviation, mean)

    def _scale(self, dst: View, target: View, x: View, deviation: View, given: Mapping[str, View]) -> None:
        """dst = x * inverse deviation * scale + bias, by way of `target` where there is a bias."""
        if "scale" in given:
            self.e.scalar_tensor(target, x, "multiply", deviation, "multiply", given["scale"])
            if "bias" in given:
                self.e.tensors(dst, target, given["bias"], "add")
        elif "bias" in given:
            self.e.scalar_tensor(dst, x, "multiply", deviation, "add", given["bias"])
        else:
            self.e.function(dst, x, "copy", deviation)
