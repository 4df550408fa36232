"""The instruction table: all instructions of the five engines and the DMA rings, with the public NKI ISA's names.

Cycle formulas are those of the public ISA reference where it gives one; `N` is elements per partition. Sources: "ISA"
the public instruction reference, "PERF" the public performance guide, "derived" our reading where no formula is
published, "toolkit" what the public material leaves open (register and semaphore instructions).
"""

from neuron_dialects.access import Affine
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
from neuron_dialects.isa.model import FieldDef, Instruction, InstructionDef, OperandDef
from neuron_dialects.target import Target

SBUF, PSUM, DRAM, ON_CHIP = ("sbuf",), ("psum",), ("dram",), ("sbuf", "psum")
SIXTEEN_BIT = ("bf16", "f16")


def _elements(instruction: Instruction) -> int:
    """Largest number of elements per partition over the tile operands."""
    return max(o.pattern.free_elements for o in instruction.operands.values() if o.space != "dram")


def _minimum(cycles: float, target: Target) -> float:
    return max(float(target.min_issue_cycles), cycles)


def _fast_mode(instruction: Instruction, target: Target, roles: tuple[str, ...]) -> float:
    """Speed-up of the vector engine's 16-bit modes from v3 on: 4 if all is contiguous in SBUF, 2 with one PSUM side."""
    operands = [instruction.operands[r] for r in roles if r in instruction.operands]
    if not target.dve_fast_modes or any(o.dtype not in SIXTEEN_BIT for o in operands):
        return 1.0
    contiguous = all(o.pattern.dims[-1][0] == 1 or o.pattern.dims[-1][1] == 1 for o in operands)
    in_sbuf = all(o.space == "sbuf" for o in operands)
    return 4.0 if contiguous and in_sbuf else 2.0 if contiguous or in_sbuf else 1.0


def cost_stream(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, N)."""
    return _minimum(_elements(instruction), target)


def cost_copy(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, N), faster in the vector engine's 16-bit modes (ISA; modes: v3 architecture page)."""
    factor = _fast_mode(instruction, target, ("dst", "data")) if instruction.engine == "dve" else 1.0
    return _minimum(_elements(instruction) / factor, target)


def cost_two_streams(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, N) with one input in PSUM (not for a scan) or all bf16 and contiguous, else max(MIN_II, 2N)."""
    n = _elements(instruction)
    operands = instruction.operands
    inputs = [operands[r] for r in ("data", "other", "predicate") if r in operands]
    if len({o.space for o in inputs}) > 1 and instruction.name != "tensor_tensor_scan":
        return _minimum(n, target)
    simple = instruction.fields.get("op", "add") in ("add", "multiply", "subtract")
    bf16 = all(o.dtype == "bf16" and o.pattern.dims[-1][0] in (0, 1) for o in operands.values())
    if instruction.name == "tensor_tensor" and simple and bf16:
        return _minimum(n / (2.0 if target.dve_fast_modes else 1.0), target)
    return _minimum(2 * n, target)


def cost_reduce(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, N/2) for add and max on bf16, else max(MIN_II, N)."""
    n = _elements(instruction)
    fast = instruction.fields.get("op") in ("add", "maximum") and all(
        o.dtype == "bf16" for o in instruction.operands.values()
    )
    return _minimum(n / 2 if fast else n, target)


def cost_memset(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, N/2) for zero in 16 bits, else max(MIN_II, N)."""
    n = _elements(instruction)
    half = not instruction.fields.get("value", 0.0) and instruction.operands["dst"].dtype in SIXTEEN_BIT
    return _minimum(n / 2 if half else n, target)


def cost_reciprocal(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, 8N)."""
    return _minimum(8 * _elements(instruction), target)


def cost_accumulating(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, N) + MIN_II: a row result is read at the end."""
    return cost_stream(instruction, target) + target.min_issue_cycles


def cost_activation(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, N), plus MIN_II when the row sum is read out."""
    return cost_accumulating(instruction, target) if "sum" in instruction.operands else cost_stream(instruction, target)


def cost_matmul(instruction: Instruction, target: Target) -> float:
    """max(min(64, M), N) cycles for 16-bit types, four times that for fp32 (ISA); the weight load is hidden."""
    m = instruction.operands["stationary"].pattern.free_elements
    n = instruction.operands["moving"].pattern.free_elements
    return max(min(64, m), n) * target.matmul_rate_factor(instruction.operands["moving"].dtype)


def cost_transpose(instruction: Instruction, target: Target) -> float:
    """max(P, min(64, F)) on the tensor engine, where fp32 takes more passes; max(MIN_II, N) on the vector engine."""
    data = instruction.operands["data"]
    if instruction.engine != "pe":
        return cost_stream(instruction, target)
    cycles = max(data.pattern.partitions, min(64, data.pattern.free_elements))
    return cycles * (target.matmul_rate_factor("f32") / 2 if data.dtype in ("f32", "i32", "ui32") else 1.0)


