"""The comments that say which diagnostics a file must cause."""

import pytest

from tools.diagnostics import Diagnostic, Place
from tools.opt.expected import Mismatch, compare, read_expectations


# Where each form of a comment points to; comments between it and its line do not count for @above and @below.
@pytest.mark.parametrize(
    ("comment", "line"),
    [
        ("expected-error {{x}}", 3),
        ("expected-error@+1 {{x}}", 4),
        ("expected-error @-2{{x}}", 1),
        ("expected-error@above {{x}}", 1),
        ("expected-error@below {{x}}", 5),
        ("expected-error@unknown {{x}}", None),
    ],
)
def test_lines(comment: str, line: int | None):
    text = f"first\n// expected-note {{{{a}}}}\n// {comment}\n// expected-note {{{{b}}}}\nlast\n"
    assert [(e.kind, e.line, e.written) for e in read_expectations(text)] == [
        ("note", 2, 2),
        ("error", line, 3),
        ("note", 4, 4),
    ]


# In the -re form, only what stands in inner braces is a regular expression.
def test_regular_expressions():
    (plain,) = read_expectations("// expected-error {{a.c (1)}}")
    assert plain.fits("error", 1, "xa.c (1)x") and not plain.fits("error", 1, "abc (1)")
    (pattern,) = read_expectations("// expected-error-re {{a.c {{[0-9]+|none}} (1)}}", line_offset=6)
    assert pattern.fits("error", 7, "a.c 12 (1)") and pattern.fits("error", 7, "a.c none (1)")
    assert not pattern.fits("error", 7, "abc 12 (1)")
    assert not pattern.fits("warning", 7, "a.c 12 (1)")
    assert not pattern.fits("error", 1, "a.c 12 (1)")


# Each comment speaks of one diagnostic; two alike need two comments.
def test_each_comment_counts_once():
    told = [Diagnostic("error", "again", place=Place("f", 2, 5))] * 2
    (expected,) = read_expectations("// expected-error@+1 {{again}}")
    assert compare([expected, expected], told) == []
    assert compare([expected], told) == [Mismatch(2, 5, "unexpected error: again")]
    assert compare([expected], told, only_expected=True) == []
    missing = Mismatch(1, 1, 'expected error "again" was not produced')
    assert compare([expected], []) == [missing]


# Notes and help may be expected, and need not be.
def test_notes():
    told = Diagnostic("error", "wrong", notes=("since",), help="do")
    comments = "// expected-error@unknown {{wrong}}\n"
    assert compare(read_expectations(comments), [told]) == []
    notes = "// expected-note@unknown {{since}}\n// expected-note@unknown {{do}}\n"
    assert compare(read_expectations(comments + notes), [told]) == []
    assert len(compare(read_expectations(comments + "// expected-note@unknown {{other}}"), [told])) == 1
