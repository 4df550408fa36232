"""Sums of embeddings of many tokens, from ONNX to the machine: rows are asked for by indices that are there."""

from __future__ import annotations

import numpy as np
from onnx import helper

from lowering.compiler import CompileOptions, compile_model
from runtime.session import Session
from tests.onnx_models import model_of

TOKENS, ROWS, KINDS, WIDTH = (8, 128), 500, 2, 32


# Rows are fetched in eight steps, and sums are made between them; some indices count from the end of the table.
def test_sums_of_embedded_tokens() -> None:
    rng = np.random.default_rng(0)
    feeds = {"ids": rng.integers(-ROWS, ROWS, TOKENS), "kinds": rng.integers(0, KINDS, TOKENS)}
    tables = {"table": rng.standard_normal((ROWS, WIDTH)), "types": rng.standard_normal((KINDS, WIDTH))}
    constants = {name: table.astype(np.float32) for name, table in tables.items()}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Gather", ["types", "kinds"], ["kind_rows"]),
        helper.make_node("Add", ["rows", "kind_rows"], ["y"]),
    ]
    result = compile_model(model_of(nodes, feeds, ["y"], constants=constants), CompileOptions(target="trn1"))
    assert result.neff is not None
    found = Session(result.neff).run(feeds, "functional").outputs["y"]
    np.testing.assert_array_equal(found, constants["table"][feeds["ids"]] + constants["types"][feeds["kinds"]])
