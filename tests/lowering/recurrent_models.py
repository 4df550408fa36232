"""Models of one recurrent layer, over the forms that ONNX's LSTM, GRU and RNN have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from tests.graph_level import Array
from tests.onnx_models import model_of

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Layer:
    """A recurrent node. `lengths` are sequence lengths, `given` the optional inputs that it has."""

    op_type: str
    steps: int = 5
    batch: int = 3
    inputs: int = 4
    hidden: int = 6
    direction: str = "forward"
    given: Sequence[str] = ("b", "h", "c")
    lengths: Sequence[int] | None = None
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    outputs: Sequence[str] = ("y", "y_h", "y_c")

    @property
    def label(self) -> str:
        """A readable name."""
        extra = [f"{key}={value}" for key, value in self.attributes.items()]
        sizes = f"{self.steps}x{self.batch}x{self.inputs}x{self.hidden}"
        lengths = [f"lengths={list(self.lengths)}"] if self.lengths is not None else []
        return " ".join([self.op_type, self.direction, sizes, "".join(self.given), *lengths, *extra])

    def arrays(self, seed: int = 0) -> dict[str, Array]:
        """Values of all inputs by name."""
        rng = np.random.default_rng(seed)
        directions, rows = 1 + (self.direction == "bidirectional"), GATES[self.op_type] * self.hidden
        shapes = {
            "x": (self.steps, self.batch, self.inputs),
            "w": (directions, rows, self.inputs),
            "r": (directions, rows, self.hidden),
            "b": (directions, 2 * rows),
            "h": (directions, self.batch, self.hidden),
            "c": (directions, self.batch, self.hidden),
            "p": (directions, 3 * self.hidden),
        }
        values: dict[str, Array] = {
            name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
        }
        values["r"] /= np.sqrt(np.float32(self.hidden))
        if self.attributes.get("layout"):
            values |= {name: np.ascontiguousarray(values[name].swapaxes(0, 1)) for name in "xhc"}
        if self.lengths is not None:
            values["lengths"] = np.array(self.lengths, np.int32)
        return values

    def model(self, *, weights_are_inputs: bool = False, lengths_are_input: bool = True, seed: int = 0) -> Any:
        """The model and its feeds."""
        arrays = self.arrays(seed)
        names = ["x", "w", "r", "b", "lengths", "h", "c", "p"][: 8 if self.op_type == "LSTM" else 6]
        present = {"x", "w", "r", *self.given, *(["lengths"] if self.lengths is not None else [])} & set(names)
        outputs = [name if name in self.outputs else "" for name in ("y", "y_h", "y_c")]
        outputs = outputs if self.op_type == "LSTM" else outputs[:2]
        while not outputs[-1]:
            outputs.pop()
        node = helper.make_node(
            self.op_type,
            [name if name in present else "" for name in names],
            outputs,
            name="layer",
            hidden_size=self.hidden,
            direction=self.direction,
            **self.attributes,
        )
        fed = {"x", "h", "c"} | ({"w", "r", "b", "p"} if weights_are_inputs else set())
        fed |= {"lengths"} if lengths_are_input else set()
        feeds = {name: arrays[name] for name in names if name in present & fed}
        constants = {name: arrays[name] for name in names if name in present - fed}
        model: ModelProto = model_of([node], feeds, [name for name in outputs if name], constants=constants)
        return model, feeds
