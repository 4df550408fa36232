"""Attention: which of four kernels lowers it.

All keep scores, softmax and context on chip. `attention_rows.py` makes the scores of a query in a row, and turns
their powers for the context; it takes masks, the causal form, any operands. `attention_keys.py` makes them once more
with keys on partitions, where their powers are at once what the context is made of; masks it takes in 16 bits.
`attention_shifted.py` makes them so alone, where one number does instead of the maxima.
`attention_short.py` takes several short sequences in an iteration, and their masks through the tensor engine;
it takes no maxima where one number does.
"""

from collections.abc import Callable

from lowering.graph_to_tile.attention_kernel import Attention
from lowering.graph_to_tile.attention_keys import KeyAttention, keys_on_partitions
from lowering.graph_to_tile.attention_powers import is_shifted
from lowering.graph_to_tile.attention_rows import RowAttention
from lowering.graph_to_tile.attention_shifted import ShiftedKeyAttention
from lowering.graph_to_tile.attention_short import ShortAttention, is_short
from lowering.graph_to_tile.kernel import Kernel
from neuron_dialects.graph import AttentionOp


def lower_attention(k: Kernel, op: AttentionOp) -> None:
    """Lower `graph.attention`."""
    if is_short(k, op):
        kernel: Attention = ShortAttention(k, op)
    elif keys_on_partitions(k, op):
        kernel = ShiftedKeyAttention(k, op) if is_shifted(op) else KeyAttention(k, op)
    else:
        kernel = RowAttention(k, op)
    kernel.prepare()
    kernel.run()


KERNELS: dict[type[AttentionOp], Callable[[Kernel, AttentionOp], None]] = {AttentionOp: lower_attention}
"""Template by op class."""
