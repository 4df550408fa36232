"""The placement benchmark: what it says of the rungs is true of small instances."""

import pytest

from benchmarks import placement
from tests.passes.nisa.test_placement_ladder import SIX


# Greedy orders need 11 units for six intervals, the search 10; it proves that 9 are too few.
def test_each_rung_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "has_solver", lambda: False)
    greedy, search = placement.measured(SIX, 10)
    assert greedy.startswith("11, ")
    assert search.startswith("fits, ")
    assert placement.measured(SIX, 9)[1].startswith("impossible, ")
