"""Limits of instructions as small check functions: each returns None or a message with the figure and the limit.

Checks run on the plain `Instruction`, so the verifier of the nisa dialect, the assembler and the encoder share them. A
check that needs a target's figure is skipped when no target is known (plain round trips of text without a target
attribute).
"""

from neuron_dialects.isa.model import ALU_OPS, CheckFunction, Instruction, Operand
from neuron_dialects.target import Target

MAX_ON_CHIP_DIMS = 4
MAX_DMA_DIMS = 5
MAX_SIZE = 65535
MAX_PARTITIONS = 128
"""Partitions of SBUF and PSUM, and columns of the tensor engine, where no target is known."""
CORE_PARTITIONS = 16
"""Partitions that one core of gpsimd works on."""
GATHERED_ELEMENTS = (1, 2, 4, 8, 16, 32)
"""How many elements an index of a local gather may fetch."""
MAX_LOCAL_INDICES = 4096
"""Indices that a core of gpsimd takes in one local gather."""
LEGAL_STARTS = ((128, 64, (0,)), (64, 32, (0, 64)), (32, 0, (0, 32, 64, 96)))
"""(at most, more than, legal first partitions): the start-partition rule of the compute engines."""


def known_engine(instruction: Instruction, target: Target | None) -> str | None:
    """The instruction exists on the target and on the engine that it names."""
    from neuron_dialects.isa.definitions import INSTRUCTIONS

    engines = INSTRUCTIONS[instruction.name].engines
    if instruction.engine not in engines:
        return f"engine {instruction.engine} does not execute it; engines: {', '.join(engines)}"
    if target is None:
        return None
    if instruction.name in target.unsupported_instructions:
        return f"target {target.name} has no such instruction"
    if instruction.engine == "act" and instruction.name in ("tensor_scalar", "tensor_copy") and not target.act_alu:
        return f"engine act of target {target.name} has no {instruction.name}"
    if instruction.engine != "dma" and instruction.engine not in target.compute_engines:
        return f"engine {instruction.engine} of target {target.name} has no datapath"
    return None


def operand_table(instruction: Instruction, target: Target | None) -> str | None:
    """Required operands are there, and each lies in a memory that the instruction can reach."""
    from neuron_dialects.isa.definitions import INSTRUCTIONS

    definition = INSTRUCTIONS[instruction.name]
    for role in definition.operands:
        operand = instruction.operands.get(role.name)
        if operand is None:
            if not role.optional:
                return f"operand {role.name} is missing"
            continue
        if operand.space not in role.spaces:
            return f"operand {role.name} lies in {operand.space}; allowed: {', '.join(role.spaces)}"
        if role.shape == "column" and operand.pattern.free_elements != 1:
            return f"operand {role.name} has {operand.pattern.free_elements} elements per partition, must have 1"
        if instruction.engine == "pool" and operand.space == "psum":
            return f"operand {role.name}: pool has no access to PSUM"
    unknown = set(instruction.operands) - {o.name for o in definition.operands}
    return f"unknown operand {min(unknown)}" if unknown else None


def _geometry(name: str, operand: Operand, is_dma: bool, target: Target | None) -> str | None:
    pattern = operand.pattern
    limit = MAX_DMA_DIMS if is_dma else MAX_ON_CHIP_DIMS
    if len(pattern.dims) > limit:
        return f"operand {name} has {len(pattern.dims)} free dimensions, limit {limit}"
    if any(size < 1 or size > MAX_SIZE for _, size in pattern.dims) and not pattern.is_dram:
        return f"operand {name} has a dimension of {max(s for _, s in pattern.dims)}, limit {MAX_SIZE}"
    if (operand.space == "dram") != pattern.is_dram:
        return f"operand {name} in {operand.space} has {pattern.partitions} partitions"
    if pattern.is_dram:
        return None
    lanes = target.partitions if target is not None else MAX_PARTITIONS
    if not 1 <= pattern.partitions <= lanes:
        return f"operand {name} spans {pattern.partitions} partitions, limit {lanes}"
    if not pattern.partition.is_constant:
        return f"operand {name} starts on a partition that depends on a loop"
    start = pattern.partition.constant
    if start < 0 or start + pattern.partitions > lanes:
        return f"operand {name} spans partitions {start} to {start + pattern.partitions - 1}, limit {lanes - 1}"
    return None


def operand_geometry(instruction: Instruction, target: Target | None) -> str | None:
    """Ranks, sizes and partitions of every operand."""
    for name, operand in instruction.operands.items():
        message = _geometry(name, operand, instruction.engine == "dma", target)
        if message:
            return message
    return None


