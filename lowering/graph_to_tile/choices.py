"""What kernels can do without: names for choices that only make programs faster.

`convert-graph-to-tile{without=...}` leaves them out, to see what each is worth and to find which one a fault is in.
"""

from collections.abc import Mapping

CHOICES: Mapping[str, str] = {
    "tap-rows": "an input of few channels has the rows of the filter side by side on partitions",
    "tap-columns": "columns of such a filter lie side by side too, copied there on chip",
    "pixel-blocks": "a convolution of few output channels makes blocks of pixels, whose filters share the array",
    "diagonals": "depthwise filters are diagonal matrices that stay on chip for all pixels, most of them made there",
    "residual-products": "the tensor engine adds the residual of a convolution that gives it little else to do",
    "bias-products": "the tensor engine adds a bias along the columns of a result with rows on partitions",
    "local-rows": "gpsimd gathers the rows of small tables, which stay on chip, for sums of gathered rows",
    "postponed-products": "products wait for the attention that reads them, and fill the tensor engine's time there",
    "value-products": "attention over short sequences makes its values itself, with positions on partitions",
    "blocks-ahead": "pointwise convolutions are emitted a block of channels ahead of the depthwise one that reads them",
    "scaled-weights": "a map's numbers for each image and channel multiply the weights of the convolution behind it",
    "map-sums": "means over the maps of a convolution are summed up tile by tile, while these leave PSUM",
    "key-scores": "attention makes its scores once more with keys on partitions, instead of turning their powers",
    "short-sequences": "attention works on several short sequences at a time, and the tensor engine adds their masks",
    "casting-loads": "a cast of a tensor in DRAM is part of its loads",
    "rotation": "buffers in loops have several copies, so that iterations overlap",
}
"""Choice -> what kernels do where it is not left out."""


def check_choices(names: tuple[str, ...]) -> None:
    """ValueError for a name that is no choice."""
    unknown = set(names) - set(CHOICES)
    if unknown:
        raise ValueError(f"{min(unknown)}: choose among {', '.join(CHOICES)}")
