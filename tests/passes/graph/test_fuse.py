"""Growing groups, on plain numbered nodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from passes.graph.fuse import MAX_GROUP, grow_group


def test_a_chain_joins_until_an_op_that_is_not_eligible() -> None:
    users = {0: [1], 1: [2], 2: [3], 3: []}
    assert grow_group(0, users.__getitem__, lambda n: n != 3) == [0, 1, 2]


def test_a_diamond_joins_whole() -> None:
    users = {0: [1, 2], 1: [3], 2: [3], 3: []}
    assert grow_group(0, users.__getitem__, lambda _: True) == [0, 1, 2, 3]


# The group must be able to stand where its last member stands, so a user outside may not come before that member.
def test_growth_stops_at_the_first_outside_user() -> None:
    users = {0: [1, 3], 1: [2], 2: [], 3: []}
    assert grow_group(0, users.__getitem__, lambda n: n != 1) == [0]


@given(
    st.lists(st.sets(st.integers(1, 5), max_size=3), min_size=1, max_size=40),
    st.sets(st.integers(0, 39), max_size=20),
)
def test_outside_users_come_after_the_last_member(jumps: list[set[int]], refused: set[int]) -> None:
    users = {n: sorted({n + j for j in jump if n + j < len(jumps)}) for n, jump in enumerate(jumps)}
    group = grow_group(0, users.__getitem__, lambda n: n not in refused)
    assert group == sorted(set(group))
    assert len(group) <= MAX_GROUP
    outside = [user for member in group for user in users[member] if user not in group]
    assert all(user > group[-1] for user in outside)
    assert not refused & set(group[1:])
