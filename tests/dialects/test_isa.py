"""The limits of instructions: for every check one instruction that passes and one that fails, with figure and limit."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.isa import ENUMS, INSTRUCTIONS, OPCODES, Instruction, Operand, verify_instruction
from neuron_dialects.isa.limits import (
    CHECKS_COMMON,
    ge_one_dimension,
    local_gather_shapes,
    matmul_shapes,
    not_both_psum,
    partition_reduce_shapes,
    reduce_axes,
    row_limit,
    same_elements,
    transpose_shapes,
)
from neuron_dialects.target import load_target

TRN1, INF1 = load_target("trn1"), load_target("inf1")


def on_chip(
    space: str, lanes: int, *sizes: int, dtype: str = "f32", start: int | Affine = 0, stride: int = 1
) -> Operand:
    """A tile: `lanes` partitions from `start`, and free dims of `sizes` in a run of elements `stride` apart."""
    dims: list[tuple[int, int]] = []
    for size in reversed(sizes or (1,)):
        dims.append((stride, size))
        stride *= size
    first = start if isinstance(start, Affine) else Affine(start)
    return Operand(space, dtype, AccessPattern(first, lanes, Affine(), tuple(reversed(dims))))


def sbuf(lanes: int, *sizes: int, dtype: str = "f32", start: int | Affine = 0) -> Operand:
    return on_chip("sbuf", lanes, *sizes, dtype=dtype, start=start)


def psum(lanes: int, *sizes: int, dtype: str = "f32", start: int = 0) -> Operand:
    return on_chip("psum", lanes, *sizes, dtype=dtype, start=start)


def dram(*dims: tuple[int, int], dtype: str = "f32") -> Operand:
    return Operand("dram", dtype, AccessPattern(Affine(), 0, Affine(), dims))


def copy(dst: Operand, data: Operand, engine: str = "dve") -> Instruction:
    return Instruction("tensor_copy", engine, {"dst": dst, "data": data})


def dma(dst: Operand, src: Operand) -> Instruction:
    return Instruction("dma_copy", "dma", {"dst": dst, "src": src})


def matmul(dst: Operand, stationary: Operand, moving: Operand) -> Instruction:
    return Instruction("nc_matmul", "pe", {"dst": dst, "stationary": stationary, "moving": moving})


def named(name: str, engine: str, fields: Mapping[str, Any] | None = None, **operands: Operand) -> Instruction:
    return Instruction(name, engine, operands, fields or {})


def local_gather(dst: Operand, data: Operand, indices: Operand, elements: int = 1) -> Instruction:
    return named("local_gather", "pool", {"elements": elements}, dst=dst, data=data, indices=indices)


U16 = sbuf(16, 1, dtype="ui16")
TILE = sbuf(128, 512)
GOOD_MATMUL = matmul(psum(128, 512), sbuf(128, 128, dtype="bf16"), sbuf(128, 512, dtype="bf16"))

LEGAL = {
    "copy on 128 partitions": copy(TILE, TILE),
    "copy from PSUM": copy(TILE, psum(128, 512)),
    "four free dimensions": copy(sbuf(128, 2, 3, 4, 5), sbuf(128, 2, 3, 4, 5)),
    "64 partitions from 64": copy(sbuf(64, 8, start=64), sbuf(64, 8)),
    "32 partitions from 96": copy(sbuf(32, 8, start=96), sbuf(32, 8, start=32)),
    "DMA on any partitions": dma(sbuf(100, 8, start=3), dram((8, 100), (1, 8))),
    "DMA from DRAM to DRAM": dma(dram((1, 100_000)), dram((2, 100_000))),
    "DMA of five dimensions": dma(sbuf(2, 81), dram((1000, 2), (300, 3), (90, 3), (9, 3), (1, 3))),
    "matmul at its limits": GOOD_MATMUL,
    "fp32 matmul": matmul(psum(64, 100), sbuf(10, 64), sbuf(10, 100, dtype="tf32")),
    "transpose on pe": named("nc_transpose", "pe", dst=psum(128, 100), data=sbuf(100, 128)),
    "transpose on dve": named("nc_transpose", "dve", dst=sbuf(16, 32), data=sbuf(32, 16)),
    "reduction of the inner of two": named("tensor_reduce", "dve", dst=sbuf(128, 4), data=sbuf(128, 4, 8)),
    "reduction of both": named("tensor_reduce", "dve", {"axes": 2}, dst=sbuf(128, 1), data=sbuf(128, 4, 8)),
    "reduction over partitions": named("partition_reduce", "pool", dst=sbuf(1, 8), data=sbuf(128, 8)),
    "bn_stats": named("bn_stats", "dve", dst=sbuf(128, 6), data=sbuf(128, 512)),
    "sum of SBUF and PSUM": named("tensor_tensor", "dve", dst=TILE, data=TILE, other=psum(128, 512)),
    "activation with bias": named("activation", "act", {"func": "exp"}, dst=TILE, data=TILE, bias=sbuf(128, 1)),
    "local gather": local_gather(sbuf(48, 34, 2), sbuf(48, 9, 2), sbuf(48, 3, dtype="ui16"), 2),
    "gather": named("dma_gather", "dma", dst=TILE, table=dram((1, 512)), indices=sbuf(128, 1, dtype="i32")),
}


@pytest.mark.parametrize("instruction", LEGAL.values(), ids=LEGAL.keys())
def test_legal(instruction: Instruction):
    assert verify_instruction(instruction, TRN1) == []
    assert verify_instruction(instruction, None) == []


def messages(instruction: Instruction, target: Any = TRN1) -> str:
    return "\n".join(verify_instruction(instruction, target))


# One case per limit that every instruction has: engine, operands, geometry, start partition, number of partitions.
@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (copy(TILE, TILE, "pe"), "tensor_copy: engine pe does not execute it; engines: dve, pool, act"),
        (named("tensor_copy", "dve", dst=TILE), "operand data is missing"),
        (copy(TILE, dram((1, 512))), "operand data lies in dram; allowed: sbuf, psum"),
        (named("tensor_copy", "dve", dst=TILE, data=TILE, extra=TILE), "unknown operand extra"),
        (copy(sbuf(128, 8), psum(128, 8), "pool"), "operand data: pool has no access to PSUM"),
        (named("activation", "act", dst=TILE, data=TILE, bias=TILE),
         "operand bias has 512 elements per partition, must have 1"),
        (copy(sbuf(128, 2, 2, 2, 2, 2), TILE), "operand dst has 5 free dimensions, limit 4"),
        (dma(sbuf(2, 32), dram(*((10**i, 2) for i in range(6)))), "operand src has 6 free dimensions, limit 5"),
        (copy(sbuf(1, 65536), sbuf(1, 65536)), "operand dst has a dimension of 65536, limit 65535"),
        (copy(sbuf(1, 0), sbuf(1, 0)), "operand dst has a dimension of 0"),
        (copy(sbuf(129, 4), sbuf(129, 4)), "operand dst spans 129 partitions, limit 128"),
        (copy(sbuf(0, 4), sbuf(128, 4)), "operand dst in sbuf has 0 partitions"),
        (copy(sbuf(32, 4, start=Affine.variable(0, 32)), sbuf(32, 4)), "starts on a partition that depends on a loop"),
        (dma(sbuf(100, 8, start=64), dram((8, 100), (1, 8))), "operand dst spans partitions 64 to 163, limit 127"),
        (copy(sbuf(65, 4, start=32), sbuf(65, 4)), "operand dst: 65 partitions cannot start at 32, only at [0]"),
        (copy(sbuf(33, 4), sbuf(33, 4, start=32)), "operand data: 33 partitions cannot start at 32, only at [0, 64]"),
        (copy(sbuf(32, 4, start=16), sbuf(32, 4)), "32 partitions cannot start at 16, only at [0, 32, 64, 96]"),
        (copy(sbuf(64, 8), sbuf(32, 16)), "operands span different numbers of partitions: [32, 64]"),
    ],
)  # fmt: skip
def test_common_limits(instruction: Instruction, message: str):
    assert message in messages(instruction)


# One case per limit of single instructions.
@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (copy(sbuf(128, 8), sbuf(128, 9)), "numbers of elements differ: dst 1024, data 1152"),
        (dma(sbuf(8, 8), dram((1, 63))), "numbers of elements differ: dst 64, src 63"),
        (dma(dram((1, 0)), dram((1, 0))), "operand dst is empty"),
        (named("tensor_tensor", "dve", dst=TILE, data=psum(128, 512), other=psum(128, 512)),
         "data and other both lie in PSUM"),
        (named("bn_stats", "dve", dst=sbuf(128, 6), data=sbuf(128, 513)),
         "data has 513 elements per partition, allowed 1 to 512"),
        (named("tensor_reduce", "dve", {"axes": 3}, dst=sbuf(8, 1), data=sbuf(8, 2, 2)),
         "axes is 3, data has 2 free dimensions"),
        (named("tensor_reduce", "dve", dst=sbuf(8, 3), data=sbuf(8, 2, 2)),
         "dst has 3 elements per partition, the reduction leaves 2"),
        (named("partition_reduce", "pool", dst=sbuf(1, 7), data=sbuf(128, 8)), "dst is 1 x 7, must be 1 x 8"),
        (local_gather(sbuf(24, 16), sbuf(24, 8), sbuf(24, 1, dtype="ui16")),
         "dst has 24 partitions, must be a multiple of 16"),
        (local_gather(sbuf(16, 48), sbuf(16, 8), U16, 3), "fetches 3 elements, must be one of 1, 2, 4, 8, 16, 32"),
        (local_gather(sbuf(16, 16), sbuf(16, 8), sbuf(16, 1)), "indices are f32, must be ui16"),
        (local_gather(sbuf(16, 16, dtype="bf16"), sbuf(16, 8), U16), "dst is bf16, must be f32 as data"),
        (local_gather(sbuf(16, 17), sbuf(16, 8), U16), "dst has room for what 17 / 1 indices fetch, 16 are listed"),
        (local_gather(sbuf(16, 33), sbuf(16, 8), U16, 2), "dst has room for what 33 / 2 indices fetch, 16 are listed"),
        (local_gather(sbuf(16, 4112), sbuf(16, 8), sbuf(16, 257, dtype="ui16")), "4112 indices, at most 4096"),
        (local_gather(sbuf(16, 16), sbuf(16, 8, 8193), U16), "data has 65544 elements, at most 65536"),
        (matmul(psum(8, 8), sbuf(16, 8), sbuf(17, 8)), "stationary has K = 16, moving has K = 17"),
        (matmul(psum(8, 9), sbuf(16, 8), sbuf(16, 8)), "dst is 8 x 9, must be 8 x 8"),
        (matmul(psum(8, 8, dtype="bf16"), sbuf(16, 8), sbuf(16, 8)), "dst is bf16, must be f32"),
        (matmul(psum(8, 8), sbuf(16, 8), sbuf(16, 8, dtype="bf16")), "cannot mix f32 with bf16"),
        (matmul(psum(129, 8), sbuf(128, 129), sbuf(128, 8)), "M = 129, limit 128"),
        (matmul(psum(8, 513), sbuf(128, 8), sbuf(128, 513)), "N = 513, limit 512"),
        (matmul(psum(8, 8), sbuf(16, 8, dtype="i8"), sbuf(16, 8, dtype="i8")), "target trn1 does not multiply i8"),
        (matmul(on_chip("psum", 8, 400, stride=2), sbuf(16, 8), sbuf(16, 400)),
         "dst spans 3196 bytes, limit 2048 (one PSUM bank)"),
        (named("nc_transpose", "pe", dst=psum(8, 8), data=sbuf(16, 8)), "dst is 8 x 8, must be 8 x 16"),
        (named("nc_transpose", "pe", dst=sbuf(8, 16), data=sbuf(16, 8)),
         "on pe it goes from sbuf to psum, not from sbuf to sbuf"),
        (named("nc_transpose", "pe", dst=psum(129, 16), data=sbuf(16, 129)), "F = 129, limit 128"),
        (named("nc_transpose", "dve", dst=sbuf(16, 33), data=sbuf(33, 16)), "on dve 33 x 16 exceeds 32 x 32"),
        (named("nc_transpose", "pe", dst=psum(8, 16), data=sbuf(16, 8, dtype="bf16")),
         "element types differ: dst f32, data bf16"),
    ],
)  # fmt: skip
def test_limits_of_instructions(instruction: Instruction, message: str):
    assert f"{instruction.name}: " in messages(instruction)
    assert message in messages(instruction)


# K cannot exceed the partitions, so only an array with fewer rows shows that limit.
def test_rows_of_the_array():
    figures = {**TRN1.figures, "pe_rows": replace(TRN1.figures["pe_rows"], value=64)}
    assert matmul_shapes(GOOD_MATMUL, replace(TRN1, figures=figures)) == "K = 128, limit 64"


# What one target can do and another cannot.
@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (GOOD_MATMUL, "nc_matmul: M = 128, limit 64"),
        (matmul(psum(64, 8), sbuf(16, 64), sbuf(16, 8)), "target inf1 does not multiply f32; types: bf16, f16"),
        (named("iota", "pool", dst=TILE), "iota: target inf1 has no such instruction"),
        (copy(TILE, TILE, "pool"), "tensor_copy: engine pool of target inf1 has no datapath"),
        (named("nc_transpose", "pe", dst=psum(100, 16), data=sbuf(16, 100)), "F = 100, limit 64"),
    ],
)
def test_limits_of_inf1(instruction: Instruction, message: str):
    assert message in messages(instruction, INF1)
    assert messages(instruction, TRN1) == ""


# The check functions alone: None for what is legal, a message otherwise, also without a target.
def test_check_functions():
    tile, row = sbuf(8, 2, 4), sbuf(8, 8)
    assert same_elements("dst", "data")(copy(tile, row), None) is None
    assert same_elements("dst", "data")(copy(tile, sbuf(8, 7)), None) is not None
    two = named("tensor_tensor", "dve", dst=tile, data=psum(8, 8), other=row)
    assert not_both_psum("data", "other")(two, None) is None
    assert not_both_psum("data", "dst")(replace(two, operands={**two.operands, "dst": psum(8, 8)}), None) is not None
    assert row_limit("dst", 1, 8)(copy(tile, row), None) is None
    assert row_limit("dst", 9, 16)(copy(tile, row), None) == "dst has 8 elements per partition, allowed 9 to 16"
    assert ge_one_dimension(dma(row, dram((1, 64))), None) is None
    assert ge_one_dimension(dma(row, dram((1, 0))), None) == "operand src is empty"
    assert reduce_axes(named("tensor_reduce", "dve", dst=sbuf(8, 2), data=tile), None) is None
    assert partition_reduce_shapes(named("partition_reduce", "pool", dst=sbuf(1, 8), data=tile), None) is None
    assert matmul_shapes(matmul(psum(8, 600), sbuf(8, 8), sbuf(8, 600)), None) is None
    assert transpose_shapes(named("nc_transpose", "pe", dst=psum(8, 16), data=sbuf(16, 8)), None) is None


# The operator table of the engines: the vector engine has no power, the pool engine neither subtracts nor compares.
@pytest.mark.parametrize(
    ("engine", "op", "allowed"),
    [
        ("dve", "subtract", True),
        ("dve", "power", False),
        ("pool", "power", True),
        ("pool", "multiply", True),
        ("pool", "subtract", False),
        ("pool", "less", False),
    ],
)
def test_alu_operators_of_engines(engine: str, op: str, allowed: bool):
    tensor_tensor = named("tensor_tensor", engine, {"op": op}, dst=TILE, data=TILE, other=TILE)
    expected = [] if allowed else [f"tensor_tensor: engine {engine} has no ALU operator {op}"]
    assert verify_instruction(tensor_tensor, load_target("trn1")) == expected


def test_arithmetic_on_the_scalar_engine_needs_v3():
    assert verify_instruction(copy(TILE, TILE, "act"), load_target("trn2")) == []
    assert verify_instruction(copy(TILE, TILE, "act"), load_target("trn1")) == [
        "tensor_copy: engine act of target trn1 has no tensor_copy"
    ]


# Every check that the table refers to is one of those tested above.
def test_no_check_is_left_out():
    tested = {same_elements, not_both_psum, row_limit, ge_one_dimension, reduce_axes, partition_reduce_shapes}
    names = {f.__name__ for f in (*tested, local_gather_shapes, matmul_shapes, transpose_shapes)}
    used = {c.__qualname__.split(".")[0] for d in INSTRUCTIONS.values() for c in d.checks}
    assert used <= names
    assert len(CHECKS_COMMON) == 6


def test_table_is_consistent():
    assert len(OPCODES) == len(INSTRUCTIONS)
    for name, definition in INSTRUCTIONS.items():
        assert definition.name == name
        roles = [o.name for o in definition.operands]
        assert len(set(roles)) == len(roles)
        assert definition.source
        assert any(o.writes for o in definition.operands)
        for field in definition.fields:
            assert field.kind in {"f32", "i32", "bool", "affine", *ENUMS}
            if field.kind in ENUMS:
                assert field.default in ENUMS[field.kind]
        assert definition.is_dma == (definition.engines == ("dma",))


def test_fields_have_defaults():
    instruction = named("activation", "act", {"func": "exp"}, dst=TILE, data=TILE)
    assert instruction.field("func") == "exp"
    assert instruction.field("scale") == 1.0
