"""Small random nisa programs in form 1, for property tests: loop nests over rotating buffers, all kinds of streams."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import (
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    NameLoc,
    NoneAttr,
    StringAttr,
    f32,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.dialects.scf import ForOp, YieldOp
from xdsl.ir import Block, Operation, Region, SSAValue

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.access_ops import space_of
from neuron_dialects.neuron import TARGET_ATTRIBUTE, MemorySpace, MemorySpaceAttr, TargetAttr
from neuron_dialects.nisa import NISA_OPS, AllocOp

ROW = 24
"""Elements in a row of every buffer."""

PARTITIONS = 128
SPACES = {name: MemorySpaceAttr(MemorySpace(name)) for name in ("dram", "sbuf", "psum")}


def memref(space: str, row: int = ROW) -> MemRefType:
    return MemRefType(f32, [PARTITIONS, row], memory_space=SPACES[space])


@dataclass
class _Builder:
    draw: st.DrawFn
    budget: int
    depth: int
    constants: dict[int, SSAValue] = field(default_factory=dict)
    top: list[Operation] = field(default_factory=list)

    def constant(self, value: int) -> SSAValue:
        if value not in self.constants:
            op = ConstantOp(IntegerAttr(value, IndexType()))
            self.top.append(op)
            self.constants[value] = op.result
        return self.constants[value]

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def block(self, loops: list[tuple[SSAValue, int]], buffers: list[SSAValue], depth: int) -> list[Operation]:
        """Statements of one body; `buffers` are those visible."""
        ops: list[Operation] = []
        visible = list(buffers)
        for _ in range(self.integer(1, 4)):
            kind = self.integer(0, 9)
            if kind <= 1:
                copies = self.integer(1, 3)
                alloc = AllocOp(memref("sbuf" if self.integer(0, 2) else "psum"), copies)
                ops.append(alloc)
                visible.append(alloc.buffer)
            elif kind <= 4 and depth < self.depth and self.budget > 1:
                trips = self.integer(1, 4)
                body = Block(arg_types=[IndexType()])
                inner = self.block([*loops, (body.args[0], trips)], visible, depth + 1)
                body.add_ops([*inner, YieldOp()])
                ops.append(ForOp(self.constant(0), self.constant(trips), self.constant(1), [], Region(body)))
            elif self.budget > 0:
                self.budget -= 1
                ops.append(self.instruction(loops, visible))
        return ops

    def pattern(self, buffer: SSAValue, size: int, loops: list[tuple[SSAValue, int]], half: int) -> AccessPattern:
        """`size` elements of each partition, at an offset that moves with some of the loops and stays in bounds."""
        room = ROW - size
        terms: dict[int, int] = {}
        for index, (_, trips) in enumerate(loops):
            step = self.draw(st.sampled_from([0, 0, 1, size, size, 2 * size]))
            if step and step * (trips - 1) <= room:
                terms[index] = step
                room -= step * (trips - 1)
        offset = self.draw(st.sampled_from([0, 0, room, room // 2]))
        count, first = (PARTITIONS, 0) if half == 0 else (64, 64 * (half - 1))
        if space_of(buffer) == "dram":
            start = Affine.of(offset + first * ROW, terms)
            return AccessPattern(Affine(), 0, start, ((ROW, count), (1, size)))
        return AccessPattern(Affine(first), count, Affine.of(offset, terms), ((1, size),))

    def instruction(self, loops: list[tuple[SSAValue, int]], buffers: list[SSAValue]) -> Operation:
        size = self.draw(st.sampled_from([1, 2, 4, 8, ROW]))
        half = self.draw(st.sampled_from([0, 0, 0, 1, 2]))
        on_chip = [b for b in buffers if space_of(b) != "dram"]
        in_sbuf = [b for b in on_chip if space_of(b) == "sbuf"]
        in_dram = [b for b in buffers if space_of(b) == "dram"]
        indices = [value for value, _ in loops]
        kind = self.integer(0, 5) if on_chip else 0
        if kind <= 2:
            pool = [*in_sbuf, *in_dram]
            dst, src = self.draw(st.sampled_from(pool)), self.draw(st.sampled_from(pool))
            load = space_of(dst) != "dram"
            engine = self.draw(st.sampled_from(["sp", "act"])) if load else "pool"
            ring = f"{'load' if load else 'store'}_{engine}{self.integer(0, 1)}"
            extra = {"engine": StringAttr(engine), "ring": StringAttr(ring)}
            views = [("dst", dst), ("src", src)]
            return self.made("dma_copy", views, size, loops, half, indices, extra)
        dst, src = self.draw(st.sampled_from(on_chip)), self.draw(st.sampled_from(on_chip))
        pool = ["act", "dve"] if "psum" in (space_of(dst), space_of(src)) else ["act", "dve", "pool"]
        engine = self.draw(st.sampled_from(pool))
        if kind == 3 and engine != "act":
            return self.made("memset", [("dst", dst)], size, loops, half, indices, {"engine": StringAttr(engine)})
        return self.made(
            "tensor_copy", [("dst", dst), ("data", src)], size, loops, half, indices, {"engine": StringAttr(engine)}
        )

    def made(
        self,
        name: str,
        views: list[tuple[str, SSAValue]],
        size: int,
        loops: list[tuple[SSAValue, int]],
        half: int,
        indices: list[SSAValue],
        extra: dict[str, StringAttr],
    ) -> Operation:
        operands = [(role, value, self.pattern(value, size, loops, half)) for role, value in views]
        location = NameLoc(StringAttr(f"node{self.budget}"), NoneAttr())
        return NISA_OPS[name].make(operands, indices, extra=extra, location=location)


@st.composite
def programs(draw: st.DrawFn, instructions: int = 7, buffers: int = 2, depth: int = 3) -> str:
    """The text of a module with one function in form 1.

    It has up to `instructions` instructions in loops nested up to `depth` deep, and `buffers` buffers outside of loops.
    """
    builder = _Builder(draw, instructions, depth)
    arguments = Block(arg_types=[memref("dram"), memref("dram")])
    allocs = [AllocOp(memref("sbuf")) for _ in range(draw(st.integers(1, buffers)))]
    visible: list[SSAValue] = [*arguments.args, *(alloc.buffer for alloc in allocs)]
    ops: list[Operation] = []
    while not ops or (builder.budget > 0 and draw(st.booleans())):
        ops += builder.block([], visible, 0)
    arguments.add_ops([*builder.top, *allocs, *ops, ReturnOp()])
    function = FuncOp("neuron_0", ([memref("dram"), memref("dram")], []), Region(arguments))
    return str(ModuleOp([function], {TARGET_ATTRIBUTE: TargetAttr("trn1")}))