def cost_pool_start(instruction: Instruction, target: Target) -> float:
    """150 + N."""
    return 150.0 + _elements(instruction)


def cost_local_gather(instruction: Instruction, target: Target) -> float:
    """150 + N * (28 + 4E) / 4E / min(4 / bytes, E), for N elements of dst, E of them fetched with each index."""
    # Types know those of numpy, which is not loaded for the table alone.
    from neuron_dialects.dtypes import dtype_by_name

    elements, size = int(instruction.field("elements")), dtype_by_name(instruction.operands["data"].dtype).size_bytes
    each = (28 + 4 * elements) / (4 * elements) / min(4 / size, elements)
    return 150.0 + instruction.operands["dst"].pattern.free_elements * each


def cost_dma(instruction: Instruction, target: Target) -> float:
    """Nanoseconds that the DMA engines are busy; see `neuron_dialects.cost.dma_cost` (a DMA has no engine cycles)."""
    return 0.0


def cost_bn_aggregate(instruction: Instruction, target: Target) -> float:
    """max(MIN_II, 13 * N / 3)."""
    return _minimum(13 * instruction.operands["data"].pattern.free_elements / 3, target)


def cost_max8(instruction: Instruction, target: Target) -> float:
    """N cycles."""
    return float(instruction.operands["data"].pattern.free_elements)


def _tile(name: str, direction: str = "in", spaces: tuple[str, ...] = ON_CHIP, optional: bool = False) -> OperandDef:
    return OperandDef(name, direction, spaces, optional)


def _column(name: str, direction: str = "in") -> OperandDef:
    return OperandDef(name, direction, ON_CHIP, True, "column")


_ALU2 = (
    FieldDef("op0", "alu", "bypass"),
    FieldDef("scalar0", "f32", 0.0, "used where operand0 is absent"),
    FieldDef("reverse0", "bool", False, "scalar op data instead of data op scalar"),
    FieldDef("op1", "alu", "bypass"),
    FieldDef("scalar1", "f32", 0.0, "used where operand1 is absent"),
    FieldDef("reverse1", "bool", False),
)

