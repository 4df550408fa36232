"""A profile in a folder: `profile.json`, one `.npz` of columns for each program, and the programs without parameters.

Written: the same bytes for the same profile. Read: bounded and checked, nothing is unpickled; what does not fit is
refused with NX-PROF-001, so that everything else may trust a profile. `programs.neff` is a NEFF whose parameters are
scratch variables: enough to time the programs again under other figures (`runtime.profile.what_if`).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from neuron_dialects.atomic_file import write_bytes
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import SOURCES, Figure, Target, load_target
from runtime.machine import Timing
from runtime.machine.timing import EngineTiming
from runtime.neff import CORE, CoreImage, GraphNode, Limits, Neff, TensorSpec, read_neff, write_neff
from runtime.neff.json_check import (
    AnyJson,
    Boolean,
    Description,
    Integer,
    ListOf,
    MapOf,
    Number,
    Record,
    Text,
    dump_json,
    load_json,
)
from runtime.profile.check import check_profile
from runtime.profile.columns import Array, column_types
from runtime.profile.model import TABLES, Profile, ProgramProfile, Variable

FORMAT, VERSION = "neuron-toolkit profile", 1
SCHEMA = "7.4.0"
"""Version of Neuron Explorer's profile schema whose names are used."""

PROFILE, PROGRAMS = "profile.json", "programs.neff"
MAX_COLUMN_BYTES = 1 << 30
"""Largest .npz of a program, packed or unpacked."""
MAX_PROGRAMS = 4096

_NAMES = ListOf(Text())
_COUNTS = Integer(0, 1 << 62)
_TIMING: dict[str, Description] = {
    field.name: _COUNTS if field.type == "int" else Number()
    for field in fields(Timing)
    if field.name not in ("target", "engines")
}
_ENGINE = Record({"active_time": Number(), "instruction_count": _COUNTS, "control_count": _COUNTS})
_PROGRAM = Record(
    {
        "name": Text(),
        "origins": _NAMES,
        "rings": _NAMES,
        "opcodes": _NAMES,
        "semaphores": _NAMES,
        "variables": ListOf(Record({"name": Text(), "kind": Text(), "bytes": _COUNTS})),
        "timing": Record({**_TIMING, "engines": MapOf(_ENGINE)}),
    }
)
_FIGURE = Record({"value": AnyJson(), "source": Text(choices=SOURCES), "note": Text()})
PROFILE_JSON = Record(
    {
        "format": Text(choices=(FORMAT,)),
        "version": Integer(),
        "schema": Text(),
        "is_simulation": Boolean(),
        "model": Text(),
        "target": Text(),
        "generation": Integer(),
        "figures": MapOf(_FIGURE),
        "changes": _NAMES,
        "launches": ListOf(Integer(0, MAX_PROGRAMS), 1 << 20),
        "programs": ListOf(_PROGRAM, MAX_PROGRAMS),
    }
)


