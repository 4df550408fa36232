"""Target descriptions: one TOML file per NeuronCore generation, read into frozen plain data.

Every figure in a target file is a table `{ value, source, note }`; `source` is `documented`, `measured` or `assumed`,
and `Target.figures` keeps it, so that reports can label whatever rests on an assumption. The compiler's cost estimates
and the machine's clock read the same `Target`. Nothing outside this module tests a target's name; an alias file
(`inf2`) inherits another one with `inherits = "trn1"` and overrides single figures. The table `[instances]` lists the
instances that have these cores; it is not inherited.
"""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from neuron_dialects.errors import NeuronError

SOURCES = ("documented", "measured", "assumed")


@dataclass(frozen=True)
class Figure:
    """One number of a target file with where it comes from."""

    value: Any
    source: str
    note: str = ""


@dataclass(frozen=True)
class Instance:
    """A computer with NeuronCores: `chips` of the target's `cores_per_chip`, virtual CPUs, bytes of host memory."""

    name: str
    target: str
    chips: int
    vcpus: int
    host_bytes: int


@dataclass(frozen=True)
class Target:
    """One NeuronCore generation. Sizes in bytes, clocks in GHz, rates in bytes per nanosecond (= GB/s), times in ns."""

    name: str
    generation: int
    figures: Mapping[str, Figure]
    instances: Mapping[str, Instance] = field(default_factory=dict[str, Instance])

    def __getattr__(self, key: str) -> Any:
        try:
            value = self.figures[key].value
        except KeyError:
            raise AttributeError(f"target {self.name} has no figure '{key}'") from None
        # Figures do not change, and costs ask for them again and again.
        object.__setattr__(self, key, value)
        return value

    def clock_ghz(self, engine: str) -> float:
        """Clock of `engine` (pe, act, dve, pool, sp) in GHz."""
        return float(getattr(self, f"{engine}_clock_ghz"))

    @property
    def engines(self) -> tuple[str, ...]:
        """Instruction streams of one core, in canonical order."""
        return tuple(self.figures["engine_list"].value)

    @property
    def compute_engines(self) -> tuple[str, ...]:
        """The engines that have a datapath."""
        return tuple(self.figures["compute_engine_list"].value)

    @property
    def matmul_dtypes(self) -> tuple[str, ...]:
        """Element types that the tensor engine multiplies."""
        return tuple(self.figures["matmul_dtype_list"].value)

    @property
    def peak_macs_per_ns(self) -> float:
        """16-bit multiply-adds per nanosecond of the whole array: rows x columns x clock."""
        return float(self.pe_rows * self.pe_columns * self.clock_ghz("pe"))

    def matmul_rate_factor(self, dtype: str) -> float:
        """Passes that a matmul of `dtype` takes relative to bf16 (fp32 takes 4)."""
        return float(self.fp32_matmul_passes) if dtype == "f32" else 1.0

    @property
    def dma_rate_bytes_per_ns(self) -> float:
        """Practical rate of all DMA engines of a core together."""
        return float(self.dma_engines * self.dma_engine_bytes_per_ns)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Names of the figures that are assumed, in file order."""
        return tuple(key for key, figure in self.figures.items() if figure.source == "assumed")


_ADDED: dict[str, Path] = {}
"""Targets of plug-ins: name -> file."""


def add_target(path: Path) -> str:
    """Add the target that a file describes, called as the file is; returns its name.

    Raises:
        NeuronError: NX-TARGET-002 when the file is malformed, or a target of that name exists.
    """
    name = path.stem
    if name in target_names() and _ADDED.get(name) != path:
        raise NeuronError("NX-TARGET-002", f"{path}: there is a target '{name}' already")
    _ADDED[name] = path
    target_names.cache_clear()
    try:
        load_target(name)
    except (NeuronError, OSError, ValueError) as error:
        del _ADDED[name]
        target_names.cache_clear()
        problem = error.message if isinstance(error, NeuronError) else str(error)
        raise NeuronError("NX-TARGET-002", f"{path}: {problem}") from error
    return name


def _read(name: str) -> dict[str, Any]:
    path = _ADDED.get(name) or resources.files("neuron_dialects") / "targets" / f"{name}.toml"
    if not path.is_file():
        raise NeuronError(
            "NX-TARGET-001",
            f"unknown target '{name}'",
            help=f"choose one of {', '.join(target_names())}",
        )
    return tomllib.loads(path.read_text(encoding="utf-8"))


@functools.cache
def target_names() -> tuple[str, ...]:
    """Names of the targets that ship with the toolkit and of those that plug-ins added, sorted."""
    folder = resources.files("neuron_dialects") / "targets"
    shipped = (entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted({*shipped, *_ADDED}))


@functools.cache
def load_target(name: str) -> Target:
    """Target `name`; raises NeuronError NX-TARGET-001 for an unknown one, NX-TARGET-002 for a malformed file."""
    data = _read(name)
    figures: dict[str, Figure] = {}
    generation = data.get("generation")
    if "inherits" in data:
        base = load_target(data["inherits"])
        figures.update(base.figures)
        generation = generation or base.generation
    for key, entry in data.get("figures", {}).items():
        if not isinstance(entry, dict) or "value" not in entry or entry.get("source") not in SOURCES:
            raise NeuronError("NX-TARGET-002", f"target {name}: figure '{key}' needs a value and a source of {SOURCES}")
        figures[key] = Figure(entry["value"], entry["source"], entry.get("note", ""))
    if not isinstance(generation, int):
        raise NeuronError("NX-TARGET-002", f"target {name}: no generation")
    return Target(name, generation, figures, _instances(name, data.get("instances", {})))


def _instances(target: str, rows: Any) -> dict[str, Instance]:
    """The table of instances of a target file; NX-TARGET-002 unless each row has its three positive numbers."""
    found: dict[str, Instance] = {}
    for name, row in rows.items() if isinstance(rows, dict) else ():
        given = [row.get(key) for key in ("chips", "vcpus", "host_gib")] if isinstance(row, dict) else []
        numbers = [number for number in given if isinstance(number, int) and number > 0]
        if len(numbers) != 3:
            raise NeuronError("NX-TARGET-002", f"target {target}: instance '{name}' needs chips, vcpus and host_gib")
        found[name] = Instance(name, target, numbers[0], numbers[1], numbers[2] << 30)
    return found


@functools.cache
def instances() -> Mapping[str, Instance]:
    """Every instance of every target by name."""
    return {name: row for target in target_names() for name, row in load_target(target).instances.items()}


def find_instance(name: str) -> Instance:
    """Instance `name`; raises NeuronError NX-TARGET-004 for an unknown one."""
    if name not in instances():
        raise NeuronError("NX-TARGET-004", f"unknown instance '{name}'", help=f"choose one of {', '.join(instances())}")
    return instances()[name]
