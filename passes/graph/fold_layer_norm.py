"""`graph-fold-layer-norm`: scale and bias of a layer normalisation become part of the layers that read it.

Given graph-level functions, leaves normalisations whose readers are products with weights without parameters of their
own: the scale multiplies the rows of the weights, the bias adds to the layers' biases, both when weights are laid out.
Rows may be moved on the way, as reshapes, rolls and windows do, or turned to images [N, C, H, W] for convolutions
without padding. What else reads the result (the residual of a block
that normalises last) gets scale and bias as elementwise operators of its own, which then wait until they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConstantOp,
    ConvOp,
    LayerNormOp,
    MatMulOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    TransposeOp,
    WeightOp,
    ints,
    shape_of,
    spec_of,
)
from passes.graph.channels_first import channels_first
from passes.graph.row_moves import moves_rows


@dataclass(frozen=True)
class GraphFoldLayerNormPass(ModulePass):
    """Move the parameters of layer normalisations into the weights behind them.

        %0 = graph.layer_norm %x scale %s bias %c axis 1 epsilon 1e-05
        %1 = graph.matmul %0, %w
        %2 = graph.binary add %1, %b

    becomes, in terms of weights that `graph-fold-weights` makes recipes of,

        %0 = graph.layer_norm %x axis 1 epsilon 1e-05
        %1 = graph.matmul %0, (%s * %w)
        %2 = graph.binary add %1, (%b + %c . %w)
    """

    name = "graph-fold-layer-norm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fold in every function."""
        for function in op.ops:
            if isinstance(function, FuncOp):
                for block in function.body.blocks:
                    for norm in [child for child in block.ops if isinstance(child, LayerNormOp)]:
                        _Folder(block, norm).run()


def is_known(value: SSAValue) -> bool:
    """Whether a value is a weight or a constant."""
    return isinstance(value.owner, WeightOp | ConstantOp)


def readers_of(value: SSAValue) -> list[Operation]:
    """The ops that read a value, each once."""
    return list(dict.fromkeys(use.operation for use in value.uses))


def is_multiplied(product: MatMulOp, x: SSAValue) -> bool:
    """Whether a product multiplies the rows of `x` with a matrix of weights."""
    if product.a is not x or product.b is x:
        return False
    return is_known(product.b) and len(shape_of(product.b)) == 2 and not product.transpose_a


def is_convolved(conv: ConvOp, x: SSAValue) -> bool:
    """Whether a convolution sums over all channels of `x` with weights, and adds known numbers at most."""
    if conv.x is not x or not is_known(conv.w) or conv.groups.value.data != 1:
        return False
    return conv.bias is None or is_known(conv.bias)