def write_profile(profile: Profile, programs: Sequence[CoreProgram], folder: Path) -> None:
    """Write a profile and its programs (in the profile's order) into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for position, program in enumerate(profile.programs):
        write_bytes(folder / _columns_name(position), _packed(program))
    write_neff(_skeleton(profile.model, profile.target.name, programs), folder / PROGRAMS)
    target = profile.target
    data = {
        "format": FORMAT,
        "version": VERSION,
        "schema": SCHEMA,
        "is_simulation": True,
        "model": profile.model,
        "target": target.name,
        "generation": target.generation,
        "figures": {name: asdict(figure) for name, figure in target.figures.items()},
        "changes": list(profile.changes),
        "launches": list(profile.launches),
        "programs": [_program_json(program) for program in profile.programs],
    }
    # Last, for a folder without it is no profile: one that was left half written is not taken for whole.
    write_bytes(folder / PROFILE, dump_json(data))


def read_profile(folder: Path) -> Profile:
    """The profile in a folder; NeuronError NX-FILE-001 where there is none, NX-PROF-001 for one that is malformed."""
    path = folder / PROFILE
    if not path.is_file():
        help_text = "neuron-run MODEL.neff --profile DIR writes one"
        raise NeuronError("NX-FILE-001", f"{folder}: not the folder of a profile (no {PROFILE})", help=help_text)
    try:
        data = load_json(path.read_bytes()[: Limits().json_bytes + 1], PROFILE, PROFILE_JSON)
    except NeuronError as error:
        raise NeuronError("NX-PROF-001", f"{folder}: {error.message}") from None
    if data["version"] != VERSION:
        problem = f"{folder}: profile of version {data['version']}, this toolkit reads {VERSION}"
        raise NeuronError("NX-PROF-001", problem, help="profile the model again")
    target = Target(data["target"], data["generation"], {k: Figure(**v) for k, v in data["figures"].items()})
    programs = tuple(
        _program(described, _unpacked(folder / _columns_name(position)), target)
        for position, described in enumerate(data["programs"])
    )
    profile = Profile(data["model"], target, tuple(data["changes"]), programs, tuple(data["launches"]))
    check_profile(profile)
    return profile


def read_programs(folder: Path) -> list[CoreProgram]:
    """The programs that a profile in a folder is of. Raises as `read_neff`."""
    return [image.program for image in read_neff(folder / PROGRAMS).subgraphs]


def _columns_name(position: int) -> str:
    return f"program-{position:02d}.npz"


# -- JSON --------------------------------------------------------------------------------------------------------------


def _program_json(program: ProgramProfile) -> dict[str, Any]:
    timing = program.timing
    return {
        "name": program.name,
        "origins": list(program.origins),
        "rings": list(program.rings),
        "opcodes": list(program.opcodes),
        "semaphores": list(program.semaphores),
        "variables": [asdict(variable) for variable in program.variables],
        "timing": {name: getattr(timing, name) for name in _TIMING}
        | {"engines": {name: asdict(engine) for name, engine in timing.engines.items()}},
    }


def _program(data: Mapping[str, Any], columns: Mapping[str, Array], target: Target) -> ProgramProfile:
    engines = {name: EngineTiming(**engine) for name, engine in data["timing"]["engines"].items()}
    timing = Timing(target=target, **(data["timing"] | {"engines": engines}))
    tables: dict[str, Any] = {
        name: kind(**{part: _column(columns, f"{name}.{part}") for part in column_types(kind)})
        for name, kind in TABLES.items()
    }
    try:
        texts = _column(columns, "texts").astype(np.uint8).tobytes().decode("utf-8")
    except ValueError as error:
        raise NeuronError("NX-PROF-001", f"column texts: {error}") from None
    names: dict[str, Any] = {key: tuple(data[key]) for key in ("origins", "rings", "opcodes", "semaphores")}
    variables = tuple(Variable(**variable) for variable in data["variables"])
    return ProgramProfile(
        name=data["name"],
        variables=variables,
        texts=tuple(texts.split("\n")) if texts else (),
        timing=timing,
        **names,
        **tables,
    )


def _column(columns: Mapping[str, Array], name: str) -> Array:
    if name not in columns:
        raise NeuronError("NX-PROF-001", f"there is no column {name}")
    return columns[name]


# -- columns -----------------------------------------------------------------------------------------------------------


def _packed(program: ProgramProfile) -> bytes:
    """The columns of a program as .npz; members have no time of day in them."""
    stream = io.BytesIO()
    arrays = {
        f"{name}.{part}": getattr(getattr(program, name), part)
        for name, kind in TABLES.items()
        for part in column_types(kind)
    }
    arrays["texts"] = np.frombuffer("\n".join(program.texts).encode(), dtype=np.uint8)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as members:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            with members.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _unpacked(path: Path) -> dict[str, Array]:
    """The columns of an .npz; NX-PROF-001 for a file that is not one or too large."""
    try:
        with zipfile.ZipFile(path) as members:
            size = sum(member.file_size for member in members.infolist())
        if max(size, path.stat().st_size) <= MAX_COLUMN_BYTES:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile and numpy raise a dozen classes for what is malformed
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NeuronError("NX-PROF-001", f"{path}: not a valid .npz file: {reason}") from error
    raise NeuronError("NX-PROF-001", f"{path}: {size} bytes when unpacked exceed {MAX_COLUMN_BYTES}")


# -- programs ----------------------------------------------------------------------------------------------------------


def _skeleton(model: str, target: str, programs: Sequence[CoreProgram]) -> Neff:
    """A NEFF of programs whose parameters are scratch: it can be timed, not run."""
    subgraphs: list[CoreImage] = []
    nodes: list[GraphNode] = []
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for position, program in enumerate(programs):
        plain = [replace(v, kind="tmp", file_name="") if v.kind == "file" else v for v in program.variables]
        subgraphs.append(CoreImage(replace(program, variables=plain)))
        names: dict[str, list[str]] = {"input": [], "output": []}
        for variable in plain:
            if variable.kind in names:
                name = f"{position}/{variable.name}"
                names[variable.kind].append(name)
                spec = TensorSpec(name, variable.shape, variable.dtype, dtype_by_name(variable.dtype).name)
                (inputs if variable.kind == "input" else outputs).append(spec)
        nodes.append(GraphNode(CORE, position, tuple(names["input"]), tuple(names["output"]), f"program{position}"))
    return Neff(model, load_target(target).name, subgraphs, [], nodes, inputs, outputs)
