"""Instruction selection: every way to execute an op is legal on the target and computes the same numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lowering.tile_to_nisa.selection import EngineBalance, ahead, choices
from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.cost import issue_ns
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa import INSTRUCTIONS, Instruction, Operand, verify_instruction
from neuron_dialects.isa.model import ACTIVATIONS, ALU_OPS
from neuron_dialects.target import load_target
from tests.runtime.meanings import empty, run, typed

TARGETS = ("inf1", "trn1", "trn2")
FLOATS, INTEGERS = ("f32", "bf16", "f16"), ("i32", "ui32")
ROWS, COLUMNS = 4, 8


def operand(space: str, dtype: str, columns: int = COLUMNS) -> Operand:
    """A tile of 4 partitions; all operands of one space lie in one buffer, which does not matter here."""
    return Operand(space, dtype, AccessPattern(Affine(), ROWS, Affine(), ((1, columns),)), 0)


def instruction(name: str, spaces: str = "sbuf sbuf", dtypes: str = "f32 f32", **fields: Any) -> Instruction:
    """An elementwise op dst = data; `spaces` and `dtypes` of dst and data."""
    roles = zip(("dst", "data"), spaces.split(), dtypes.split(), strict=True)
    return Instruction(name, "", {role: operand(space, dtype) for role, space, dtype in roles}, fields)


def pairs(options: list[Instruction]) -> list[tuple[str, str]]:
    """(instruction, engine) of each choice."""
    return [(option.name, option.engine) for option in options]


@pytest.mark.parametrize(
    ("op", "target", "expected"),
    [
        # A copy of floats may ride on the scalar engine; of integers it may not, whose datapath is fp32.
        (instruction("tensor_copy", "sbuf psum"), "trn1", [("tensor_copy", "dve"), ("activation", "act")]),
        (instruction("tensor_copy", dtypes="i32 i32"), "trn1", [("tensor_copy", "dve")]),
        (instruction("activation", func="copy"), "trn1", [("activation", "act"), ("tensor_copy", "dve")]),
        # relu is max(x, 0) to the vector engine; a scale is only the scalar engine's.
        (instruction("activation", func="relu"), "trn1", [("activation", "act"), ("tensor_scalar", "dve")]),
        (instruction("activation", func="relu", scale=2.0), "trn1", [("activation", "act")]),
        (instruction("activation", func="exp"), "trn1", [("activation", "act")]),
        # 32-bit integers are exact only on the pool engine, which has no access to PSUM.
        (instruction("tensor_scalar", dtypes="i32 i32", op0="add", scalar0=7.0), "trn1", [("tensor_scalar", "pool")]),
        (instruction("tensor_scalar", op0="add", scalar0=7.0), "trn1", [("tensor_scalar", "dve")]),
        # From the third generation on the scalar engine adds and multiplies too.
        (
            instruction("tensor_scalar", op0="add", scalar0=7.0),
            "trn2",
            [("tensor_scalar", "dve"), ("tensor_scalar", "act")],
        ),
        (instruction("nc_transpose", "psum sbuf"), "trn1", [("nc_transpose", "pe")]),
    ],
)
def test_choices_in_order(op: Instruction, target: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(choices(op, load_target(target))) == expected


# A bias that lies in a column rides on an activation; the vector engine adds it too.
def test_an_added_column_may_be_a_bias() -> None:
    plain = instruction("tensor_scalar", "sbuf psum", op0="add", op1="maximum", scalar1=0.0)
    column = Instruction(plain.name, "", {**plain.operands, "operand0": operand("sbuf", "f32", 1)}, plain.fields)
    vector, scalar = choices(column, load_target("trn1"))
    assert (vector.name, vector.engine) == ("tensor_scalar", "dve")
    assert (scalar.name, scalar.engine, scalar.fields) == ("activation", "act", {"func": "relu"})
    assert scalar.operands["bias"] == column.operands["operand0"]


# What only prepares weights goes to the pool engine, if there is one that can do it; anything in PSUM it cannot reach.
@pytest.mark.parametrize(
    ("spaces", "target", "engine"),
    [("sbuf sbuf", "trn1", "pool"), ("sbuf psum", "trn1", "dve"), ("sbuf sbuf", "inf1", "dve")],
)
def test_weights_are_prepared_ahead(spaces: str, target: str, engine: str) -> None:
    product = instruction("tensor_tensor", spaces, op="multiply")
    product = replace(product, operands={**product.operands, "other": operand("sbuf", "f32")})
    description = load_target(target)
    assert pairs(ahead(choices(product, description), description)) == [("tensor_tensor", engine)]


def test_what_no_engine_executes_has_no_choice() -> None:
    # Only pool has this operator, and only the others reach PSUM.
    assert choices(instruction("tensor_scalar", "sbuf psum", op0="power", scalar0=2.0), load_target("trn1")) == []


def test_fields_that_are_defaults_are_left_out() -> None:
    (chosen,) = choices(instruction("activation", func="exp", scale=1.0, alpha=0.0), load_target("trn1"))
    assert chosen.fields == {"func": "exp"}


@st.composite
def elementwise(draw: st.DrawFn) -> Instruction:
    """An op on whole rows as the tile level has it: any operator, element types, memories, optional operands."""
    name = draw(st.sampled_from(("tensor_copy", "activation", "tensor_scalar", "tensor_tensor", "memset")))
    dtypes = FLOATS if name == "activation" or draw(st.booleans()) else (*FLOATS, *INTEGERS)
    tile = st.builds(operand, st.sampled_from(("sbuf", "psum")), st.sampled_from(dtypes))
    operands = {"dst": draw(tile)}
    if name != "memset":
        operands["data"] = draw(tile)
    if name == "tensor_tensor":
        operands["other"] = draw(tile)
        assume({operands["data"].space, operands["other"].space} != {"psum"})
    alu, number = st.sampled_from(ALU_OPS), st.sampled_from((0.0, 1.0, -2.5, 3.0))
    kinds = {"alu": alu, "activation": st.sampled_from(ACTIVATIONS), "f32": number, "bool": st.booleans()}
    fields = {f.name: draw(kinds[f.kind]) for f in INSTRUCTIONS[name].fields if f.kind in kinds and draw(st.booleans())}
    columns = {"activation": ("bias", "scale_column"), "tensor_scalar": ("operand0", "operand1")}.get(name, ())
    for role in columns:
        if draw(st.booleans()):
            operands[role] = operand("sbuf", "f32", 1)
    return Instruction(name, "", operands, fields)


@given(elementwise(), st.sampled_from(TARGETS))
def test_every_choice_is_legal(op: Instruction, name: str) -> None:
    target = load_target(name)
    for option in choices(op, target):
        assert verify_instruction(option, target) == []


# The other way round: an op that some engine executes as it stands is never left without a choice.
@given(elementwise(), st.sampled_from(TARGETS))
def test_an_executable_op_has_a_choice(op: Instruction, name: str) -> None:
    target = load_target(name)
    engines = INSTRUCTIONS[op.name].engines
    able = [e for e in engines if not verify_instruction(Instruction(op.name, e, op.operands, op.fields), target)]
    assert bool(choices(op, target)) == bool(able)


def result_of(option: Instruction, values: dict[str, np.ndarray]) -> np.ndarray:
    """What an instruction leaves in dst, in float64 (numpy does not know that a NaN of bf16 is one)."""
    operands = {role: typed(o.dtype, values[role]) for role, o in option.operands.items() if role in values}
    dst = empty(option.operands["dst"].dtype, ROWS, COLUMNS)
    return run(option.name, dst, option.engine, dict(option.fields), **operands).astype(np.float64)


# Selection may not change a program's numbers: whatever engine wins, the same bits come out.
@given(elementwise(), st.sampled_from(TARGETS), st.integers(0, 2**32 - 1))
def test_all_choices_compute_the_same(op: Instruction, name: str, seed: int) -> None:
    options = choices(op, load_target(name))
    assume(len(options) > 1)
    rng = np.random.default_rng(seed)
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-30, 65504.0])
    values: dict[str, np.ndarray] = {}
    for role, o in op.operands.items():
        if role != "dst":
            shape = (ROWS, o.elements)
            floats = np.where(rng.random(shape) < 0.3, rng.choice(special, shape), rng.standard_normal(shape) * 100)
            values[role] = floats if dtype_by_name(o.dtype).is_float else rng.integers(0, 1000, shape)
    # The column that one instruction adds is another one's bias.
    for role, other in (("operand0", "bias"), ("bias", "operand0")):
        if role in values:
            values.setdefault(other, values[role])
    first, *others = [result_of(option, values) for option in options]
    for result in others:
        np.testing.assert_array_equal(first, result)


# Work goes to the engine that is free; what is given to it counts from then on, until a new kernel starts.
def test_balance_spreads_work_over_engines() -> None:
    target = load_target("trn1")
    options = choices(instruction("tensor_copy"), target)
    balance = EngineBalance(target)
    assert {balance.choose(options, 1).engine, balance.choose(options, 1).engine} == {"dve", "act"}
    assert balance.load_ns == {option.engine: issue_ns(option, target) for option in options}
    balance.new_kernel()
    assert balance.load_ns == balance.port_ns == {}


# act and dve take turns at the PSUM of trn1: act, which is quicker there, takes all until it has more to do than that.
def test_balance_counts_what_a_shared_port_takes() -> None:
    target = load_target("trn1")
    evictions = choices(instruction("tensor_copy", "sbuf psum"), target)
    balance = EngineBalance(target)
    assert {balance.choose(evictions, 1).engine for _ in range(10)} == {"act"}
    only_act = choices(instruction("activation", func="exp"), target)
    balance.choose(only_act, 20)
    assert balance.choose(evictions, 1).engine == "dve"


# A sweep that act alone can do runs beside what follows: as much then leaves PSUM by dve, and act is the quicker again.
def test_balance_owes_an_engine_what_a_sweep_takes() -> None:
    target = load_target("trn1")
    evictions = choices(instruction("tensor_copy", "sbuf psum"), target)
    balance = EngineBalance(target)
    balance.choose(choices(instruction("activation", func="exp"), target), 6)
    chosen: list[set[str]] = []
    for _ in range(4):
        balance.new_kernel()
        chosen.append({balance.choose(evictions, 1).engine for _ in range(3)})
    assert chosen[0] == {"dve"} <= chosen[1]
    assert chosen[-1] == {"act"}


# An instruction in a loop counts as often as it is executed.
def test_balance_counts_executions() -> None:
    target = load_target("trn1")
    options = choices(instruction("tensor_copy"), target)
    balance = EngineBalance(target)
    busy = balance.choose(options, 100).engine
    assert busy not in [balance.choose(options, 1).engine for _ in range(20)]


# However long the sequence, no engine is left idle while another is more than one instruction ahead.
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_balance_never_lets_one_engine_run_away(executions: list[int]) -> None:
    target = load_target("trn1")
    options = choices(instruction("tensor_copy"), target)
    balance = EngineBalance(target)
    for count in executions:
        balance.choose(options, count)
    loads = [balance.load_ns.get(option.engine, 0.0) for option in options]
    largest = max(executions) * max(issue_ns(option, target) for option in options)
    assert max(loads) - min(loads) <= largest
