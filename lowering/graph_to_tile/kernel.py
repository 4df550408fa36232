"""What a kernel template sees: the builder, the target and the tensors of the function being lowered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from lowering.graph_to_tile.band_state import BandState
from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_ahead import BlocksAhead
from lowering.graph_to_tile.conv_chain import Chain
from lowering.graph_to_tile.map_sums import MapSums
from lowering.graph_to_tile.row_pairs import RowPairs, clear_rows, new_pairs
from lowering.graph_to_tile.tensors import LANES, DramTensor, RingTensor, SbufTensor, Tensor
from lowering.graph_to_tile.transfers import clear_halo, load_pairs, write_out, write_pairs
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import ConstantOp, DerivedWeightOp, WeightOp, YieldOp, layout_of, spec_of
from neuron_dialects.target import Target
from passes.graph.pieces import SLOTS


class RowProduct(Protocol):
    """A product that was put off, to be emitted for some of its rows at a time."""

    def load(self) -> None:
        """Bring the weights on chip."""
        ...

    def pieces(self, rows: tuple[Affine, int], banks: Callable[[tuple[int, ...]], View]) -> list[Callable[[], None]]:
        """What emits the columns of the rows (start, number), a tile at a time, through PSUM tiles from `banks`."""
        ...

    def fill(self, bank: View, rows: tuple[Affine, int], first: int) -> None:
        """Make columns from `first` on of the rows (start, number) in PSUM, `bank` [rows, columns]."""
        ...


@dataclass
class Kernel:
    """State of one core function: `tensors` maps graph values to where they live.

    `destinations` holds function outputs that a value must end up in (set before lowering starts); `residents` the
    layouts that the layout pass chose for values that stay in SBUF: (partition dimension, halo); `pair_places` the
    halos of those whose rows lie in pairs, and `pairs` where these are, `brought` the last one of each kind that came
    from DRAM, whose memory the next one takes; `inherits` the value whose memory such a value takes; `joined` for what
    lies in the buffer of a concatenation that concatenation and the first channel there, `wholes` these buffers,
    `filled` what was loaded there (buffer, first channel); `rings` for what lies between kernels of a chain the rows of
    a piece, `chain` the one that the kernel at hand belongs to. `program` are all kernels with the `resident_bytes` of
    each, `kept_weights` what stays on chip of weights for several kernels, `bands` what depthwise convolutions by bands
    have there. What is put off: `postponed` products for an attention, of which `value_products` leave rows on
    partitions, and `ahead` convolutions for a depthwise one, by the op that emits them, which `postpones_for`,
    `values_for` and `blocks_for` name while the op at hand is lowered; `scales` are
    the tensors that multiply the weights of a convolution instead of its operand. `summed` are the maps whose sums are
    taken while they leave PSUM, `map_sums` these. `parted_rows`: numbers of rows that products take in several parts,
    all columns of one after the other. `recipes` are the derived weights that kernels
    have added to the module, shared by all of its functions. `resident_bytes` are the SBUF bytes per partition that
    resident tensors take while the op at hand runs. `pins_weights`: what is loaded of weights will stay on chip, so
    that holding more of them at once takes no more room. `without`: choices that are left out.
    """

    b: KernelBuilder
    target: Target
    module: ModuleOp
    tensors: dict[SSAValue, Tensor] = field(default_factory=dict)
    destinations: dict[SSAValue, DramTensor] = field(default_factory=dict)
    residents: dict[SSAValue, tuple[int, tuple[tuple[int, int], ...]]] = field(default_factory=dict)
    pair_places: dict[SSAValue, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    pairs: dict[SSAValue, RowPairs] = field(default_factory=dict)
    brought: dict[object, SSAValue] = field(default_factory=dict)
    inherits: dict[SSAValue, SSAValue] = field(default_factory=dict)
    joined: dict[SSAValue, tuple[SSAValue, int]] = field(default_factory=dict)
    rings: dict[SSAValue, int] = field(default_factory=dict)
    chain: Chain | None = None
    wholes: dict[SSAValue, SbufTensor] = field(default_factory=dict)
    filled: set[tuple[int, int]] = field(default_factory=set)
    kept_weights: dict[tuple[object, ...], Callable[..., View]] = field(default_factory=dict)
    bands: BandState = field(default_factory=BandState)
    program: Sequence[tuple[Operation, int]] = ()
    postponed: dict[Operation, list[RowProduct]] = field(default_factory=dict)
    postpones_for: Operation | None = None
    value_products: dict[Operation, RowProduct] = field(default_factory=dict)
    values_for: Operation | None = None
    ahead: dict[Operation, BlocksAhead] = field(default_factory=dict)
    blocks_for: Operation | None = None
    parted_rows: set[int] = field(default_factory=set)
    scales: dict[Operation, SbufTensor] = field(default_factory=dict)
    summed: set[SSAValue] = field(default_factory=set)
    map_sums: dict[SSAValue, MapSums] = field(default_factory=dict)
    constants: dict[SSAValue, float] = field(default_factory=dict)
    derived: dict[str, DramTensor] = field(default_factory=dict)
    recipes: dict[str, DerivedWeightOp] = field(default_factory=dict)
    resident_bytes: int = 0
    weight_types: dict[str, Attribute] = field(default_factory=dict)
    pins_weights: bool = False
    without: frozenset[str] = frozenset()

    def takes(self, choice: str) -> bool:
        """Whether kernels do what `CHOICES` says of `choice`."""
        return choice not in self.without

    def tensor(self, value: SSAValue) -> Tensor:
        """Where an operand lives; a constant becomes a parameter when a kernel wants it as a tensor.

        What lies in pairs of rows is stored for a kernel that does not know these.
        """
        if value not in self.tensors and value in self.pairs:
            self.tensors[value] = stored = self.scratch(value)
            write_pairs(self.b, self.pairs[value], stored)
        if value not in self.tensors and isinstance(value.owner, ConstantOp):
            self.tensors[value] = self._constant_tensor(value, value.owner)
        return self.tensors[value]

    def _constant_tensor(self, value: SSAValue, constant: ConstantOp) -> DramTensor:
        dtype, shape = spec_of(value)
        if constant.is_splat:
            one = self.derive(f"constant.{constant.array().flat[0]}.{dtype.name}", [], lambda _: _one_element(constant))
            return replace(one, shape=(), strides=()) if not shape else one.broadcast(shape)
        values = constant.array().tobytes().hex()
        return self.derive(f"constant.{values}.{dtype.name}.{shape}", [], lambda _: [constant.clone()])

    def derive(
        self, name: str, symbols: Sequence[str], recipe: Callable[[list[SSAValue]], list[Operation]]
    ) -> DramTensor:
        """The parameter `name`, computed at emission from the weights `symbols` by the graph ops that `recipe` returns.

        `recipe` is given one value per symbol; the last op's result is the parameter. The same name gives the same
        tensor.
        """
        if name in self.derived:
            return self.derived[name]
        if name not in self.recipes:
            self.recipes[name] = self._add_recipe(name, symbols, recipe)
        yielded = self.recipes[name].body.block.last_op
        assert yielded is not None
        dtype, shape = spec_of(yielded.operands[0])
        tensor = DramTensor.dense(self.b.param(name, shape or (1,), dtype.name), shape, name)
        self.derived[name] = tensor
        return tensor

    def _add_recipe(
        self, name: str, symbols: Sequence[str], recipe: Callable[[list[SSAValue]], list[Operation]]
    ) -> DerivedWeightOp:
        weights = [WeightOp(symbol, self.weight_types[symbol]) for symbol in symbols]
        ops = recipe([w.result for w in weights])
        result = ops[-1].results[0]
        assert isinstance(result.type, TensorType)
        op = DerivedWeightOp(name, result.type, Region(Block([*weights, *ops, YieldOp(result)])))
        for made in op.walk():
            made.location = self.b.location
        self.module.body.block.add_op(op)
        return op

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter as a whole, from which another one can be derived."""
        if not isinstance(tensor, DramTensor) or tensor.symbol not in self.weight_types:
            return False
        return tensor.is_dense and tensor.offset == 0 and tensor.shape == tensor.buffer.shape

    def dram(self, value: SSAValue) -> DramTensor:
        """An operand as a DRAM window; a resident one is written out once."""
        tensor = self.tensor(value)
        if isinstance(tensor, DramTensor):
            return tensor
        spilled = self.scratch(value)
        write_out(self.b, tensor, spilled)
        self.tensors[value] = spilled
        return spilled

    def scalar(self, value: SSAValue) -> float | None:
        """The number, where the operand is a constant that holds one number."""
        return self.constants.get(value)

    def scratch(self, value: SSAValue) -> DramTensor:
        """A new DRAM tensor of the value's type."""
        dtype, shape = spec_of(value)
        return DramTensor.dense(self.b.alloc_outer(shape or (1,), dtype.name, "dram"), shape)

    def output(self, value: SSAValue) -> Tensor:
        """Where the kernel must write `value`: a function output, a resident buffer, or DRAM scratch. Registers it."""
        if value in self.destinations:
            tensor: Tensor = self.destinations[value]
        elif value in self.pair_places:
            dtype, shape = spec_of(value)
            self.pairs[value] = new_pairs(self.b, shape, self.pair_places[value], dtype.name)
            clear_halo(self.b, self.pairs[value].tensor)
            return self.pairs[value].tensor
        elif value in self.residents and value in self.joined:
            tensor = self.part_of_whole(value)
        elif value in self.rings:
            tensor = self._ring(value)
        elif value in self.residents:
            partition, halo = self.residents[value]
            dtype, shape = spec_of(value)
            inherited = self.tensors.get(self.inherits[value]) if value in self.inherits else None
            if isinstance(inherited, SbufTensor) and inherited.partition == partition:
                self.tensors[value] = inherited
                return inherited
            buffer = self.b.alloc_outer(SbufTensor.buffer_shape(shape, partition, halo), dtype.name, "sbuf")
            tensor = SbufTensor(buffer, shape, partition, halo)
            clear_halo(self.b, tensor)
        else:
            tensor = self.scratch(value)
        self.tensors[value] = tensor
        return tensor

    def _ring(self, value: SSAValue) -> RingTensor:
        """A place for the last pieces of `value`."""
        dtype, (images, channels, rows, columns) = spec_of(value)
        shape = SbufTensor.buffer_shape((SLOTS, channels, self.rings[value], columns), 1)
        buffer = self.b.alloc_outer(shape, dtype.name, "sbuf")
        return RingTensor(buffer, (images, channels, rows, columns), 1, piece_rows=self.rings[value])

    def part_of_whole(self, value: SSAValue) -> SbufTensor:
        """The place of `value` in the buffer of its concatenation."""
        whole, first = self.joined[value]
        if whole not in self.wholes:
            layout = layout_of(whole)
            assert layout is not None
            dtype, shape = spec_of(whole)
            partition, halo = layout.partition_dimension, layout.halo_pairs
            buffer = self.b.alloc_outer(SbufTensor.buffer_shape(shape, partition, halo), dtype.name, "sbuf")
            self.wholes[whole] = SbufTensor(buffer, shape, partition, halo)
            clear_halo(self.b, self.wholes[whole])
        tensor, shape = self.wholes[whole], spec_of(value)[1]
        part = replace(tensor, shape=shape, first_tile=first // LANES, first_lane=first % LANES)
        return part if tensor.shape[2:] == shape[2:] else part.seen_as(shape, tensor.partition)

    def alias(self, value: SSAValue, tensor: Tensor) -> None:
        """`value` is another window on memory that exists."""
        self.tensors[value] = tensor

    def hand_place(self, value: SSAValue, instead: SSAValue) -> None:
        """What was decided about the place of `value` goes for `instead`, which takes its part."""
        _hand(self.residents, value, instead)
        _hand(self.pair_places, value, instead)
        _hand(self.destinations, value, instead)
        _hand(self.inherits, value, instead)
        _hand(self.joined, value, instead)
        _hand(self.rings, value, instead)

    @property
    def row_budget_elements(self) -> int:
        """Elements per partition of one fp32 tile of a sweep: about a twelfth of the usable SBUF."""
        return int(self.target.sbuf_bytes_per_partition) // 12 // 4


def _hand(table: dict[SSAValue, Any], value: SSAValue, instead: SSAValue) -> None:
    if value in table:
        table[instead] = table.pop(value)


def _one_element(constant: ConstantOp) -> list[Operation]:
    """A one-element constant with the splat's value."""
    dtype, _ = spec_of(constant.result)
    return [ConstantOp(constant.array().flat[0], dtype, (1,))]


def relayout_pairs(k: Kernel, x: SSAValue, result: SSAValue) -> bool:
    """Bring a tensor into pairs of rows or, where it has them, to its place in DRAM; False where it needs neither."""
    if result in k.pair_places:
        kind = (spec_of(result), k.pair_places[result])
        before = k.brought.get(kind)
        if before is not None and all(_is_lowered(k, use.operation) for use in before.uses):
            k.pairs[result] = k.pairs[before]
        else:
            k.output(result)
            clear_rows(k.b, k.pairs[result])
        k.brought[kind] = result
        load_pairs(k.b, k.dram(x), k.pairs[result])
        return True
    if x in k.pairs and result in k.destinations:
        output = k.output(result)
        assert isinstance(output, DramTensor)
        write_pairs(k.b, k.pairs[x], output)
        return True
    return False


def _is_lowered(k: Kernel, op: Operation) -> bool:
    """Whether the kernel of an op has been emitted: its results have places then."""
    return bool(op.results) and all(result in k.tensors or result in k.pairs for result in op.results)
