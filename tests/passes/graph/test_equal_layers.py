"""Runs of equal layers in plain lists of operators."""

from __future__ import annotations

import time

from passes.graph.equal_layers import (
    Carried,
    Given,
    Made,
    Node,
    Operand,
    Run,
    Weight,
    body_layers,
    find_layers,
    weight_rows,
)

WEIGHTS = "f32"


def chain(layers: int, *, shared: bool = False, first: Operand | None = None) -> list[Node]:
    """`layers` times four operators, behind one that begins: matmul, bias, relu, and add to what the layer took."""
    nodes = [Node("begin", (Given(0),))]
    state: Operand = first or Made(0)
    for layer in range(layers):
        own = 0 if shared else layer
        base = len(nodes)
        nodes += [
            Node("matmul", (state, Weight(f"w{own}", WEIGHTS))),
            Node("bias", (Made(base), Weight(f"b{own}", WEIGHTS))),
            Node("relu", (Made(base + 1), Given(1))),
            Node("add", (state, Made(base + 2))),
        ]
        state = Made(base + 3)
    return nodes


# Six layers of four operators: each passes on what its last operator makes.
def test_a_run_is_found() -> None:
    nodes = [*chain(6), Node("end", (Made(24),))]
    assert find_layers(nodes, [Made(25)]) == [Run(1, 4, 6, (Carried(Made(0), 3, 0),))]


# Without anything in front of it a run starts from an argument.
def test_a_run_starts_from_an_argument() -> None:
    nodes = chain(5, first=Given(0))
    (run,) = find_layers(nodes, [Made(20)])
    assert (run.layers, run.carried) == (5, (Carried(Given(0), 3, 0),))


# Rows name the weight of each time that the body runs; weights that all layers share need none.
def test_weight_rows() -> None:
    nodes = chain(6)
    (run,) = find_layers(nodes, [Made(24)])
    rows = weight_rows(nodes, run, 2)
    assert rows == {
        "w0": ["w0", "w2", "w4"],
        "b0": ["b0", "b2", "b4"],
        "w1": ["w1", "w3", "w5"],
        "b1": ["b1", "b3", "b5"],
    }
    shared = chain(6, shared=True)
    assert weight_rows(shared, find_layers(shared, [Made(24)])[0], 2) == {}


# One weight twice in the first layer, two different ones in the others: the first would have to stand for both.
def test_a_weight_that_would_stand_for_two() -> None:
    nodes = chain(4)
    nodes[2] = Node("bias", (Made(1), Weight("w0", WEIGHTS)))
    (run,) = find_layers(nodes, [Made(16)])
    assert weight_rows(nodes, run, 1) is None


# A layer that differs (its relu is another function) ends one run and begins none: two runs around it.
def test_a_different_layer_parts_runs() -> None:
    nodes = chain(9)
    nodes[1 + 4 * 4 + 2] = Node("tanh", nodes[1 + 4 * 4 + 2].operands)
    runs = find_layers(nodes, [Made(36)], 3)
    assert [(run.start, run.layers) for run in runs] == [(1, 4), (21, 4)]


# What a layer in the middle makes is returned: no run holds that layer but as its last one.
def test_results_of_layers_in_the_middle() -> None:
    nodes = chain(8)
    inner, passed_on = Made(1 + 4 * 3 + 2), Made(1 + 4 * 3 + 3)
    assert [run.layers for run in find_layers(nodes, [Made(32), inner], 3)] == [3, 4]
    assert [run.layers for run in find_layers(nodes, [Made(32), passed_on], 3)] == [4, 4]


# Each layer adds what the layer two before it made: that is not passed on from layer to layer.
def test_a_layer_that_skips_one() -> None:
    nodes = chain(6)
    for layer in range(2, 6):
        nodes[1 + 4 * layer + 3] = Node("add", (Made(4 * layer - 4), Made(4 * layer + 3)))
    assert find_layers(nodes, [Made(24)], 3) == []


# Wider results make a cut dearer: the run begins behind the operator whose result is the smallest.
def test_a_run_begins_where_least_is_passed_on() -> None:
    nodes = [Node("begin", (Given(0),), (1,))]
    for layer in range(5):
        base = 3 * layer
        nodes += [
            Node("widen", (Made(base),), (4,)), Node("act", (Made(base + 1),), (4,)), Node("narrow", (Made(base + 2),))
        ]  # fmt: skip
    assert [(run.start, run.layers) for run in find_layers(nodes, [Made(15)])] == [(1, 5)]


def test_layers_of_a_body() -> None:
    assert [body_layers(layers, 8) for layers in (48, 36, 47, 25, 24, 9)] == [8, 6, 5, 5, 8, 3]
    assert body_layers(5, 1) == 1


# Eight times as many layers take about eight times as long; the square would be 64 times.
def test_time_follows_the_number_of_operators() -> None:
    def seconds(layers: int) -> float:
        nodes = chain(layers)
        began = time.process_time()
        assert find_layers(nodes, [Made(4 * layers)])[0].layers == layers
        return time.process_time() - began

    few = min(seconds(250) for _ in range(3))
    assert seconds(2000) < 24 * few
