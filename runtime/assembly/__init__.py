"""The assembler: the text form of nisa programs, as `neuron-objdump -d` prints it, to programs and models again."""

from runtime.assembly.assembler import Assembly, assemble
from runtime.assembly.model import assembled_model
from runtime.assembly.problem import AssemblyError, Problem

__all__ = ["Assembly", "AssemblyError", "Problem", "assemble", "assembled_model"]
