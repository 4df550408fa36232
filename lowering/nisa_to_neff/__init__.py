"""nisa -> NEFF: from queues with registers to core programs, and from a partitioned module to a compiled model."""

from lowering.nisa_to_neff.emit import NeffEmitter, emit_neff
from lowering.nisa_to_neff.program import core_program

__all__ = ["NeffEmitter", "core_program", "emit_neff"]