_DEFINITIONS = (
    InstructionDef(
        "nc_matmul", 1, ("pe",),
        (_tile("dst", "inout", PSUM), _tile("stationary", spaces=SBUF), _tile("moving", spaces=SBUF)),
        (FieldDef("accumulate", "affine", Affine(), "adds to dst where non-zero, else overwrites"),),
        "dst[M, N] (+)= stationary[K, M]^T . moving[K, N], fp32 accumulation", "ISA", cost_matmul,
        (matmul_shapes,),
    ),
    InstructionDef(
        "nc_transpose", 2, ("pe", "dve"), (_tile("dst", "out"), _tile("data")), (),
        "dst[F, P] = data[P, F]^T: on pe up to 128 x 128 from SBUF into PSUM, on dve within 32 x 32", "ISA",
        cost_transpose, (transpose_shapes,),
    ),
    InstructionDef(
        "activation", 3, ("act",),
        (_tile("dst", "out"), _tile("data"), _column("bias"), _column("scale_column"), _column("sum", "out")),
        (
            FieldDef("func", "activation", "copy"), FieldDef("scale", "f32", 1.0, "used where scale_column is absent"),
            FieldDef("alpha", "f32", 0.0, "slope of prelu"),
        ),
        "dst = func(data * scale + bias); with `sum`, also the row sum of the result", "ISA", cost_activation,
        (same_elements("dst", "data"),),
    ),
    InstructionDef(
        "tensor_tensor", 4, ("dve", "pool"), (_tile("dst", "out"), _tile("data"), _tile("other")),
        (FieldDef("op", "alu", "add"),), "dst = data op other", "ISA", cost_two_streams,
        (same_elements("dst", "data", "other"), not_both_psum("data", "other")),
    ),
    InstructionDef(
        "tensor_scalar", 5, ("dve", "pool", "act"),
        (_tile("dst", "out"), _tile("data"), _column("operand0"), _column("operand1")), _ALU2,
        "dst = (data op0 scalar0) op1 scalar1; scalars are immediates or one per partition", "ISA", cost_copy,
        (same_elements("dst", "data"),),
    ),
    InstructionDef(
        "tensor_scalar_reduce", 6, ("dve",),
        (_tile("dst", "out"), _tile("data"), _column("operand0"),
         OperandDef("result", "out", ON_CHIP, optional=False, shape="column")),
        (*_ALU2[:3], FieldDef("reduce", "reduce", "add")),
        "dst = data op0 scalar0, result = row reduction of dst", "ISA", cost_accumulating,
        (same_elements("dst", "data"),),
    ),
    InstructionDef(
        "scalar_tensor_tensor", 7, ("dve",),
        (_tile("dst", "out"), _tile("data"), _column("operand0"), _tile("other")),
        (*_ALU2[:3], FieldDef("op1", "alu", "bypass"), FieldDef("reverse1", "bool", False)),
        "dst = (data op0 scalar0) op1 other", "ISA", cost_two_streams,
        (same_elements("dst", "data", "other"), not_both_psum("data", "other")),
    ),
    InstructionDef(
        "tensor_tensor_scan", 8, ("dve",),
        (_tile("dst", "out"), _tile("data"), _tile("other"), _column("initial")),
        (FieldDef("op0", "alu", "multiply"), FieldDef("op1", "alu", "add"), FieldDef("initial_value", "f32", 0.0)),
        "dst[i] = (data[i] op0 dst[i-1]) op1 other[i] along the row, from `initial`", "ISA", cost_two_streams,
        (same_elements("dst", "data", "other"), not_both_psum("data", "other")),
    ),
    InstructionDef(
        "tensor_reduce", 9, ("dve",), (_tile("dst", "out"), _tile("data")),
        (FieldDef("op", "reduce", "add"), FieldDef("axes", "i32", 1, "innermost dims of data that are reduced"),
         FieldDef("negate", "bool", False)),
        "dst = reduction of the innermost free dimensions of data", "ISA", cost_reduce, (reduce_axes,),
    ),
    InstructionDef(
        "tensor_copy", 10, ("dve", "pool", "act"), (_tile("dst", "out"), _tile("data")), (),
        "dst = data, cast to dst's type; bit exact between equal types", "ISA", cost_copy,
        (same_elements("dst", "data"),),
    ),
    InstructionDef(
        "tensor_copy_predicated", 11, ("dve",), (_tile("dst", "inout"), _tile("data"), _tile("predicate")),
        (FieldDef("reverse", "bool", False, "copy where the predicate is zero"),),
        "dst = data where predicate is non-zero, else unchanged", "ISA", cost_two_streams,
        (same_elements("dst", "data", "predicate"), not_both_psum("data", "predicate")),
    ),
    InstructionDef(
        "memset", 12, ("dve", "pool"), (_tile("dst", "out"),), (FieldDef("value", "f32", 0.0),),
        "dst = value", "ISA", cost_memset,
    ),
    InstructionDef(
        "reciprocal", 13, ("dve",), (_tile("dst", "out"), _tile("data")), (), "dst = 1 / data", "ISA", cost_reciprocal,
        (same_elements("dst", "data"),),
    ),
    InstructionDef(
        "bn_stats", 14, ("dve",), (_tile("dst", "out"), _tile("data")), (),
        "dst[6] = count, mean and M2 of the even and of the odd elements of the row (N <= 512)", "ISA", cost_stream,
        (row_limit("data", 1, 512), row_limit("dst", 6, 6)),
    ),
    InstructionDef(
        "bn_aggr", 15, ("dve",), (_tile("dst", "out"), _tile("data")), (),
        "dst[2] = mean and variance from triples (count, mean, M2)", "ISA", cost_bn_aggregate,
        (row_limit("dst", 2, 2),),
    ),
    InstructionDef(
        "max8", 16, ("dve",), (_tile("dst", "out"), _tile("data")), (), "dst[8] = the 8 largest of the row, descending",
        "ISA", cost_max8, (row_limit("data", 8, 16384), row_limit("dst", 8, 8)),
    ),
    InstructionDef(
        "nc_find_index8", 17, ("dve",), (_tile("dst", "out"), _tile("data"), _tile("values")), (),
        "dst[8] = first index in data of each of 8 values; all ones where absent", "ISA", cost_max8,
        (row_limit("data", 8, 16384), row_limit("values", 8, 8), row_limit("dst", 8, 8)),
    ),
    InstructionDef(
        "nc_match_replace8", 18, ("dve",), (_tile("dst", "out"), _tile("data"), _tile("values")),
        (FieldDef("value", "f32", 0.0),), "dst = data with the first match of each of 8 values replaced", "ISA",
        cost_stream, (same_elements("dst", "data"), row_limit("values", 8, 8)),
    ),
    InstructionDef(
        "range_select", 19, ("dve",),
        (_tile("dst", "out"), _tile("data"), _column("lower"), _column("upper")),
        (FieldDef("fill", "f32", -3.4028234663852886e38),),
        "dst[i] = data[i] where lower <= i < upper, else fill", "ISA", cost_stream, (same_elements("dst", "data"),),
    ),
    InstructionDef(
        "iota", 20, ("pool",), (_tile("dst", "out"),),
        (FieldDef("offset", "i32", 0), FieldDef("step", "i32", 1), FieldDef("channel_multiplier", "i32", 0)),
        "dst[p, i] = offset + channel_multiplier * p + step * i", "ISA", cost_pool_start,
    ),
    InstructionDef(
        "affine_select", 21, ("pool",), (_tile("dst", "out"), _tile("data", spaces=SBUF)),
        (FieldDef("offset", "i32", 0), FieldDef("step", "i32", 1), FieldDef("channel_multiplier", "i32", 0),
         FieldDef("op", "alu", "greater_equal"), FieldDef("fill", "f32", 0.0)),
        "dst[p, i] = data[p, i] where (offset + channel_multiplier * p + step * i) op 0, else fill", "ISA",
        cost_pool_start, (same_elements("dst", "data"),),
    ),
    InstructionDef(
        "local_gather", 22, ("pool",),
        (_tile("dst", "out", SBUF), _tile("data", spaces=SBUF), _tile("indices", spaces=SBUF)),
        (FieldDef("elements", "i32", 1, "elements that an index fetches: 1, 2, 4, 8, 16 or 32"),),
        "dst[p, i, :] = the elements of data[p, :] from index i on; index i of 16 partitions from 16c on, which share"
        " theirs, is indices[16c + i % 16, i / 16]", "ISA", cost_local_gather, (local_gather_shapes,),
    ),
    InstructionDef(
        "partition_reduce", 23, ("pool",), (_tile("dst", "out", SBUF), _tile("data", spaces=SBUF)),
        (FieldDef("op", "reduce", "add"),), "dst[0, i] = reduction over the partitions of data[:, i]", "ISA",
        cost_pool_start, (partition_reduce_shapes,),
    ),
    InstructionDef(
        "dma_copy", 32, ("dma",), (_tile("dst", "out", ("sbuf", "dram")), _tile("src", spaces=("sbuf", "dram"))), (),
        "dst = src, cast to dst's type; the two patterns list the same number of elements in the same order", "ISA",
        cost_dma, (same_elements("dst", "src"), ge_one_dimension),
    ),
    InstructionDef(
        "dma_gather", 33, ("dma",),
        (_tile("dst", "out", SBUF), OperandDef("table", "in", DRAM, False, "free"),
         OperandDef("indices", "in", SBUF, False, "column")),
        (FieldDef("rows", "i32", 0, "rows of the table; an index outside 0 .. rows - 1 is an error"),
         FieldDef("row_stride", "i32", 0, "elements between rows of the table")),
        "dst[p, :] = the row of the table that starts at offset + row_stride * indices[p]", "ISA", cost_dma,
    ),
    InstructionDef(
        "dma_scatter", 34, ("dma",),
        (OperandDef("table", "inout", DRAM, False, "free"), _tile("data", spaces=SBUF),
         OperandDef("indices", "in", SBUF, False, "column")),
        (FieldDef("rows", "i32", 0), FieldDef("row_stride", "i32", 0)),
        "the row of the table that starts at offset + row_stride * indices[p] = data[p, :]", "ISA", cost_dma,
    ),
)  # fmt: skip

