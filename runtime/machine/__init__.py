"""The machine that runs core programs: decoding, simulated time, data."""

from runtime.machine.machine import Machine, MachineResult, Mode
from runtime.machine.timing import Timing
from runtime.machine.trace import Trace

__all__ = ["Machine", "MachineResult", "Mode", "Timing", "Trace"]
