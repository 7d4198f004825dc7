"""Thousands of calls, right and wrong ones, leave no memory behind."""

# labels: torch gpu
from collections.abc import Callable

import torch

from cases import Arguments, Maker, Operator
from helpers.memory import growth
from helpers.operators import call, every_operator, small

# The smallest thing that a call could leak is the 8 bytes of an optional argument, which take 32 of the heap.
HEAP_LIMIT_PER_CALL = 16
# Resident memory comes in pages, and is only a check on what the heap does not see.
RESIDENT_LIMIT = 4 << 20
# What the interpreter's and torch's caches may take at any time.
SLACK = 4 << 10


def check_no_growth(
    function: Callable[[], object], repeats: int, device: torch.device, calls_each: int = 1
) -> None:
    calls = repeats * calls_each
    measured = []
    # A cache that grows does so once; a leak grows each time.
    while len(measured) < 3:
        measured.append(growth(function, repeats, device))
        if (
            measured[-1].get("heap", 0) < HEAP_LIMIT_PER_CALL * calls + SLACK
            and measured[-1]["resident"] < RESIDENT_LIMIT
            and measured[-1].get("cuda", 0) <= 0
        ):
            return
    raise AssertionError(f"memory grew in each of {len(measured)} times {calls} calls: {measured}")


def failing_call(operator: Operator, arguments: Arguments) -> Callable[[], None]:
    def function() -> None:
        try:
            call(operator, arguments)
        except RuntimeError:
            return
        raise AssertionError("no error")

    return function


@every_operator
def test_calls_leak_nothing(operator: Operator, device: torch.device) -> None:
    arguments = small(operator, device=device)
    check_no_growth(lambda: call(operator, arguments), 2000, device)


@every_operator
def test_copies_of_unusual_layouts_leak_nothing(operator: Operator, device: torch.device) -> None:
    """Those that the kernels do not take are replaced by contiguous copies."""
    cases = [case for case in operator.cases if not case.heavy]
    made = [case.make(Maker.seeded(torch.float32, device)) for case in cases]

    def function() -> None:
        for arguments in made:
            call(operator, arguments)

    check_no_growth(function, 20, device, calls_each=len(made))


@every_operator
def test_meta_calls_leak_nothing(operator: Operator) -> None:
    arguments = small(operator, device="meta")
    check_no_growth(lambda: call(operator, arguments), 2000, torch.device("meta"))


@every_operator
def test_failing_calls_leak_nothing(operator: Operator, device: torch.device) -> None:
    for wrong in operator.wrong[:: max(1, len(operator.wrong) // 40)]:
        if wrong.only_on in ("", device.type):
            arguments = wrong.make(Maker.seeded(wrong.dtype, device))
            check_no_growth(failing_call(operator, arguments), 600, device)
