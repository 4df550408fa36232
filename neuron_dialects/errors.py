"""Errors that a user can cause, and the table of their codes.

Whatever is wrong with a model, a file or an option is raised as a `NeuronError` with a stable code, so that a command
line prints one `error[CODE]:` line and a `help:` line instead of a traceback, and so that documentation and scripts can
refer to the code. A code that is not in the table is a bug.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

ERROR_CODES: dict[str, str] = {
    # The model file.
    "NX-ONNX-001": "the model file cannot be read or is not an ONNX model",
    "NX-ONNX-002": "the ONNX model breaks a rule of the ONNX specification",
    "NX-ONNX-003": "the model's IR version or operator set is not supported",
    "NX-ONNX-004": "an input dimension is unknown; it must be given by --input-shape",
    "NX-ONNX-005": "a given input shape does not fit the model",
    "NX-ONNX-006": "the type of a model input or output is not a tensor of a supported element type",
    "NX-ONNX-007": "the model's shapes or attributes contradict each other at a node",
    "NX-ONNX-008": "the model is larger than any that the compiler takes",
    # Model files of other frameworks.
    "NX-FRAME-001": "the package that reads a framework's model files is not installed",
    "NX-FRAME-002": "a framework's model file is malformed, or holds parts that are not safe to load",
    "NX-FRAME-003": "a framework's exporter cannot turn the model into ONNX",
    "NX-FRAME-004": "an operator of a framework, or one of its variants, has no converter",
    # Shapes that are chosen when the model runs.
    "NX-SHAPE-001": "the batch was asked to be dynamic, but its rows are not known to be independent",
    "NX-SHAPE-002": "buckets are equal, too many, or cannot be had with the other options",
    # Weights.
    "NX-WEIGHT-001": "external weight data is missing, out of bounds or outside the model's folder",
    "NX-WEIGHT-002": "a weights file is malformed",
    "NX-WEIGHT-003": "a weight is referred to that the weight store does not hold",
    "NX-WEIGHT-004": "a weight's bytes do not fit its declared shape and element type",
    # Operators.
    "NX-OP-001": "an operator or one of its variants is not supported",
    "NX-OP-002": "an operand's shape or element type is not supported by the operator",
    # Targets.
    "NX-TARGET-001": "an unknown target is named",
    "NX-TARGET-002": "a target description is malformed",
    "NX-TARGET-003": "a module names no target",
    "NX-TARGET-004": "an unknown instance is named",
    # Memory.
    "NX-MEM-001": "a buffer does not fit into the memory it must live in",
    # Instructions and the streams that they run in.
    "NX-ISA-001": "an instruction breaks a limit of its target",
    "NX-ISA-002": "access patterns of an op have too many dimensions and cannot be cut",
    "NX-ISA-003": "no engine of the target executes an instruction",
    "NX-REG-001": "a queue needs more scalar registers than its engine has",
    "NX-SEM-001": "a program needs more semaphores, or higher counts, than its target has",
    # The compiled file.
    "NX-NEFF-001": "the NEFF is malformed",
    "NX-NEFF-002": "the NEFF is of a version, has features or an encoding that this toolkit does not read",
    "NX-NEFF-003": "the NEFF's contents do not match the hash in its header",
    "NX-NEFF-004": "the NEFF's archive is malformed or has members that it must not have",
    "NX-NEFF-005": "a JSON member of the NEFF is malformed or contradicts the others",
    "NX-NEFF-006": "an instruction of the NEFF cannot be decoded",
    "NX-NEFF-007": "a program refers to something that it or its target does not have",
    "NX-NEFF-008": "a parameter does not fit its declared shape and element type",
    "NX-NEFF-009": "an instruction cannot be encoded",
    "NX-NEFF-010": "the NEFF exceeds a limit of its reader",
    "NX-NEFF-020": "a buffer has no address when the program is emitted",
    "NX-NEFF-021": "a program is not in queues with registers when it is emitted",
    "NX-NEFF-022": "the main function does more than launch segments, each once, when it is emitted",
    # Running a program.
    "NX-RUN-001": "an access lies outside of the memory that it names",
    "NX-RUN-002": "an index of a gather or scatter lies outside of its table",
    "NX-RUN-003": "instruction streams wait for each other for ever",
    "NX-RUN-004": "a program is malformed: the machine cannot execute it",
    "NX-RUN-005": "the inputs or parameters given do not fit the program",
    "NX-RUN-006": "a program runs for more steps than allowed",
    "NX-RUN-007": "accesses of two streams are not ordered, or memory is read that nothing has written",
    "NX-RUN-010": "a value at the model's boundary does not fit the type that the core computes with",
    "NX-RUN-011": "an input is missing, or the model has no such input",
    "NX-RUN-012": "an input has another shape than the model was compiled for",
    "NX-RUN-013": "the program cannot run in this mode",
    "NX-RUN-020": "onnxruntime cannot run the reference model",
    "NX-RUN-021": "the reference has no such output, or one of another shape",
    # Assembly.
    "NX-ASM-001": "an assembly text cannot be parsed, or its program breaks a rule of the encoding or the target",
    "NX-ASM-002": "an assembly text does not give all that a model needs",
    # The runtime that serves models: the statuses of libnrt, by their numbers.
    "NX-NRT-001": "NRT_FAILURE: a request failed for a reason that no other status tells",
    "NX-NRT-002": "NRT_INVALID: a setting or an argument cannot be read or contradicts another one",
    "NX-NRT-003": "NRT_INVALID_HANDLE: the model has been unloaded",
    "NX-NRT-004": "NRT_RESOURCE: cores or device memory are not available",
    "NX-NRT-005": "NRT_TIMEOUT: a request took longer than allowed",
    "NX-NRT-007": "NRT_QUEUE_FULL: a model has as many requests waiting as it may have",
    "NX-NRT-009": "NRT_LOAD_NOT_ENOUGH_NC: a model needs more cores than it is given",
    "NX-NRT-010": "NRT_UNSUPPORTED_NEFF_VERSION: the NEFF is not for these cores or of an unknown version",
    "NX-NRT-011": "NRT_FAIL_HOST_MEM_ALLOC: the host has too little memory",
    "NX-NRT-014": "NRT_CLOSED: the runtime has been closed",
    "NX-NRT-1002": "NRT_EXEC_BAD_INPUT: the inputs of a request do not fit the model",
    "NX-NRT-1003": "NRT_EXEC_COMPLETED_WITH_NUM_ERR: an output holds NaN, and NEURON_FAIL_ON_NAN is set",
    "NX-NRT-1006": "NRT_EXEC_OOB: a program accessed memory out of bounds",
    # Profiles.
    "NX-PROF-001": "a stored profile is malformed, too large or of a version that this toolkit does not read",
    "NX-PROF-002": "a question to a profile names a figure that it does not have, or cannot be read",
    "NX-PROF-003": "the package that an output format of the profiler needs is not installed",
    "NX-PROF-004": "a profile is worse than allowed by --fail-if",
    # Textual IR.
    "NX-IR-001": "textual IR cannot be parsed or does not verify",
    "NX-IR-002": "the module has no main function",
    # Host and core.
    "NX-PART-001": "an operator that was forced to the core cannot run there",
    "NX-PART-002": "an operator would run on the host although the whole program must run on the core",
    "NX-PART-003": "a name that an operator was to be forced by is neither an operator nor a node of the model",
    # Plug-ins.
    "NX-PLUGIN-001": "a plug-in cannot be loaded",
    "NX-PLUGIN-002": "a plug-in adds something that is there already, or that does not fit",
    # NeuronCore Pipeline.
    "NX-PIPE-001": "the weights and buffers of a pipeline stage do not fit into the on-chip memory of its core",
    "NX-PIPE-002": "a model cannot be cut into the number of pipeline stages that was asked for",
    "NX-PIPE-003": "an option cannot be combined with a pipeline",
    # The language server.
    "NX-LSP-001": "the package that the language server needs is not installed",
    # Command lines and passes.
    "NX-FILE-001": "a file cannot be read or written",
    "NX-FILE-002": "a file is too large or not of the expected kind",
    "NX-ARG-001": "an option has none of its allowed values",
    "NX-ARG-002": "an option's value cannot be read",
    "NX-PASS-001": "a pass pipeline names an unknown pass, or an option that the pass does not have",
    "NX-PASS-002": "a pass cannot be applied to the program",
    "NX-PASS-003": "a pass changes what the program computes",
    "NX-PASS-004": "an option of a pass needs a package that is not installed",
}
"""Code -> one-line meaning. Codes are never renumbered."""


class NeuronError(Exception):
    """A mistake in what the user gave us, described for the user.

    Args:
        code: a key of `ERROR_CODES`.
        message: what is wrong, with the figure and the limit that it broke.
        node: name of the framework (ONNX) node concerned, if there is one.
        help: what to do about it, if there is something to do.
        notes: further facts, a line each.
    """

    code: str
    message: str
    node: str | None
    help: str | None
    notes: Sequence[str]
    segment: str | None
    """The function of a partitioned program that could not be lowered (`in_segment`)."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        node: str | None = None,
        help: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        if code not in ERROR_CODES:
            raise ValueError(f"error code {code} is not in ERROR_CODES")
        super().__init__(message)
        self.code = code
        self.message = message
        self.node = node
        self.help = help
        self.notes = notes
        self.segment = None

    def format(self) -> str:
        """The lines to print: `error[CODE]: ...`, then `  note: ...` and `  help: ...`. No newline at the end."""
        place = f"node '{self.node}': " if self.node else ""
        lines = [f"error[{self.code}]: {place}{self.message}", *(f"  note: {note}" for note in self.notes)]
        return "\n".join([*lines, f"  help: {self.help}"] if self.help else lines)

    def __str__(self) -> str:
        return self.format()


@contextmanager
def in_segment(name: str) -> Generator[None]:
    """Say of a NeuronError raised inside that it concerns the function `name`."""
    try:
        yield
    except NeuronError as error:
        error.segment = error.segment or name
        raise