def start_partitions(instruction: Instruction, target: Target | None) -> str | None:
    """Compute engines start on quadrants: over 64 partitions at 0, 33 to 64 at 0 or 64, fewer at a multiple of 32."""
    if instruction.engine == "dma":
        return None
    for name, operand in instruction.operands.items():
        pattern = operand.pattern
        start = pattern.partition.constant
        for most, above, starts in LEGAL_STARTS:
            if above < pattern.partitions <= most and start not in starts:
                return (
                    f"operand {name}: {pattern.partitions} partitions cannot start at {start}, only at {list(starts)}"
                )
    return None


def lanes_agree(instruction: Instruction, target: Target | None) -> str | None:
    """Operands of an engine instruction use equally many partitions; matmul and transposes have their own rules."""
    if instruction.engine in ("dma", "pe") or instruction.name in ("nc_transpose", "partition_reduce"):
        return None
    counts = {o.pattern.partitions for o in instruction.operands.values()}
    return f"operands span different numbers of partitions: {sorted(counts)}" if len(counts) > 1 else None


ENGINE_ALU_OPS: dict[str, frozenset[str]] = {
    "dve": frozenset(ALU_OPS) - {"power", "rsqrt"},
    "pool": frozenset({"bypass", "add", "multiply", "maximum", "minimum", "power", "rsqrt"}),
    "act": frozenset({"bypass", "add", "multiply"}),
}
"""ALU operators that an engine has (ISA, operator table; those of act exist from v3 on)."""


def alu_operators(instruction: Instruction, target: Target | None) -> str | None:
    """The engine has the ALU operators that the instruction names (affine_select compares on pool by itself)."""
    known = ENGINE_ALU_OPS.get(instruction.engine)
    if known is None or instruction.name in ("activation", "affine_select"):
        return None
    definition = instruction.definition
    for field in definition.fields:
        if field.kind == "alu" and (op := instruction.fields.get(field.name, field.default)) not in known:
            return f"engine {instruction.engine} has no ALU operator {op}"
    return None


CHECKS_COMMON: tuple[CheckFunction, ...] = (
    known_engine,
    operand_table,
    operand_geometry,
    start_partitions,
    lanes_agree,
    alu_operators,
)


def same_elements(*names: str) -> CheckFunction:
    """The named operands (those present) have the same number of elements; DRAM counts all, on-chip all partitions."""

    def check(instruction: Instruction, target: Target | None) -> str | None:
        present = {n: instruction.operands[n].pattern.elements for n in names if n in instruction.operands}
        if len(set(present.values())) > 1:
            return "numbers of elements differ: " + ", ".join(f"{n} {c}" for n, c in present.items())
        return None

    return check


def not_both_psum(first: str, second: str) -> CheckFunction:
    """At most one of the two inputs lies in PSUM."""

    def check(instruction: Instruction, target: Target | None) -> str | None:
        spaces = [instruction.operands[n].space for n in (first, second) if n in instruction.operands]
        return f"{first} and {second} both lie in PSUM" if spaces == ["psum", "psum"] else None

    return check


def row_limit(name: str, least: int, most: int) -> CheckFunction:
    """Elements per partition of one operand."""

    def check(instruction: Instruction, target: Target | None) -> str | None:
        count = instruction.operands[name].pattern.free_elements
        if least <= count <= most:
            return None
        return f"{name} has {count} elements per partition, allowed {least} to {most}"

    return check


def ge_one_dimension(instruction: Instruction, target: Target | None) -> str | None:
    """No operand of a DMA is empty."""
    empty = [n for n, o in instruction.operands.items() if o.pattern.elements < 1]
    return f"operand {empty[0]} is empty" if empty else None


def reduce_axes(instruction: Instruction, target: Target | None) -> str | None:
    """`axes` innermost dims of data are reduced; dst holds one element for each remaining position."""
    dims = instruction.operands["data"].pattern.dims
    axes = int(instruction.field("axes"))
    if not 1 <= axes <= len(dims):
        return f"axes is {axes}, data has {len(dims)} free dimensions"
    kept = 1
    for _, size in dims[: len(dims) - axes]:
        kept *= size
    have = instruction.operands["dst"].pattern.free_elements
    return None if have == kept else f"dst has {have} elements per partition, the reduction leaves {kept}"


