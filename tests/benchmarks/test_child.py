"""What a step of a measurement tells of its own process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent


# The figure of a process that a large one starts is its own.
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not tell")
def test_peak_memory_is_that_of_the_step() -> None:
    large = np.ones(50_000_000)
    code = "from benchmarks.child import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 1_000_000 < int(done.stdout) < large.nbytes // 2