class _Folder:
    """Folds one normalisation."""

    def __init__(self, block: Block, norm: LayerNormOp) -> None:
        self.block, self.norm = block, norm
        self.scale, self.bias = norm.scale, norm.bias

    def run(self) -> None:
        """Rewrite the readers, if there are products among them."""
        norm, rank = self.norm, len(shape_of(self.norm.result))
        given = [value for value in (self.scale, self.bias) if value is not None]
        users = readers_of(norm.result)
        chains = {user: moved for user in users if (moved := self._moved_to_products(user))}
        if len(chains) + sum(isinstance(user, MatMulOp) for user in users) < len(users):
            # A few rows that are taken out of what others read are not worth operators for these.
            chains = {user: moved for user, moved in chains.items() if all(isinstance(op, ReshapeOp) for op in moved)}
        multiplied = list(dict.fromkeys([norm.result, *(op.results[0] for moved in chains.values() for op in moved)]))
        images = self._convolved(users)
        products = [
            (user, x)
            for x in multiplied
            for user in readers_of(x)
            if isinstance(user, MatMulOp) and is_multiplied(user, x)
        ]
        if (
            not given
            or not (products or images)
            or norm.axis.value.data != rank - 1
            or spec_of(norm.result)[0] is not F32
        ):
            return
        direct = [user for user, x in products if x is norm.result]
        others = [user for user in users if user not in chains and user not in direct and user not in images]
        readers = [*users, *(user for user, _ in products), *(conv for convs in images.values() for conv in convs)]
        if not all(is_known(value) for value in given) or any(
            user.parent_block() is not self.block for user in readers
        ):
            return
        epsilon, uncentred = norm.epsilon.value.data, bool(norm.uncentred)
        bare = LayerNormOp(norm.x, axis=norm.axis.value.data, epsilon=epsilon, uncentred=uncentred)
        bare.location = norm.location
        bare.result.name_hint = norm.result.name_hint
        self.block.insert_op_before(bare, norm)
        for user in (*chains, *images):
            user.operands[0] = bare.result
        for conv in (conv for convs in images.values() for conv in convs):
            self._fold_conv(conv)
        for product, x in products:
            self._fold(product, bare.result if x is norm.result else x)
        if others:
            self._rescale(sorted(others, key=lambda op: self.block.get_operation_index(op)), bare.result)
        self.block.erase_op(norm)

    def _moved_to_products(self, user: Operation) -> list[Operation]:
        """The operators that move rows of the result, from `user` on, if all that reads theirs are products of it with
        weights; they keep the features. None of them otherwise.
        """
        moved, pending = dict[Operation, None](), [user]
        while pending:
            op = pending.pop()
            if op in moved:
                continue
            if not moves_rows(op) or (op is not user and self.norm.result in op.operands):
                return []
            moved[op] = None
            readers = readers_of(op.results[0])
            if not readers or op.parent_block() is not self.block:
                return []
            pending += [
                reader
                for reader in readers
                if not (isinstance(reader, MatMulOp) and is_multiplied(reader, op.results[0]))
            ]
        known = {self.norm.result, *(op.results[0] for op in moved)}
        return list(moved) if all(x in known for op in moved for x in op.operands) else []

    def _convolved(self, users: list[Operation]) -> dict[Operation, list[ConvOp]]:
        """What turns the result to images that only convolutions with weights read, with these.

        Of a bias nothing would be in a border of zeros.
        """
        found: dict[Operation, list[ConvOp]] = {}
        for user in users:
            if isinstance(user, TransposeOp) and ints(user.permutation) == channels_first(len(shape_of(user.x))):
                readers = readers_of(user.result)
                convs = [op for op in readers if isinstance(op, ConvOp) and is_convolved(op, user.result)]
                bordered = self.bias is not None and any(any(ints(conv.pads)) for conv in convs)
                if convs and len(convs) == len(readers) and not bordered:
                    found[user] = convs
        return found

    def _fold_conv(self, conv: ConvOp) -> None:
        """Make a convolution of images of the result one of images of the bare result."""
        weights, (outputs, features, *window) = conv.w, shape_of(conv.w)
        bias = conv.bias
        if self.bias is not None:
            taps = tuple(range(2, 2 + len(window)))
            summed = self._add(ReduceOp(ReduceKind.SUM, weights, axes=taps, keep_dims=False), conv)
            row = self._add(ReshapeOp(self.bias, (1, features)), conv)
            shift = self._add(ReshapeOp(self._add(MatMulOp(row, summed, transpose_b=True), conv), (outputs,)), conv)
            bias = shift if bias is None else self._add(BinaryOp(BinaryKind.ADD, bias, shift), conv)
        if self.scale is not None:
            column = self._add(ReshapeOp(self.scale, (1, features, *(1 for _ in window))), conv)
            weights = self._add(BinaryOp(BinaryKind.MUL, weights, column), conv)
        conv.operands = [conv.x, weights] if bias is None else [conv.x, weights, bias]

    def _add(self, op: Operation, before: Operation) -> SSAValue:
        op.location = before.location
        self.block.insert_op_before(op, before)
        return op.results[0]

    def _fold(self, product: MatMulOp, x: SSAValue) -> None:
        """Make a product read the bare result."""
        features, turned = shape_of(self.norm.result)[-1], bool(product.transpose_b)
        weights = product.b
        if self.bias is not None:
            self._shift(product, weights, turned)
        if self.scale is not None:
            column = self._add(ReshapeOp(self.scale, (1, features) if turned else (features, 1)), product)
            product.operands[1] = self._add(BinaryOp(BinaryKind.MUL, weights, column), product)
        product.operands[0] = x

    def _shift(self, product: MatMulOp, weights: SSAValue, turned: bool) -> None:
        """Add what the bias of the normalisation comes to behind the product."""
        assert self.bias is not None
        row = self._add(ReshapeOp(self.bias, (1, shape_of(self.bias)[0])), product)
        shift = self._add(MatMulOp(row, weights, transpose_b=turned), product)
        shift = self._add(ReshapeOp(shift, shape_of(shift)[1:]), product)
        uses = list(product.result.uses)
        user = uses[0].operation
        if len(uses) == 1 and isinstance(user, BinaryOp) and user.kind.data is BinaryKind.ADD:
            other = 1 - uses[0].index
            if is_known(user.operands[other]) and shape_of(user.operands[other]) == shape_of(shift):
                # The layer's own bias may be defined behind the product.
                user.operands[other] = self._add(BinaryOp(BinaryKind.ADD, user.operands[other], shift), user)
                return
        shifted = BinaryOp(BinaryKind.ADD, product.result, shift)
        shifted.location = product.location
        self.block.insert_op_after(shifted, product)
        product.result.replace_uses_with_if(shifted.result, lambda use: use.operation is not shifted)

    def _rescale(self, users: list[Operation], x: SSAValue) -> None:
        """Scale and bias for the readers that are no products, in front of the first of them."""
        value, first = x, users[0]
        if self.scale is not None:
            value = self._add(BinaryOp(BinaryKind.MUL, value, self.scale), first)
        bias = self.bias
        if bias is not None and len(users) == 1 and (sum_ := self._biased_sum(first, bias)) is not None:
            # (p + c) + (x + bias)  ->  (p + x) + (c + bias)
            inner, number = sum_
            p, c = inner.operands[number], inner.operands[1 - number]
            total = self._add(BinaryOp(BinaryKind.ADD, p, value), first)
            constant = self._add(BinaryOp(BinaryKind.ADD, c, bias), first)
            result = self._add(BinaryOp(BinaryKind.ADD, total, constant), first)
            result.name_hint = first.results[0].name_hint
            first.results[0].replace_all_uses_with(result)
            self.block.erase_op(first)
            self.block.erase_op(inner)
            return
        if bias is not None:
            value = self._add(BinaryOp(BinaryKind.ADD, value, bias), first)
        self.norm.result.replace_all_uses_with(value)

    def _biased_sum(self, user: Operation, bias: SSAValue) -> tuple[BinaryOp, int] | None:
        """The p + c of a reader (p + c) + result, with a known c of the shape of the bias, and where p stands."""
        if not isinstance(user, BinaryOp) or user.kind.data is not BinaryKind.ADD:
            return None
        inner = (user.b if user.a is self.norm.result else user.a).owner
        if not isinstance(inner, BinaryOp) or inner.kind.data is not BinaryKind.ADD:
            return None
        if not inner.result.has_one_use() or shape_of(inner.result) != shape_of(user.result):
            return None
        for number in (0, 1):
            p, c = inner.operands[number], inner.operands[1 - number]
            if is_known(c) and shape_of(c) == shape_of(bias) and shape_of(p) == shape_of(inner.result):
                return inner, number
        return None
