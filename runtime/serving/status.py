"""Statuses of the serving runtime: libnrt's names and numbers, and how they follow from the toolkit's own errors."""

from __future__ import annotations

from enum import IntEnum

from neuron_dialects.errors import NeuronError


class Status(IntEnum):
    """How a load or a request ended. Names and numbers are libnrt's; those that a simulated device cannot have
    (hardware errors, collectives) are left out. `ERROR_CODES` says what each means, under `code`.
    """

    NRT_SUCCESS = 0
    NRT_FAILURE = 1
    NRT_INVALID = 2
    NRT_INVALID_HANDLE = 3
    NRT_RESOURCE = 4
    NRT_TIMEOUT = 5
    NRT_QUEUE_FULL = 7
    NRT_LOAD_NOT_ENOUGH_NC = 9
    NRT_UNSUPPORTED_NEFF_VERSION = 10
    NRT_FAIL_HOST_MEM_ALLOC = 11
    NRT_CLOSED = 14
    NRT_EXEC_BAD_INPUT = 1002
    NRT_EXEC_COMPLETED_WITH_NUM_ERR = 1003
    NRT_EXEC_OOB = 1006

    @property
    def code(self) -> str:
        """The code of errors with this status, `NX-NRT-004` for 4."""
        return f"NX-NRT-{self.value:03d}"


class NrtError(NeuronError):
    """A load or a request that did not succeed. `status` tells how; `cause_code` is the code of the toolkit's error
    behind it, empty where there is none.
    """

    status: Status
    cause_code: str

    def __init__(self, status: Status, message: str, *, help: str | None = None, cause_code: str = "") -> None:
        super().__init__(status.code, f"{status.name}: {message}", help=help)
        self.status = status
        self.cause_code = cause_code


_STATUS_OF_CODE = {
    "NX-MEM-001": Status.NRT_RESOURCE,
    "NX-NEFF-002": Status.NRT_UNSUPPORTED_NEFF_VERSION,
    "NX-RUN-001": Status.NRT_EXEC_OOB,
    "NX-RUN-002": Status.NRT_EXEC_OOB,
    # Streams that never end: a device would be stopped by its time-out.
    "NX-RUN-003": Status.NRT_TIMEOUT,
    "NX-RUN-006": Status.NRT_TIMEOUT,
    "NX-RUN-005": Status.NRT_EXEC_BAD_INPUT,
    "NX-RUN-010": Status.NRT_EXEC_BAD_INPUT,
    "NX-RUN-011": Status.NRT_EXEC_BAD_INPUT,
    "NX-RUN-012": Status.NRT_EXEC_BAD_INPUT,
}


def status_of(error: BaseException) -> Status:
    """The status that an exception of a load or a request stands for."""
    match error:
        case NrtError():
            return error.status
        case NeuronError():
            family = Status.NRT_INVALID if error.code.startswith("NX-NEFF-") else Status.NRT_FAILURE
            return _STATUS_OF_CODE.get(error.code, family)
        case MemoryError():
            return Status.NRT_FAIL_HOST_MEM_ALLOC
        case _:
            return Status.NRT_FAILURE


def as_nrt_error(error: NeuronError | MemoryError) -> NrtError:
    """The same error as one with a status; one that has a status stays what it is."""
    if isinstance(error, NrtError):
        return error
    if isinstance(error, MemoryError):
        return NrtError(status_of(error), "this computer has too little memory")
    place = f"node '{error.node}': " if error.node else ""
    return NrtError(status_of(error), f"{place}{error.message}", help=error.help, cause_code=error.code)
