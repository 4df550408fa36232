"""What all tests share: lit's tests, hypothesis set up for machines of unknown speed, nightly tests left out."""

import os

import hypothesis
import pytest

from tests.filecheck_collector import pytest_collect_file

# Tests see what they compile, not what an earlier run did.
os.environ["NEURON_TOOLKIT_CACHE"] = ""

__all__ = ["pytest_collect_file"]

# No deadline: a slow machine is not a failure. In CI the same examples every time: a red build can be repeated.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked nightly run only when the expression of `-m` speaks of them."""
    if "nightly" in str(config.getoption("markexpr")):
        return
    left_out = [item for item in items if item.get_closest_marker("nightly")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
