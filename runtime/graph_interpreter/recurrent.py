"""What recurrent layers compute: one step of a cell after the other, vectorised over hidden units and the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from neuron_dialects.dtypes import DType
from neuron_dialects.graph import CellKind, GateFunction, GateFunctionAttr, RecurrentOp, UnaryKind, ints, spec_of
from runtime.graph_interpreter.elementwise import unary_values
from runtime.graph_interpreter.numerics import Array, rounded, widened

Function = Callable[[Array], Array]


def recurrent(op: RecurrentOp, gates: Array, r: Array, *optional: Array) -> tuple[Array, ...]:
    """`graph.recurrent`: y, the final h and, for lstm, the final c."""
    given = dict(zip(op.optional, optional, strict=True))
    dtype = spec_of(op.y)[0]
    gates = widened(gates)
    values: dict[str, Array] = {name: widened(array) for name, array in given.items()}
    state = np.zeros(spec_of(op.final_h)[1], gates.dtype)
    y, finals = np.zeros(spec_of(op.y)[1], gates.dtype), ([], []) if op.final_c is not None else ([],)
    for d, is_reversed in enumerate(ints(op.reversed)):
        here = {name: array if name == "mask" else array[d] for name, array in values.items()}
        cell = _Cell(op, d, widened(r[d]), spec_of(op.r)[0], here.get("peepholes"), here.get("recurrent_bias"))
        h, c = here.get("initial_h", state[d]), here.get("initial_c", state[d])
        steps = range(gates.shape[2])
        for t in reversed(steps) if is_reversed else steps:
            new_h, new_c = cell.step(gates[d, :, t], h, c)
            if "mask" in here:
                active = here["mask"][t]
                y[d, :, t] = np.where(active, new_h, 0)
                h, c = np.where(active, new_h, h), np.where(active, new_c, c)
            else:
                y[d, :, t] = h = new_h
                c = new_c
        for final, last in zip(finals, (h, c), strict=False):
            final.append(last)
    return tuple(rounded(array, dtype) for array in (y, *(np.stack(final) for final in finals)))


def gate_function(function: GateFunctionAttr) -> Function:
    """The function of a gate."""
    alpha, beta = function.numbers
    match function.function:
        case GateFunction.AFFINE:
            return lambda x: alpha * x + beta
        case GateFunction.SCALED_TANH:
            return lambda x: alpha * np.tanh(beta * x)
        case kind:
            return lambda x: unary_values(UnaryKind(kind.value), x, alpha, beta)


@dataclass
class _Cell:
    """One direction of a layer. `r`: [G*H, H], wide; `multiplied`: the type that h is rounded to for the product."""

    op: RecurrentOp
    direction: int
    r: Array
    multiplied: DType
    peepholes: Array | None
    recurrent_bias: Array | None

    def __post_init__(self) -> None:
        self.functions = [gate_function(function) for function in self.op.functions_of(self.direction)]
        self.clip = self.op.clip.value.data if self.op.clip is not None else None

    def step(self, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """h and c [H, B] after a step whose gates [G*H, B] have not seen h yet."""
        match self.op.cell.data:
            case CellKind.LSTM:
                return self._lstm(gates + self._product(self.r, h), c)
            case CellKind.GRU:
                return self._gru(gates, h), c
            case CellKind.RNN:
                return self.functions[0](self._clipped(gates + self._product(self.r, h))), c

    def _product(self, r: Array, h: Array) -> Array:
        return r @ widened(rounded(h, self.multiplied))

    def _clipped(self, x: Array) -> Array:
        return x if self.clip is None else np.clip(x, -self.clip, self.clip)

    def _lstm(self, sums: Array, c: Array) -> tuple[Array, Array]:
        i, o, f, g = np.split(sums, 4)
        peephole_i, peephole_o, peephole_f = self._peephole_columns()
        gate, cell, output = self.functions
        i = gate(self._clipped(i + peephole_i * c))
        f = 1 - i if self.op.input_forget else gate(self._clipped(f + peephole_f * c))
        c = f * c + i * cell(self._clipped(g))
        o = gate(self._clipped(o + peephole_o * c))
        return o * output(c), c

    def _peephole_columns(self) -> Sequence[Array | float]:
        return (0.0, 0.0, 0.0) if self.peepholes is None else np.split(self.peepholes[:, None], 3)

    def _gru(self, gates: Array, h: Array) -> Array:
        gate, hidden = self.functions
        units = h.shape[0]
        sums = gates[: 2 * units] + self._product(self.r[: 2 * units], h)
        z, s = np.split(gate(self._clipped(sums)), 2)
        if self.op.linear_before_reset:
            bias = 0.0 if self.recurrent_bias is None else self.recurrent_bias[:, None]
            inner = s * (self._product(self.r[2 * units :], h) + bias)
        else:
            inner = self._product(self.r[2 * units :], s * h)
        n = hidden(self._clipped(gates[2 * units :] + inner))
        return (1 - z) * n + z * h
