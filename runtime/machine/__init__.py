"""The machine that runs core programs: decoding, simulated time, data."""

from runtime.machine.machine import Machine, MachineResult, Mode, Trace
from runtime.machine.timing import Timing

__all__ = ["Machine", "MachineResult", "Mode", "Timing", "Trace"]