def local_gather_shapes(instruction: Instruction, target: Target | None) -> str | None:
    """Whole gpsimd cores of 16 partitions, at most 4096 16-bit indices each, that fetch 1 to 32 elements; no cast."""
    dst, data, indices = (instruction.operands[n] for n in ("dst", "data", "indices"))
    elements, width = int(instruction.field("elements")), data.pattern.free_elements
    if dst.pattern.partitions % CORE_PARTITIONS:
        return f"dst has {dst.pattern.partitions} partitions, must be a multiple of {CORE_PARTITIONS}"
    if elements not in GATHERED_ELEMENTS:
        return f"an index fetches {elements} elements, must be one of {', '.join(map(str, GATHERED_ELEMENTS))}"
    if indices.dtype != "ui16" or dst.dtype != data.dtype:
        return f"indices are {indices.dtype}, must be ui16; dst is {dst.dtype}, must be {data.dtype} as data"
    count, rest = divmod(dst.pattern.free_elements, elements)
    if rest or not 0 <= indices.pattern.free_elements * CORE_PARTITIONS - count < CORE_PARTITIONS:
        listed = indices.pattern.free_elements * CORE_PARTITIONS
        return f"dst has room for what {dst.pattern.free_elements} / {elements} indices fetch, {listed} are listed"
    if count > MAX_LOCAL_INDICES:
        return f"{count} indices, at most {MAX_LOCAL_INDICES}"
    return f"data has {width} elements, at most {MAX_SIZE + 1}" if width > MAX_SIZE + 1 else None


def partition_reduce_shapes(instruction: Instruction, target: Target | None) -> str | None:
    """dst is one partition with data's elements."""
    dst, data = instruction.operands["dst"].pattern, instruction.operands["data"].pattern
    if dst.partitions != 1 or dst.free_elements != data.free_elements:
        return f"dst is {dst.partitions} x {dst.free_elements}, must be 1 x {data.free_elements}"
    return None


def matmul_shapes(instruction: Instruction, target: Target | None) -> str | None:
    """K <= rows, M <= columns, N <= one bank; dst [M, N] fp32 within one PSUM bank; legal, matching element types."""
    dst, stationary, moving = (instruction.operands[n] for n in ("dst", "stationary", "moving"))
    k, m, n = stationary.pattern.partitions, stationary.pattern.free_elements, moving.pattern.free_elements
    if moving.pattern.partitions != k:
        return f"stationary has K = {k}, moving has K = {moving.pattern.partitions}"
    if (dst.pattern.partitions, dst.pattern.free_elements) != (m, n):
        return f"dst is {dst.pattern.partitions} x {dst.pattern.free_elements}, must be {m} x {n}"
    if dst.dtype != "f32":
        return f"dst is {dst.dtype}, must be f32"
    wide = {d for d in (stationary.dtype, moving.dtype) if d in ("f32", "tf32")}
    if wide and len({stationary.dtype, moving.dtype} - {"f32", "tf32"}):
        return f"cannot mix {stationary.dtype} with {moving.dtype}"
    if target is None:
        return None
    limits = (("K", k, target.pe_rows), ("M", m, target.pe_columns), ("N", n, target.pe_moving_elements))
    for label, value, limit in limits:
        if value > limit:
            return f"{label} = {value}, limit {limit}"
    for operand in (stationary, moving):
        if operand.dtype not in target.matmul_dtypes:
            return f"target {target.name} does not multiply {operand.dtype}; types: {', '.join(target.matmul_dtypes)}"
    low, high = dst.pattern.extent
    if (high - low + 1) * 4 > target.psum_bank_bytes:
        return f"dst spans {(high - low + 1) * 4} bytes, limit {target.psum_bank_bytes} (one PSUM bank)"
    return None


def transpose_shapes(instruction: Instruction, target: Target | None) -> str | None:
    """[P, F] -> [F, P]: on pe into PSUM within the array, on dve within 32 x 32; same element type."""
    dst, data = instruction.operands["dst"], instruction.operands["data"]
    p, f = data.pattern.partitions, data.pattern.free_elements
    if (dst.pattern.partitions, dst.pattern.free_elements) != (f, p):
        return f"dst is {dst.pattern.partitions} x {dst.pattern.free_elements}, must be {f} x {p}"
    if instruction.engine == "pe":
        if data.space != "sbuf" or dst.space != "psum":
            return f"on pe it goes from sbuf to psum, not from {data.space} to {dst.space}"
        columns = target.pe_columns if target is not None else MAX_PARTITIONS
        if f > columns:
            return f"F = {f}, limit {columns}"
    elif max(p, f) > 32:
        return f"on dve {p} x {f} exceeds 32 x 32"
    if dst.dtype != data.dtype:
        return f"element types differ: dst {dst.dtype}, data {data.dtype}"
    if instruction.engine == "pe" and target is not None and not target.pe_transpose_exact:
        if data.dtype not in target.matmul_dtypes:
            return f"the array of target {target.name} does not pass {data.dtype} exactly"
    return None
