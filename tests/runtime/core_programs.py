"""Core programs built by hand, for the tests of the machine and of the race check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.isa.program import CoreProgram, DramVariable, QueueEntry

Dim = int | tuple[int, int]
Waits = Mapping[str, int | Affine]


def reg(register: int, constant: int = 0) -> Affine:
    """`constant + r<register>`."""
    return Affine.of(constant, {register: 1})


def _dims(dims: Sequence[Dim]) -> tuple[tuple[int, int], ...]:
    return tuple((1, d) if isinstance(d, int) else d for d in dims)


def _affine(value: int | Affine) -> Affine:
    return value if isinstance(value, Affine) else Affine(value)


def on_chip(space: str, rows: tuple[int, int], offset: int | Affine, *dims: Dim, dtype: str = "f32") -> Operand:
    """`rows`: (first partition, partitions); a dim is a size of stride 1 or (stride, size)."""
    return Operand(space, dtype, AccessPattern(Affine(rows[0]), rows[1], _affine(offset), _dims(dims)))


def sbuf(rows: tuple[int, int], offset: int | Affine, *dims: Dim, dtype: str = "f32") -> Operand:
    """An operand in SBUF; `offset` counts elements of `dtype`."""
    return on_chip("sbuf", rows, offset, *dims, dtype=dtype)


def psum(rows: tuple[int, int], offset: int | Affine, *dims: Dim, dtype: str = "f32") -> Operand:
    """An operand in PSUM."""
    return on_chip("psum", rows, offset, *dims, dtype=dtype)


def dram(variable: DramVariable, offset: int | Affine, *dims: Dim) -> Operand:
    """An operand in a DRAM variable."""
    pattern = AccessPattern(Affine(), 0, _affine(offset), _dims(dims))
    return Operand("dram", variable.dtype, pattern, variable.id)


class ProgramBuilder:
    """Collects queues; semaphores are made as they are named."""

    def __init__(self, target: str = "trn1") -> None:
        self.target = target
        self.queues: dict[str, list[QueueEntry]] = {}
        self.variables: list[DramVariable] = []
        self.semaphores: list[str] = []
        self.origins: list[str] = [""]

    def variable(self, name: str, kind: str, shape: tuple[int, ...], dtype: str = "f32") -> DramVariable:
        """A DRAM variable."""
        made = DramVariable(len(self.variables), name, kind, dtype, shape)
        self.variables.append(made)
        return made

    def semaphore(self, name: str) -> int:
        """Number of a semaphore."""
        if name not in self.semaphores:
            self.semaphores.append(name)
        return self.semaphores.index(name)

    def _entry(self, engine: str, waits: Waits | None, signal: str | None, **rest: Any) -> int:
        numbered = tuple((self.semaphore(name), _affine(value)) for name, value in (waits or {}).items())
        own = None if signal is None else self.semaphore(signal)
        queue = self.queues.setdefault(engine, [])
        queue.append(QueueEntry(waits=numbered, signal=own, **rest))
        return len(queue) - 1

    def add(
        self,
        engine: str,
        name: str,
        waits: Waits | None = None,
        signal: str | None = None,
        ring: str | None = None,
        origin: str = "",
        fields: dict[str, Any] | None = None,
        **operands: Operand,
    ) -> int:
        """An instruction; returns its position in its queue."""
        if origin not in self.origins:
            self.origins.append(origin)
        instruction = Instruction(name, "dma" if ring else engine, operands, fields or {})
        number = self.origins.index(origin)
        return self._entry(engine, waits, signal, instruction=instruction, ring=ring, origin=number)

    def control(
        self, engine: str, kind: str, *numbers: int, waits: Waits | None = None, signal: str | None = None
    ) -> int:
        """A control instruction; returns its position in its queue."""
        return self._entry(engine, waits, signal, control=kind, numbers=numbers)

    def here(self, engine: str) -> int:
        """Position of the next entry of a queue, as a label."""
        return len(self.queues.setdefault(engine, []))

    def program(self) -> CoreProgram:
        """The program so far."""
        return CoreProgram(
            self.target, {e: list(q) for e, q in self.queues.items()}, list(self.variables), tuple(self.semaphores),
            tuple(self.origins),
        )  # fmt: skip


def matmul_relu(target: str = "trn1") -> CoreProgram:
    """y = relu(w^T x): two loads, a matmul, an activation, a store; each waits for what it needs."""
    b, rows = ProgramBuilder(target), (0, 128)
    x, w, y = (
        b.variable("x", "input", (128, 512)),
        b.variable("w", "file", (128, 128)),
        b.variable("y", "output", (128, 512)),
    )
    x_tile, w_tile, bank = sbuf(rows, 0, 512), sbuf(rows, 512, 128), psum(rows, 0, 512)
    result = sbuf(rows, 1024, 512)
    b.add("sp", "dma_copy", ring="q0", signal="q0", dst=x_tile, src=dram(x, 0, (512, 128), 512))
    b.add("sp", "dma_copy", ring="q0", signal="q0", dst=w_tile, src=dram(w, 0, (128, 128), 128))
    b.add("pe", "nc_matmul", {"q0": 2}, "pe", origin="MatMul_0", dst=bank, stationary=w_tile, moving=x_tile)
    b.add("act", "activation", {"pe": 1}, "act", origin="Relu_1", fields={"func": "relu"}, dst=result, data=bank)
    b.add("pool", "dma_copy", {"act": 1}, ring="q1", origin="Relu_1", src=result, dst=dram(y, 0, (512, 128), 512))
    return b.program()


def rotating_scale(tiles: int, copies: int, elements: int = 64) -> CoreProgram:
    """y[i] = 2 x[i] for tiles [128, elements], with `copies` buffers for loads and as many for stores."""
    b, rows, tile = ProgramBuilder(), (0, 128), 128 * elements
    x, y = (b.variable(name, kind, (tiles, 128, elements)) for name, kind in (("x", "input"), ("y", "output")))
    out = copies * elements

    def loop(engine: str, waits: Waits, **entry: Any) -> None:
        # r0 counts, r1 is the buffer's offset, r2 the tile's, r3 = r0 + 1, r4 = r0 - copies + 1.
        for register, value in ((0, 0), (1, 0), (2, 0), (3, 1), (4, 1 - copies)):
            b.control(engine, "reg_move", register, value)
        body = b.add(engine, waits=waits, **entry)
        b.control(engine, "reg_rotate", 1, elements, out)
        b.control(engine, "reg_add", 2, 2, tile)
        b.control(engine, "reg_add", 3, 3, 1)
        b.control(engine, "reg_add", 4, 4, 1)
        b.control(engine, "reg_add", 0, 0, 1)
        b.control(engine, "branch_less", 0, tiles, body)

    loaded, stored = sbuf(rows, reg(1), elements), sbuf(rows, reg(1, out), elements)
    copy = {"name": "dma_copy", "origin": "Mul_0"}
    # The load of tile i overwrites what tile i - copies was computed from; computing it, what tile i - copies stored.
    loop(
        "sp",
        {"act": reg(4)},
        ring="in",
        signal="in",
        dst=loaded,
        src=dram(x, reg(2), (elements, 128), elements),
        **copy,
    )
    loop(
        "act", {"in": reg(3), "out": reg(4)}, name="activation", origin="Mul_0", signal="act", fields={"scale": 2.0},
        dst=stored, data=loaded,
    )  # fmt: skip
    loop(
        "pool",
        {"act": reg(3)},
        ring="out",
        signal="out",
        src=stored,
        dst=dram(y, reg(2), (elements, 128), elements),
        **copy,
    )
    return b.program()
