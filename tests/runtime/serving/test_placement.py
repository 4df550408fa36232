"""Settings, the cores of a runtime, groups and loads: the documented meanings, and the statuses of bad ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_dialects.errors import ERROR_CODES, NeuronError
from neuron_dialects.target import find_instance, instances, load_target, target_names
from runtime.serving.placement import Placement, make_groups, owned_cores, plan_load
from runtime.serving.settings import VARIABLES, GroupSize, Settings, read_settings
from runtime.serving.status import NrtError, Status, as_nrt_error, status_of


def status_raised(call: Callable[[], object]) -> Status:
    with pytest.raises(NrtError) as raised:
        call()
    return raised.value.status


# -- instances and statuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "cores"),
    [
        ("inf1.xlarge", "inf1", 4), ("inf1.2xlarge", "inf1", 4), ("inf1.6xlarge", "inf1", 16),
        ("inf1.24xlarge", "inf1", 64), ("inf2.xlarge", "inf2", 2), ("inf2.48xlarge", "inf2", 24),
        ("trn1.2xlarge", "trn1", 2), ("trn1.32xlarge", "trn1", 32), ("trn2.48xlarge", "trn2", 128),
    ],
)  # fmt: skip
def test_instances(name: str, target: str, cores: int):
    instance = find_instance(name)
    assert instance.target == target
    assert instance.chips * load_target(target).cores_per_chip == cores


# Inf2 has the figures of Trn1 but not its instances.
def test_instances_are_not_inherited():
    names = [name for target in target_names() for name in load_target(target).instances]
    assert len(names) == len(set(names)) == len(instances())


def test_unknown_instance():
    with pytest.raises(NeuronError, match=r"NX-TARGET-004.*inf1\.huge.*\n.*inf1\.xlarge"):
        find_instance("inf1.huge")


# Each status stands in the table of error codes under its number, with its name.
def test_statuses_are_error_codes():
    documented = {code: text.partition(":")[0] for code, text in ERROR_CODES.items() if code.startswith("NX-NRT-")}
    assert documented == {status.code: status.name for status in Status if status is not Status.NRT_SUCCESS}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NeuronError("NX-RUN-001", "m"), Status.NRT_EXEC_OOB),
        (NeuronError("NX-RUN-003", "m"), Status.NRT_TIMEOUT),
        (NeuronError("NX-RUN-012", "m"), Status.NRT_EXEC_BAD_INPUT),
        (NeuronError("NX-NEFF-002", "m"), Status.NRT_UNSUPPORTED_NEFF_VERSION),
        (NeuronError("NX-NEFF-004", "m"), Status.NRT_INVALID),
        (NeuronError("NX-OP-002", "m"), Status.NRT_FAILURE),
        (NrtError(Status.NRT_CLOSED, "m"), Status.NRT_CLOSED),
        (MemoryError(), Status.NRT_FAIL_HOST_MEM_ALLOC),
        (ZeroDivisionError(), Status.NRT_FAILURE),
    ],
)
def test_status_of_an_error(error: Exception, status: Status):
    assert status_of(error) is status
    if isinstance(error, NeuronError | MemoryError):
        assert as_nrt_error(error).status is status


def test_cause_stays_known():
    error = as_nrt_error(NeuronError("NX-RUN-012", "other shape", node="conv", help="recompile"))
    assert (error.code, error.cause_code, error.help) == ("NX-NRT-1002", "NX-RUN-012", "recompile")
    assert error.message == "NRT_EXEC_BAD_INPUT: node 'conv': other shape"


# -- environment variables ---------------------------------------------------------------------------------------------


def test_defaults():
    assert read_settings({}) == read_settings({"PATH": "/bin", "NEURON_RT_VISIBLE_CORES": " "}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("NEURON_RT_VISIBLE_CORES", "2", range(2, 3)),
        ("NEURON_RT_VISIBLE_CORES", "0,1,2", range(3)),
        ("NEURON_RT_VISIBLE_CORES", "4-7", range(4, 8)),
        ("NEURON_RT_VISIBLE_CORES", "4-5,6", range(4, 7)),
        ("NEURON_RT_NUM_CORES", "4", 4),
        ("NEURONCORE_GROUP_SIZES", "2,4,3", (GroupSize(2), GroupSize(4), GroupSize(3))),
        ("NEURONCORE_GROUP_SIZES", "4x1", (GroupSize(4, 4),)),
        ("NEURONCORE_GROUP_SIZES", "2x3,1", (GroupSize(6, 2), GroupSize(1))),
        ("NEURON_RT_EXEC_TIMEOUT", "0.5", 0.5),
        ("NEURON_RT_MULTI_INSTANCE_SHARED_WEIGHTS", "true", True),
        ("NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS", "3", 3),
        ("NEURON_MAX_NUM_INFERS", "8", 8),
        ("NEURON_FAIL_ON_NAN", "1", True),
        ("NEURON_PROCESS_TAG", "shop", "shop"),
    ],
)
def test_variables(name: str, text: str, value: object):
    assert getattr(read_settings({name: text}), VARIABLES[name].field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("NEURON_RT_VISIBLE_CORES", text) for text in ("a", "1,3", "3,2", "0-", "-1", "2-1", "0-99999", "1,1", ",")),
        *(("NEURON_RT_NUM_CORES", text) for text in ("-1", "1.5", "4_0", "four", "\u0663")),
        *(("NEURONCORE_GROUP_SIZES", text) for text in ("0", "2,", "x4", "4x", "4x0", "2;3", "-2")),
        *(("NEURON_RT_EXEC_TIMEOUT", text) for text in ("0", "-1", "nan", "inf", "soon")),
        ("NEURON_FAIL_ON_NAN", "maybe"),
    ],
)  # fmt: skip
def test_bad_settings_are_invalid(name: str, text: str):
    with pytest.raises(NrtError, match=name) as raised:
        read_settings({name: text})
    assert raised.value.status is Status.NRT_INVALID


# -- the cores of a runtime --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "taken", "cores"),
    [
        (Settings(), (), range(16)),
        (Settings(core_count=4), (0, 1, 6), range(2, 6)),
        (Settings(core_count=4, visible_cores=range(8, 10)), (), range(8, 10)),
        (Settings(groups=(GroupSize(2), GroupSize(3))), (0,), range(1, 6)),
        (Settings(core_count=8, groups=(GroupSize(2),)), (), range(8)),
    ],
)  # fmt: skip
def test_owned_cores(settings: Settings, taken: tuple[int, ...], cores: range):
    assert owned_cores(settings, 16, frozenset(taken)) == cores


@pytest.mark.parametrize(
    ("settings", "taken", "status"),
    [
        (Settings(), (3,), Status.NRT_RESOURCE),
        (Settings(core_count=4), (2, 5, 9, 13), Status.NRT_RESOURCE),
        (Settings(core_count=17), (), Status.NRT_RESOURCE),
        (Settings(visible_cores=range(4, 6)), (5,), Status.NRT_RESOURCE),
        (Settings(visible_cores=range(14, 17)), (), Status.NRT_INVALID),
        (Settings(visible_cores=range(4), groups=(GroupSize(5),)), (), Status.NRT_RESOURCE),
        (Settings(groups=(GroupSize(17),)), (), Status.NRT_RESOURCE),
    ],
)  # fmt: skip
def test_cores_that_are_not_there(settings: Settings, taken: tuple[int, ...], status: Status):
    assert status_raised(lambda: owned_cores(settings, 16, frozenset(taken))) is status


# -- loads -------------------------------------------------------------------------------------------------------------

GROUPS = make_groups((GroupSize(2), GroupSize(4), GroupSize(4, 2)))


def test_groups_lie_one_after_the_other():
    assert [group.cores for group in GROUPS] == [range(2), range(2, 6), range(6, 10)]


# The first load goes to the first group, the next to the next; then to the one with the fewest models.
def test_loads_go_to_the_groups_in_turn():
    first = plan_load(1, 16, GROUPS, [0] * 16)
    assert first.placements == tuple(Placement(range(k, k + 1), frozenset((0, 1))) for k in range(2))
    second = plan_load(2, 16, GROUPS, [1, 1] + [0] * 14)
    assert [place.cores for place in second.placements] == [range(2, 4), range(4, 6)]
    assert {place.domain for place in second.placements} == {frozenset(range(2, 6))}
    # NxM makes exactly N instances, whether or not more would fit.
    third = plan_load(1, 16, GROUPS, [1] * 6 + [0] * 10)
    assert [place.cores for place in third.placements] == [range(6, 7), range(8, 9)]


# A model larger than its group reaches into the next one, and both are its own.
def test_reaching_into_the_next_group():
    plan = plan_load(5, 16, GROUPS, [0] * 16)
    assert plan.placements == (Placement(range(5), frozenset(range(6))),)
    assert "reaches into the next group" in plan.notes[0]


@pytest.mark.parametrize(
    ("needed", "start", "count", "expected"),
    [
        (1, -1, -1, [range(2, 3)]),
        (2, -1, -1, [range(2, 4)]),
        (2, 4, -1, [range(4, 6)]),
        (2, 0, 5, [range(0, 2), range(2, 4)]),
        (1, -1, 3, [range(k, k + 1) for k in (2, 3, 4)]),
        (8, 0, 8, [range(8)]),
    ],
)
def test_loads_without_groups(needed: int, start: int, count: int, expected: list[range]):
    plan = plan_load(needed, 8, (), [1, 1, 0, 0, 0, 1, 1, 1], start=start, count=count)
    assert [place.cores for place in plan.placements] == expected
    assert all(place.domain == frozenset(place.cores) for place in plan.placements)
    assert bool(plan.notes) == (count == 5)


@pytest.mark.parametrize(
    ("needed", "arguments", "status"),
    [
        (17, {}, Status.NRT_LOAD_NOT_ENOUGH_NC),
        (4, {"start": 14}, Status.NRT_LOAD_NOT_ENOUGH_NC),
        (4, {"count": 3}, Status.NRT_LOAD_NOT_ENOUGH_NC),
        (1, {"count": 17}, Status.NRT_LOAD_NOT_ENOUGH_NC),
        (1, {"start": 16}, Status.NRT_INVALID),
        (1, {"start": -2}, Status.NRT_INVALID),
        (1, {"count": 0}, Status.NRT_INVALID),
        (1, {"group": 0}, Status.NRT_INVALID),
    ],
)
def test_loads_that_cannot_be(needed: int, arguments: dict[str, int], status: Status):
    def load() -> object:
        return plan_load(
            needed, 16, (), [0] * 16,
            group=arguments.get("group"), start=arguments.get("start", -1), count=arguments.get("count", -1),
        )  # fmt: skip

    assert status_raised(load) is status


@pytest.mark.parametrize(
    ("needed", "group", "start", "status"),
    [
        (3, 2, -1, Status.NRT_LOAD_NOT_ENOUGH_NC),
        (11, 0, -1, Status.NRT_LOAD_NOT_ENOUGH_NC),
        (1, 3, -1, Status.NRT_INVALID),
        (1, 0, 2, Status.NRT_INVALID),
    ],
)
def test_groups_that_do_not_suffice(needed: int, group: int, start: int, status: Status):
    assert status_raised(lambda: plan_load(needed, 16, GROUPS, [0] * 16, group=group, start=start)) is status


@given(st.integers(1, 5), st.lists(st.integers(1, 6), max_size=4), st.integers(-1, 9), st.integers(-1, 9))
def test_placements_fit(needed: int, sizes: list[int], start: int, count: int):
    """Whatever is placed lies inside, side by side, each instance with the cores it needs and its groups to itself."""
    groups = make_groups([GroupSize(size) for size in sizes])
    total = max(8, sum(sizes))
    try:
        plan = plan_load(needed, total, groups, [0] * total, start=start, count=count)
    except NrtError:
        return
    used = [core for place in plan.placements for core in place.cores]
    assert plan.placements and len(used) == len(set(used)) and 0 <= min(used) and max(used) < total
    for place in plan.placements:
        assert len(place.cores) == needed and place.domain.issuperset(place.cores)
        assert all(set(g.cores) <= place.domain or not place.domain & set(g.cores) for g in groups)
