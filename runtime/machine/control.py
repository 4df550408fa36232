"""Control instructions as functions: what each does to the scalar registers and where its queue goes on."""

from collections.abc import Callable, Sequence

Control = Callable[[list[int], int], int]
"""(registers, position of the entry) -> position of the next entry; `HALTED` after halt."""
HALTED = -1
MOST_CHAINED = 16
"""Control instructions that are executed as one."""


def _reg_move(dst: int, value: int) -> Control:
    def run(registers: list[int], position: int) -> int:
        registers[dst] = value
        return position + 1

    return run


def _reg_add(dst: int, src: int, value: int) -> Control:
    def run(registers: list[int], position: int) -> int:
        registers[dst] = registers[src] + value
        return position + 1

    return run


def _reg_multiply(dst: int, src: int, value: int) -> Control:
    def run(registers: list[int], position: int) -> int:
        registers[dst] = registers[src] * value
        return position + 1

    return run


def _reg_add_register(dst: int, src: int, other: int) -> Control:
    def run(registers: list[int], position: int) -> int:
        registers[dst] = registers[src] + registers[other]
        return position + 1

    return run


def _reg_rotate(dst: int, value: int, limit: int) -> Control:
    def run(registers: list[int], position: int) -> int:
        total = registers[dst] + value
        registers[dst] = total if total < limit else 0
        return position + 1

    return run


def _branch_less(src: int, value: int, label: int) -> Control:
    def run(registers: list[int], position: int) -> int:
        return label if registers[src] < value else position + 1

    return run


def _wait() -> Control:
    return lambda registers, position: position + 1


def _halt() -> Control:
    return lambda registers, position: HALTED


_MAKERS: dict[str, Callable[..., Control]] = {
    "reg_move": _reg_move,
    "reg_add": _reg_add,
    "reg_multiply": _reg_multiply,
    "reg_add_register": _reg_add_register,
    "reg_rotate": _reg_rotate,
    "branch_less": _branch_less,
    "wait": _wait,
    "halt": _halt,
}


def control_function(kind: str, numbers: Sequence[int]) -> Control:
    """The function of a control instruction of `CONTROL_KINDS` with its numbers; KeyError for an unknown kind."""
    return _MAKERS[kind](*numbers)


def goes_on(kind: str) -> bool:
    """Whether the next entry is the one behind it, always."""
    return kind not in ("branch_less", "halt")


def chained(controls: Sequence[Control]) -> Control:
    """Several that stand one behind the other as one; all but the last go on with the entry behind them."""
    if len(controls) == 1:
        return controls[0]
    *straight, last = controls
    steps = tuple(straight)

    def run(registers: list[int], position: int) -> int:
        for step in steps:
            position = step(registers, position)
        return last(registers, position)

    return run
