"""Whether what programs declare to hand over to one another fits together, on plain data.

Used before a NEFF is written, after one is read, and by the machine for programs from anywhere.
"""

from collections.abc import Sequence

from neuron_dialects.isa.program import CoreProgram, HandOver

MAX_HAND_OVER_TRANSFERS = 1 << 20
"""Transfers of one tensor's hand-overs that may be counted at a time."""

MAX_HAND_OVER_BUFFERS = 256
"""Copies of a tensor."""


def hand_over_problem(program: CoreProgram) -> str | None:
    """What is wrong with the hand-overs of a program for themselves, or None.

    Each names an input or output, and a semaphore that no entry of the program increments; a semaphore counts either
    inputs or outputs of one peer, an input comes from one peer, and a variable has one number of buffers.
    """
    if not program.hand_overs:
        return None
    kinds = {variable.id: variable.kind for variable in program.variables}
    signalled = {entry.signal for entries in program.queues.values() for entry in entries}
    buffers: dict[int, int] = {}
    uses: dict[int, tuple[int, str]] = {}
    arrived: set[int] = set()
    for row in program.hand_overs:
        kind = kinds.get(row.variable)
        if kind not in ("input", "output"):
            return f"hand-over of variable {row.variable}, which is no input or output"
        if not 0 <= row.semaphore < len(program.semaphores) or row.semaphore in signalled:
            return f"hand-over of variable {row.variable} by semaphore {row.semaphore}, which its own queues increment"
        if row.count < 1 or not 1 <= row.buffers <= MAX_HAND_OVER_BUFFERS:
            return f"hand-over of variable {row.variable} in {row.count} transfers and {row.buffers} buffers"
        if buffers.setdefault(row.variable, row.buffers) != row.buffers:
            return f"variable {row.variable} is handed over in {buffers[row.variable]} and in {row.buffers} buffers"
        if uses.setdefault(row.semaphore, (row.peer, kind)) != (row.peer, kind):
            return f"semaphore {row.semaphore} counts hand-overs of several peers or directions"
        if kind == "input" and row.variable in arrived:
            return f"input {row.variable} comes from two peers"
        arrived.add(row.variable)
    most = max(program.hand_over_counts.values()) * max(buffers.values())
    if most > MAX_HAND_OVER_TRANSFERS:
        return f"hand-overs count up to {most} transfers, limit {MAX_HAND_OVER_TRANSFERS}"
    return None


def peer_problem(programs: Sequence[CoreProgram]) -> tuple[int, str] | None:
    """The first hand-over that does not fit its peer's, as the program's position and what is wrong; or None.

    The programs have no `hand_over_problem`. Both sides of a hand-over name each other, the input of one is the output
    of the other, of one element type and size, in as many buffers.
    """
    rows = {
        (number, row.variable, row.peer, row.peer_variable): row
        for number, program in enumerate(programs)
        for row in program.hand_overs
    }
    if len(rows) < sum(len(program.hand_overs) for program in programs):
        return 0, "a hand-over is declared twice"
    for (number, variable, peer, peer_variable), row in rows.items():
        other = rows.get((peer, peer_variable, number, variable))
        if other is None or peer == number:
            return number, f"variable {variable} is handed over with program {peer}, which does not say so"
        if problem := _unlike(programs[number], row, programs[peer], other):
            return number, problem
    return None


def _unlike(program: CoreProgram, row: HandOver, peer: CoreProgram, other: HandOver) -> str | None:
    """In what the two sides of a hand-over differ."""
    first, second = (
        next(variable for variable in owner.variables if variable.id == side.variable)
        for owner, side in ((program, row), (peer, other))
    )
    if {first.kind, second.kind} != {"input", "output"}:
        return f"variable {first.id} is handed over between two {first.kind}s"
    if (first.dtype, first.elements) != (second.dtype, second.elements):
        return (
            f"variable {first.id} has {first.elements} elements of {first.dtype}, that of its peer {second.elements}"
            f" of {second.dtype}"
        )
    if row.buffers != other.buffers:
        return f"variable {first.id} has {row.buffers} buffers, that of its peer {other.buffers}"
    return None
