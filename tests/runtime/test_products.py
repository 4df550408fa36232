"""Multiplications that are computed together give what they give one by one, on any program and in every run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_dialects.access import Affine
from neuron_dialects.isa import Operand
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import load_target
from runtime.machine import Machine, machine, product_steps
from runtime.machine.constants import Constants
from runtime.machine.products import Box, Found, Group, Listing, Product, Slabs, Touches, find_groups, idle_constants
from runtime.machine.schedule import Schedule
from tests.runtime.core_programs import ProgramBuilder, dram, psum, sbuf

TARGET = load_target("trn1")
SIZE = 4
"""Rows and columns of all matrices."""
BLOCKS, BANKS = 4, 3


def box(memory: str, place: int, size: int = 64) -> Box:
    """`size` bytes of all partitions from `place`."""
    return memory, 0, 128, place, place + size


def product(stationary: int, moving: int, place: int, *, adds: bool = True, rows: int = 128) -> Touches:
    """A multiplication of two places of SBUF into one of PSUM."""
    operands, dst = (Listing(box("sbuf", stationary), "s"), Listing(box("sbuf", moving), "m")), box("psum", place)
    made = Product(rows, adds, Listing(dst, "d"), *operands)
    return Touches((operands[0].box, operands[1].box), (dst,), made)


def in_turn(*touches: Touches) -> list[Group]:
    """The groups when every execution writes before the next one reads."""
    order = [entry for number in range(len(touches)) for entry in (number, ~number)]
    return find_groups(order, dict(enumerate(touches))).groups


def members(*touches: Touches) -> list[list[int]]:
    """The members of the groups when every execution writes before the next one reads."""
    return [group.members for group in in_turn(*touches)]


# Three that add up in one place, another place in between: two groups. One that does not add begins a group.
def test_products_that_add_up_are_one_group():
    first, other = product(0, 64, 0, adds=False), product(0, 64, 256, adds=False)
    assert members(first, product(128, 64, 0), other, product(192, 64, 0)) == [[0, 1, 3], [2]]
    assert members(first, product(128, 64, 0), first) == [[0, 1], [2]]


# Somebody looks at a part of the sum, or writes to it: what comes after is added to what is there.
@pytest.mark.parametrize("touch", [Touches((box("psum", 60, 8),), ()), Touches((), (box("psum", 0, 4),))])
def test_a_sum_that_is_touched_is_computed(touch: Touches):
    groups = in_turn(product(0, 64, 0, adds=False), touch, product(128, 64, 0))
    assert [(group.members, group.adds) for group in groups] == [([0], False), ([2], True)]


# 600 rows and 600 rows are more than a slab has.
def test_rows_of_a_group_are_limited():
    groups = in_turn(product(0, 64, 0, adds=False, rows=600), product(0, 64, 0, rows=600))
    assert [(group.members, group.rows) for group in groups] == [([0], 600), ([1], 600)]


# An operand is the same until somebody writes to it; one that a constant filled is the same in every run.
def test_contents_follow_writes():
    write, constant = Touches((), (box("sbuf", 64),)), Touches((), (box("sbuf", 0),), constant="w")
    one = product(0, 64, 0, adds=False)
    first, again, changed = in_turn(constant, one, one, write, one)
    assert first.moving == again.moving != changed.moving
    assert first.stationary == again.stationary == changed.stationary
    assert first.stationary[0].constant
    assert not first.moving[0].constant


# A part of a constant is constant too, but not once something else was written into it.
def test_a_constant_that_is_overwritten_is_none():
    constant, patch_of_it = Touches((), (box("sbuf", 0, 128),), constant="w"), Touches((), (box("sbuf", 32, 1),))
    (group,) = in_turn(constant, product(64, 256, 0, adds=False))
    assert group.stationary[0].constant
    (group,) = in_turn(constant, patch_of_it, product(0, 256, 0, adds=False))
    assert not group.stationary[0].constant


# A constant that only kept slabs hold is idle; not one that others read, and not one beside which something is written.
def test_constants_that_nobody_reads():
    constant, one = Touches((), (box("sbuf", 0),), constant="w"), product(0, 64, 0)
    spared = {1: [Listing(box("sbuf", 0), "s")]}
    neighbour, part = Touches((box("sbuf", 32, 1),), ()), Touches((), (box("sbuf", 32, 1),))
    order = [0, ~0, 1, ~1, 2, ~2]
    for third, idle in ((Touches((box("sbuf", 64),), ()), {0}), (neighbour, set[int]()), (part, set[int]())):
        assert idle_constants(order, dict(enumerate((constant, one, third))), {0}, spared) == idle
    assert idle_constants(order[:4], {0: constant, 1: one}, {0}, {}) == set()


# What is made of constants is constant; both are idle where only kept operands hold it, none where somebody reads it.
def test_constants_of_constants():
    load, data = Touches((), (box("sbuf", 0),), constant="w"), Touches((box("sbuf", 0),), (box("sbuf", 64),))
    made = Touches(data.reads, data.writes, constant="double", sources=(Listing(box("sbuf", 0), "s"),))
    one, order = product(64, 128, 0), [0, ~0, 1, ~1, 2, ~2, 3, ~3]
    touches = dict(enumerate((load, made, one, Touches((box("sbuf", 64),), ()))))
    found = find_groups(order, touches)
    assert set(found.constants) == {0, 1} and found.groups[0].stationary[0].constant
    spared = {2: [Listing(box("sbuf", 64), "s")]}
    assert idle_constants(order[:6], touches, found.constants, spared) == {0, 1}
    assert idle_constants(order, touches, found.constants, spared) == set()
    changed = find_groups(order, touches | {0: Touches((), load.writes)})
    assert not changed.constants and not changed.groups[0].stationary[0].constant


# Three slabs of 64 bytes where two have room: the one that was left first is taken for the third, and then again.
def test_slabs_stay_while_there_is_room():
    slabs = Slabs(dict.fromkeys("abc", 2), limit_bytes=128)
    a = slabs.take("a", 4, 4, 1)
    slabs.leave(a)
    b = slabs.take("b", 4, 4, 1)
    slabs.leave(b)
    b.filled[0] = True
    c = slabs.take("c", 4, 4, 1)
    assert np.shares_memory(a.array, c.array)
    assert slabs.take("b", 4, 4, 1) is b
    assert slabs.take("b", 4, 4, 1).filled == [True]
    # Both are in use, so that a third one is made.
    assert not any(np.shares_memory(slabs.take("a", 4, 4, 1).array, other.array) for other in (b, c))


# What is not needed again is taken at once.
def test_slabs_that_nobody_needs_are_taken_at_once():
    slabs = Slabs(dict.fromkeys("ab", 1))
    a = slabs.take("a", 4, 4, 1)
    slabs.leave(a)
    assert np.shares_memory(a.array, slabs.take("b", 4, 4, 1).array)


def _columns(draw: st.DrawFn, start: int) -> Operand:
    """Columns of SBUF from `start` on: forwards, backwards, every other one, or one of them again and again."""
    step = draw(st.sampled_from([1, 1, -1, 2, 0]))
    offset = start + SIZE - 1 if step < 0 else min(start, (BLOCKS - step) * SIZE)
    return sbuf((0, SIZE), offset, (step, SIZE))


@st.composite
def programs(draw: st.DrawFn) -> CoreProgram:
    """Loads of inputs and constants, multiplications into a few banks, evictions; some without the waits they need."""
    b = ProgramBuilder()
    x, w = b.variable("x", "input", (BLOCKS, SIZE, SIZE)), b.variable("w", "file", (BLOCKS, SIZE, SIZE))
    y = b.variable("y", "output", (SIZE, BLOCKS * SIZE))
    rows, counts, careless = (0, SIZE), dict[str, int](), draw(st.integers(0, 3)) == 0
    b.add("pool", "memset", signal="pool", fields={"value": 1.0}, dst=sbuf(rows, 0, BLOCKS * SIZE))
    b.add("dve", "memset", signal="dve", fields={"value": 2.0}, dst=psum(rows, 0, BANKS * SIZE))
    counts |= {"pool": 1, "dve": 1}
    for _ in range(draw(st.integers(3, 24))):
        kind = draw(st.sampled_from(["load", "constant", "combine", "copy", "fill", *["multiply"] * 3, "evict"]))
        stream = {"multiply": "pe", "evict": "dve", "combine": "dve", "copy": "act", "fill": "pool"}.get(kind, "q0")
        waits = {name: max(1 if name in ("pool", "dve") else 0, count - careless) for name, count in counts.items()}
        one, other = (SIZE * draw(st.integers(0, BLOCKS - 1)) for _ in range(2))
        bank = psum(rows, draw(st.sampled_from([0, SIZE, SIZE, 2 * SIZE, 6])), SIZE)
        block, second = sbuf(rows, one, SIZE), _columns(draw, other)
        if kind == "multiply":
            adds = {"accumulate": Affine(int(draw(st.integers(0, 3)) > 0))}
            b.add("pe", "nc_matmul", waits, stream, fields=adds, dst=bank, stationary=block, moving=second)
        elif kind == "combine":
            third = sbuf(rows, SIZE * draw(st.integers(0, BLOCKS - 1)), SIZE)
            b.add("dve", "tensor_tensor", waits, stream, fields={"op": "maximum"}, dst=block, data=second, other=third)
        elif kind == "copy":
            b.add("act", "activation", waits, stream, fields={"func": "relu"}, dst=block, data=second)
        elif kind == "fill":
            b.add("pool", "memset", waits, stream, fields={"value": float(draw(st.integers(-1, 1)))}, dst=block)
        elif kind == "evict":
            # Kept small, so that all sums are exact.
            fields = {"op0": "minimum", "scalar0": 3.0}
            b.add("dve", "tensor_scalar", waits, stream, fields=fields, dst=block, data=bank)
        else:
            source = dram(x if kind == "load" else w, other * SIZE, (SIZE, SIZE), SIZE)
            b.add("sp", "dma_copy", waits, stream, ring="q0", dst=block, src=source)
        counts[stream] = counts.get(stream, 0) + 1
    place = dram(y, 0, (BLOCKS * SIZE, SIZE), BLOCKS * SIZE)
    b.add("sp", "dma_copy", counts, ring="q9", dst=place, src=sbuf(rows, 0, BLOCKS * SIZE))
    return b.program()


@contextmanager
def one_by_one() -> Generator[None]:
    """No products are computed together."""
    with patch.object(product_steps, "find_groups", lambda order, touches: Found()):
        yield


# Small integers, so that sums are exact: together, one by one, in several parts, in a first run and in further ones.
# Half of the constants are two blocks; there is room for all of them, for one, or for none.
@given(programs(), st.integers(1, 9), st.sampled_from([0, 4 * SIZE * SIZE, 1 << 20]))
@settings(max_examples=80, deadline=None)
def test_random_programs_compute_the_same(program: CoreProgram, most_steps: int, kept_bytes: int):
    rng = np.random.default_rng(3)
    w = {"w": rng.integers(-1, 2, (BLOCKS, SIZE, SIZE)).astype(np.float32)}
    w["w"][::2] *= np.kron(np.eye(2), np.ones((SIZE // 2, SIZE // 2)))
    inputs = [{"x": rng.integers(-1, 2, (BLOCKS, SIZE, SIZE)).astype(np.float32)} for _ in range(2)]
    grouped = Machine(program, TARGET)
    with one_by_one():
        expected = [Machine(program, TARGET).run(x, w).outputs["y"] for x in inputs]
    with patch.object(product_steps, "Constants", partial(Constants, kept_bytes=kept_bytes)):
        for x, wanted in (*zip(inputs, expected, strict=True), (inputs[0], expected[0])):
            np.testing.assert_array_equal(grouped.run(x, w).outputs["y"], wanted)
    with patch.object(machine, "Schedule", partial(Schedule, most_steps=most_steps)):
        parts = Machine(program, TARGET)
        for x, wanted in zip(inputs, expected, strict=True):
            np.testing.assert_array_equal(parts.run(x, w, "both").outputs["y"], wanted)


# The same bytes as f32 and, with their mantissas rounded, as tf32: two products that share neither operand.
@pytest.mark.parametrize("kind", ["input", "file"])
def test_operands_are_read_as_what_they_are(kind: str):
    b, rows = ProgramBuilder(), (0, SIZE)
    x, y = b.variable("x", kind, (SIZE, SIZE)), b.variable("y", "output", (SIZE, 2 * SIZE))
    b.add("sp", "dma_copy", None, "q0", ring="q0", dst=sbuf(rows, 0, SIZE), src=dram(x, 0, (SIZE, SIZE), SIZE))
    for number, dtype in enumerate(("f32", "tf32")):
        tile, bank = sbuf(rows, 0, SIZE, dtype=dtype), psum(rows, number * SIZE, SIZE)
        b.add("pe", "nc_matmul", {"q0": 1}, "pe", dst=bank, stationary=tile, moving=tile)
    both = sbuf(rows, 64, 2 * SIZE)
    b.add("act", "activation", {"pe": 2}, "act", dst=both, data=psum(rows, 0, 2 * SIZE))
    b.add("pool", "dma_copy", {"act": 1}, ring="q1", dst=dram(y, 0, (2 * SIZE, SIZE), 2 * SIZE), src=both)
    values = {"x": np.full((SIZE, SIZE), 1 + 2.0**-12, np.float32)}
    one = Machine(b.program(), TARGET)
    for _ in range(2):
        found = one.run(*((values, {}) if kind == "input" else ({}, values))).outputs["y"]
        np.testing.assert_array_equal(found[:, SIZE:], SIZE)
        np.testing.assert_allclose(found[:, :SIZE], SIZE * (1 + 2.0**-12) ** 2, rtol=1e-6)


# Other parameters in other memory: what was kept of the first ones must not be used.
def test_kept_constants_follow_the_parameters():
    b, rows = ProgramBuilder(), (0, SIZE)
    w, y = b.variable("w", "file", (SIZE, SIZE)), b.variable("y", "output", (SIZE, SIZE))
    whole = (SIZE, SIZE), SIZE
    b.add("sp", "dma_copy", None, "q0", ring="q0", dst=sbuf(rows, 0, SIZE), src=dram(w, 0, *whole))
    tile, bank = sbuf(rows, 0, SIZE), psum(rows, 0, SIZE)
    b.add("pe", "nc_matmul", {"q0": 1}, "pe", dst=bank, stationary=tile, moving=tile)
    b.add("act", "activation", {"pe": 1}, "act", dst=sbuf(rows, 64, SIZE), data=psum(rows, 0, SIZE))
    b.add("pool", "dma_copy", {"act": 1}, ring="q1", dst=dram(y, 0, *whole), src=sbuf(rows, 64, SIZE))
    one = Machine(b.program(), TARGET)
    for seed in (0, 0, 1, 1):
        values = np.random.default_rng(seed).normal(size=(SIZE, SIZE)).astype(np.float32)
        np.testing.assert_allclose(one.run({}, {"w": values}).outputs["y"], values.T @ values, rtol=1e-5)
