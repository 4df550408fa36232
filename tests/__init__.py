"""Tests of the toolkit: `filecheck/` in lit's format, the other folders mirror the packages."""
