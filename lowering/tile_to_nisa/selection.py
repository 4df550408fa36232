"""Instruction selection as plain data: which instruction, on which engine, a tile op becomes.

Given the tile op's plain `Instruction` (engine not chosen yet) and the target, `choices` lists the legal (instruction,
engine) pairs, and `EngineBalance` picks among them by the load that the engines carry already, in cost-model
nanoseconds times the trip counts of the enclosing loops.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from neuron_dialects.cost import issue_ns, shared_ports
from neuron_dialects.isa import INSTRUCTIONS, Instruction
from neuron_dialects.isa.limits import alu_operators
from neuron_dialects.target import Target

EXACT_INTEGER_OPS = ("add", "subtract", "multiply")
"""Integer operators that the vector engine would compute through fp32."""


def _fields_without_defaults(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name: f.default for f in INSTRUCTIONS[name].fields}
    return {k: v for k, v in fields.items() if k in known and v != known[k]}


def _wants_exact_integers(instruction: Instruction) -> bool:
    """Whether it does 32-bit integer arithmetic that only the pool engine does exactly."""
    if not all(o.dtype in ("i32", "ui32") for o in instruction.operands.values()):
        return False
    ops = {instruction.field(f.name) for f in instruction.definition.fields if f.kind == "alu"}
    return bool(ops & set(EXACT_INTEGER_OPS))


def _engines(instruction: Instruction, target: Target) -> list[str]:
    """Engines that can execute the instruction as it stands; pool only where it is the exact one or the only one."""
    reachable = [e for e in instruction.definition.engines if e in target.compute_engines]
    if any(o.space == "psum" for o in instruction.operands.values()):
        reachable = [e for e in reachable if e != "pool"]
    if not target.act_alu and instruction.name in ("tensor_scalar", "tensor_copy"):
        reachable = [e for e in reachable if e != "act"]
    able = [e for e in reachable if alu_operators(replace(instruction, engine=e), target) is None]
    if instruction.name in ("tensor_tensor", "tensor_scalar", "tensor_copy") and "pool" in able and len(able) > 1:
        return ["pool"] if _wants_exact_integers(instruction) else [e for e in able if e != "pool"]
    return ["pe"] if instruction.name == "nc_transpose" else able


def choices(instruction: Instruction, target: Target) -> list[Instruction]:
    """The ways to execute it, best first where loads are equal; empty when no engine of the target can."""
    found = [replace(instruction, engine=engine) for engine in _engines(instruction, target)]
    if instruction.name == "tensor_copy" and _float_copy(instruction):
        found.append(Instruction("activation", "act", instruction.operands, {"func": "copy"}))
    if instruction.name == "activation" and _plain_copy(instruction):
        found.append(Instruction("tensor_copy", "dve", instruction.operands, {}))
    if instruction.name == "activation" and _plain_relu(instruction):
        found.append(Instruction("tensor_scalar", "dve", instruction.operands, {"op0": "maximum", "scalar0": 0.0}))
    if instruction.name == "activation" and (as_scalar := _bias_on_the_vector_engine(instruction)) is not None:
        found.append(as_scalar)
    if instruction.name == "tensor_scalar" and (as_activation := _biased_activation(instruction)) is not None:
        found.append(as_activation)
    return [replace(i, fields=_fields_without_defaults(i.name, i.fields)) for i in found]


def ahead(options: list[Instruction], target: Target) -> list[Instruction]:
    """The same work on the pool engine where it can do it: its queue runs ahead of those that empty PSUM."""
    first = options[0]
    moved = replace(first, engine="pool")
    possible = "pool" in first.definition.engines and "pool" in target.compute_engines
    in_sbuf = all(o.space == "sbuf" for o in first.operands.values())
    return [moved] if possible and in_sbuf and alu_operators(moved, target) is None else options


def _bias_on_the_vector_engine(instruction: Instruction) -> Instruction | None:
    """copy(data + bias) and relu(data + bias) as one tensor_scalar; None for anything else."""
    func = instruction.field("func")
    if set(instruction.operands) != {"dst", "data", "bias"} or instruction.field("scale") != 1.0:
        return None
    if func not in ("copy", "relu") or not _float_copy(instruction):
        return None
    operands = {
        "dst": instruction.operands["dst"],
        "data": instruction.operands["data"],
        "operand0": instruction.operands["bias"],
    }
    rectify = {"op1": "maximum", "scalar1": 0.0} if func == "relu" else {}
    return Instruction("tensor_scalar", "dve", operands, {"op0": "add", **rectify})


def _biased_activation(instruction: Instruction) -> Instruction | None:
    """(data + column) and max(data + column, 0) on floats as an activation with that bias; None for anything else."""
    bias = instruction.operands.get("operand0")
    func = {"bypass": "copy", "maximum": "relu"}.get(str(instruction.field("op1")))
    in_order = not instruction.field("reverse0") and not instruction.field("reverse1")
    plain = in_order and instruction.field("op0") == "add"
    zero = func == "copy" or instruction.field("scalar1") == 0.0
    if bias is None or func is None or not plain or not zero or "operand1" in instruction.operands:
        return None
    if not _float_copy(instruction):
        return None
    operands = {"dst": instruction.operands["dst"], "data": instruction.operands["data"], "bias": bias}
    return Instruction("activation", "act", operands, {"func": func})


def _float_copy(instruction: Instruction) -> bool:
    """A copy between float types: the scalar engine, which works in fp32, is as exact here as the vector engine."""
    return all(o.dtype in ("f32", "bf16", "f16") for o in instruction.operands.values())


def _plain_copy(instruction: Instruction) -> bool:
    fields = instruction.fields
    plain = fields.get("func", "copy") == "copy" and fields.get("scale", 1.0) == 1.0
    return plain and set(instruction.operands) == {"dst", "data"}


def _plain_relu(instruction: Instruction) -> bool:
    fields = instruction.fields
    return (
        fields.get("func") == "relu"
        and fields.get("scale", 1.0) == 1.0
        and set(instruction.operands) == {"dst", "data"}
    )


@dataclass
class EngineBalance:
    """Nanoseconds of work given to each engine, and to each port that engines share, since the kernel began.

    `owed_ns`: what sweeps of tensors in SBUF gave to engines that alone could do it, as far as products and evictions
    behind them have not taken other engines as long. Such a sweep runs beside the products of neighbouring layers,
    whose sums then leave PSUM by another engine.
    """

    target: Target
    load_ns: dict[str, float] = field(default_factory=dict)
    port_ns: dict[str, float] = field(default_factory=dict)
    owed_ns: dict[str, float] = field(default_factory=dict)
    _swept_ns: dict[str, float] = field(default_factory=dict)
    _summed_ns: dict[str, float] = field(default_factory=dict)

    def choose(self, options: list[Instruction], executions: int) -> Instruction:
        """The option after which the most loaded of what it takes, its engine and its ports, is least loaded.

        Where engines take turns at a port this is the one that holds it for the least time, unless that engine has
        more to do than the port. The cost of the choice is charged.
        """
        best = min(options, key=lambda option: self._loaded_ns(option, executions))
        cost = issue_ns(best, self.target) * executions
        self.load_ns[best.engine] = self.load_ns.get(best.engine, 0.0) + cost
        for port in shared_ports(best, self.target):
            self.port_ns[port] = self.port_ns.get(port, 0.0) + cost
        if any(operand.space == "psum" for operand in best.operands.values()):
            self._summed_ns[best.engine] = self._summed_ns.get(best.engine, 0.0) + cost
        elif len(options) == 1:
            self._swept_ns[best.engine] = self._swept_ns.get(best.engine, 0.0) + cost
        return best

    def _loaded_ns(self, option: Instruction, executions: int) -> tuple[float, float]:
        """What the most loaded of engine and ports, and the engine alone, would have to do."""
        cost = issue_ns(option, self.target) * executions
        engine = self.load_ns.get(option.engine, 0.0) + cost
        ports = (self.port_ns.get(port, 0.0) + cost for port in shared_ports(option, self.target))
        return max(engine, *ports, 0.0), engine

    def new_kernel(self) -> None:
        """Start a new kernel: earlier imbalance does not count against it, but for what sweeps left."""
        for engine, swept in self._swept_ns.items():
            self.owed_ns[engine] = self.owed_ns.get(engine, 0.0) + swept
        for engine in self.owed_ns:
            others = sum(cost for other, cost in self._summed_ns.items() if other != engine)
            self.owed_ns[engine] = max(0.0, self.owed_ns[engine] - others)
        self.load_ns = dict(self.owed_ns)
        self.port_ns.clear()
        self._swept_ns.clear()
        self._summed_ns.clear()
