"""What every instruction means on numbers: one meaning per instruction name, registered once in `SEMANTICS`."""

from runtime.semantics import dma, elementwise, gpsimd, rows, tensor_engine
from runtime.semantics.registry import SEMANTICS, Case, Effect, Kernel, Meaning, Numbers, Views, execute

__all__ = ["SEMANTICS", "Case", "Effect", "Kernel", "Meaning", "Numbers", "Views", "execute"]

# Importing a module registers its meanings.
_REGISTERED = (dma, elementwise, gpsimd, rows, tensor_engine)
