"""What is measured: models with their batches and targets, and the published figures that stand beside the results."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

TARGETS = ("trn1", "inf1")
FULL_SIZE = "full"
"""Source of the models that are files of their published sizes."""


@dataclass(frozen=True)
class Model:
    """A model of the benchmark. `source` is FULL_SIZE for a file, else the name of a generator.

    `batches`: one sample, for the latency, and the batch that throughput is measured at, last: with it weights are
    loaded once for so many samples that they are not what the program waits for. `batch_axis`: the dimension of inputs
    and outputs that counts samples.
    `auto_cast`: the cast mode that it is compiled with. Results are for bf16, which is all of a float32 model cast to
    bf16; the error of its outputs is measured in the same run and has to stay within the limit of its row.
    """

    name: str
    source: str = FULL_SIZE
    batches: tuple[int, ...] = (1,)
    targets: tuple[str, ...] = TARGETS
    quick: bool = False
    auto_cast: str = "all"
    batch_axis: int = 0


@dataclass(frozen=True)
class Case:
    """One measurement: a model with a batch for a target."""

    model: Model
    batch: int
    target: str

    @property
    def name(self) -> str:
        """The case as one word: model, batch, target."""
        return f"{self.model.name}-b{self.batch}-{self.target}"


MODELS: tuple[Model, ...] = (
    Model("matmul1024", "square_matmul", targets=("trn1",), quick=True),
    Model("matmul1024_at", "square_matmul", targets=("trn1",)),
    Model("matmul2048", "square_matmul", targets=("trn1",)),
    Model("matmul4096", "square_matmul", targets=("trn1",)),
    Model("attention4096", "causal_attention", targets=("trn1",)),
    Model("resnet50", batches=(1, 10, 8), quick=True),
    Model("mobilenet_v2", batches=(1, 8), quick=True),
    Model("efficientnet_b0", batches=(1, 8)),
    Model("vgg16", batches=(1, 8)),
    Model("unet", batches=(1, 4)),
    Model("yolov5s", batches=(1, 8)),
    Model("vit_base_16", batches=(1, 8)),
    Model("bert_base", batches=(1, 8), quick=True),
    Model("gpt2_prefill", batches=(1, 8)),
    Model("dlrm", batches=(1, 1024, 2048)),
    Model("llama_1b_prefill", batches=(1, 8)),
    Model("lstm_lm", batches=(1, 64), batch_axis=1),
    Model("convnext_tiny", batches=(1, 8)),
    Model("densenet121", batches=(1, 8)),
    Model("swin_tiny", batches=(1, 8)),
    Model("t5_small_encoder", batches=(1, 8)),
    Model("whisper_tiny_encoder"),
    Model("distilbert", batches=(1, 8)),
)
"""Every model of the benchmark."""


ABLATED: tuple[Case, ...] = tuple(
    Case(model, batch, target)
    for name, batch, target in (
        ("resnet50", 8, "trn1"), ("bert_base", 8, "trn1"), ("mobilenet_v2", 8, "trn1"), ("dlrm", 1024, "trn1"),
        ("lstm_lm", 64, "trn1"), ("llama_1b_prefill", 8, "trn1"), ("convnext_tiny", 8, "trn1"), ("yolov5s", 8, "trn1"),
    )
    for model in MODELS
    if model.name == name
)  # fmt: skip
"""What is measured with each optimisation left out, where no model is named."""


@dataclass(frozen=True)
class Published:
    """Throughput of one chip that its vendor published: samples per second, at which batch, how it was measured."""

    samples_per_second: float
    batch: int
    how: str


PUBLISHED: dict[tuple[str, str], Published] = {
    ("resnet50", "inf1"): Published(2207.0, 10, "TensorFlow fp16, inf1.xlarge, 4 cores"),
    ("bert_base", "inf1"): Published(1180.7, 6, "uncased, 128 tokens, inf1.xlarge, 4 cores"),
    ("distilbert", "inf1"): Published(1876.7, 8, "uncased, 128 tokens, inf1.xlarge, 4 cores"),
}
"""(model, target) -> the best published figure."""


def select(
    models: Sequence[str] = (),
    targets: Sequence[str] = (),
    batches: Sequence[int] = (),
    quick: bool = False,
    throughput: bool = False,
) -> list[Case]:
    """Cases whose model matches one of the shell patterns, with one of the targets and batches; empty means all.

    `throughput` keeps the last batch of each model, `quick` the smallest one of a few models.
    A model that is named is measured at any batch that is asked for.
    """
    chosen: list[Case] = []
    for model in MODELS:
        if models and not any(fnmatch(model.name, pattern) for pattern in models):
            continue
        if quick and not models and not model.quick:
            continue
        wanted = batches if batches and models else [b for b in model.batches if not batches or b in batches]
        for batch in wanted[:1] if quick else wanted[-1:] if throughput else wanted:
            chosen += [Case(model, batch, t) for t in model.targets if not targets or t in targets]
    return chosen
