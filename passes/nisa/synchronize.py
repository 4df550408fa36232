"""`nisa-synchronize`: progress-counter semaphores.

Given allocated functions in program order (nisa form 2), leaves every instruction with the waits that order it after
whatever it depends on, and with a signal where somebody waits for its stream (form 3). The work is done on plain data:
`wait_generation` finds the waits, `wait_reduction` removes redundant ones; this module writes them on the operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.access import Affine
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.neuron import target_of
from neuron_dialects.nisa import Sync, SyncAttr
from neuron_dialects.remarks import remark
from neuron_dialects.target import Target
from passes.nisa.known_waits import drop_known
from passes.nisa.memory_access import accesses_of
from passes.nisa.program_tree import Binding, ProgramTree, nisa_functions, read_function
from passes.nisa.progress import EVERYTHING, Progress
from passes.nisa.trace import Trace
from passes.nisa.wait_generation import WaitSet, generate_waits
from passes.nisa.wait_reduction import minimal_waits

REMARKS_ATTRIBUTE = "neuron.remarks"
"""Function attribute: what a reader of the compile report should know about how the function was compiled."""

REPLAY_LIMIT = 300_000
"""Instructions, loops expanded, up to which redundant waits are looked for by replaying the program."""


@dataclass(frozen=True)
class NisaSynchronizePass(ModulePass):
    """Order all conflicting accesses of different streams by semaphores.

        scf.for %i = %c0 to %c8 step %c1 {
          %slot = nisa.slot 2
          nisa.dma_copy on sp ring load0 dst %x[0:128][512*%slot : 512] src %in[512*%i : 128 step 4096, 512]
          nisa.activation on act dst %y[0:128][512*%i : 512] data %x[0:128][512*%slot : 512] {func = exp}
        }

    becomes

        scf.for %i = %c0 to %c8 step %c1 {
          %slot = nisa.slot 2
          nisa.dma_copy on sp ring load0 dst ... src ... wait(act >= %i - 1) signal(load0)
          nisa.activation on act dst ... data ... {func = exp} wait(load0 >= %i + 1) signal(act)
        }

    A semaphore counts what a stream (an engine or a DMA ring) has completed; all waits point back in program order, so
    they cannot block for ever. Waits and signals that are there already are replaced. A program of more than
    `replay-limit` instructions, loops expanded, keeps waits that only a replay would find redundant; a remark on the
    function says so.
    """

    name = "nisa-synchronize"

    replay_limit: int = REPLAY_LIMIT

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Synchronise every function at the nisa level."""
        for function in nisa_functions(op):
            with in_segment(function.sym_name.data):
                remarks = synchronize_function(function, target_of(op), self.replay_limit)
                for text in remarks:
                    suggestion = "a higher replay-limit, at the cost of time"
                    remark("missed", "waits", text, function=function.sym_name.data, suggestion=suggestion)
                if remarks:
                    function.attributes[REMARKS_ATTRIBUTE] = ArrayAttr([StringAttr(text) for text in remarks])


def synchronize_function(function: FuncOp, target: Target, replay_limit: int = REPLAY_LIMIT) -> list[str]:
    """Write waits and signals into one function; returns remarks. NX-SEM-001 when the target's semaphores do not do."""
    tree, binding = read_function(function)
    if any(slot.within for slot in tree.slots.values()):
        raise NeuronError("NX-PASS-002", f"the parts of @{function.sym_name.data} are linked already")
    check_rings(tree, binding)
    progress = Progress(tree)
    accesses = accesses_of(tree)
    sets = generate_waits(tree, progress, accesses)
    remarks: list[str] = []
    instructions = progress.totals[EVERYTHING]
    if instructions <= replay_limit:
        sets = minimal_waits(Trace(tree, progress), sets, accesses)
    else:
        sets = drop_known(tree, sets)
        remarks.append(f"{instructions} instructions exceed {replay_limit}: redundant waits were not removed by replay")
    check_semaphores({stream: progress.totals[stream] for stream in awaited_streams(sets)}, target)
    write_sync(sets, binding)
    return remarks


def check_rings(tree: ProgramTree, binding: Binding) -> None:
    """A ring completes in the order of its triggers only if one engine triggers all of them."""
    trigger: dict[str, str] = {}
    for statement in tree.statements:
        if statement.ring is not None and trigger.setdefault(statement.ring, statement.engine) != statement.engine:
            raise NeuronError(
                "NX-PASS-002",
                f"DMA ring {statement.ring} is triggered by {trigger[statement.ring]} and by {statement.engine}",
                node=binding.node_name(statement),
                help="give each trigger engine rings of its own",
            )


def check_semaphores(counts: Mapping[str, int], target: Target) -> None:
    """Whether the target can count what each stream that is waited for completes; NX-SEM-001 otherwise."""
    if len(counts) > target.semaphores:
        raise NeuronError(
            "NX-SEM-001",
            f"{len(counts)} streams are waited for, target {target.name} has {target.semaphores} semaphores",
            help="use fewer DMA rings",
        )
    for stream, count in counts.items():
        if count > target.semaphore_max:
            raise NeuronError(
                "NX-SEM-001",
                f"stream {stream} completes {count} instructions, a semaphore of target"
                f" {target.name} counts to {target.semaphore_max}",
                help="compile a smaller batch, or use larger tiles",
            )


def awaited_streams(sets: Sequence[WaitSet]) -> list[str]:
    """The streams that somebody waits for, sorted."""
    return sorted({stream for wait_set in sets for stream, counts in wait_set.counts.items() if counts})


def write_sync(sets: Sequence[WaitSet], binding: Binding) -> None:
    """Write waits, and signals of the streams that are waited for, on the operations."""
    awaited = set(awaited_streams(sets))
    for wait_set, op in zip(sets, binding.operations, strict=True):
        stream = wait_set.statement.stream
        indices = list(op.indices)
        waits = tuple((name, _over_operands(count, indices, binding)) for name, count in wait_set.waits())
        signal = stream if stream in awaited else None
        if len(indices) > len(op.indices):
            op.set_operands(op.buffers, indices)
        if waits or signal is not None:
            op.properties["sync"] = SyncAttr(Sync(waits, signal))
        else:
            op.properties.pop("sync", None)


def _over_operands(count: Affine, indices: list[SSAValue], binding: Binding) -> Affine:
    """The number over positions in `indices`, to which missing loop variables are appended."""
    for variable, _ in count.terms:
        if binding.values[variable] not in indices:
            indices.append(binding.values[variable])
    return count.rename(lambda variable: indices.index(binding.values[variable]))
