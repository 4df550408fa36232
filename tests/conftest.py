"""What all tests share: the collector of lit's tests, and hypothesis set up for machines of unknown speed."""

import os

import hypothesis

from tests.filecheck_collector import pytest_collect_file

__all__ = ["pytest_collect_file"]

# No deadline: a slow machine is not a failure. In CI the same examples every time: a red build can be repeated.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")