INSTRUCTIONS: dict[str, InstructionDef] = {d.name: d for d in _DEFINITIONS}
"""Every datapath and DMA instruction by name."""

OPCODES: dict[int, InstructionDef] = {d.opcode: d for d in _DEFINITIONS}
"""The same by opcode."""


PLUGIN_OPCODES = range(64, 128)
"""Opcodes of instructions that plug-ins add; the toolkit's own stay below, control instructions lie above."""


def addition_problem(definition: InstructionDef) -> str | None:
    """Why a plug-in cannot add an instruction: its name or opcode is taken, or the opcode is not a plug-in's."""
    if definition.name in INSTRUCTIONS:
        return f"there is an instruction {definition.name} already"
    if definition.opcode in OPCODES:
        taken = OPCODES[definition.opcode].name
        return f"instruction {definition.name}: opcode {definition.opcode} is that of {taken}"
    if definition.opcode not in PLUGIN_OPCODES:
        first, last = PLUGIN_OPCODES[0], PLUGIN_OPCODES[-1]
        return f"instruction {definition.name}: opcode {definition.opcode} is not in {first} to {last}"
    return None


def add_instruction(definition: InstructionDef) -> None:
    """Add a plug-in's instruction, which has no `addition_problem`, to the table."""
    INSTRUCTIONS[definition.name] = OPCODES[definition.opcode] = definition


def verify_instruction(instruction: Instruction, target: Target | None) -> list[str]:
    """What the instruction violates, one message with figure and limit each; empty when the target can execute it."""
    definition = INSTRUCTIONS[instruction.name]
    problems: list[str] = []
    for check in (*CHECKS_COMMON, *definition.checks):
        message = check(instruction, target)
        if message:
            problems.append(f"{instruction.name}: {message}")
    return problems
