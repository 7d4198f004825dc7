"""Several Python threads that call the operators at the same time."""

# labels: torch gpu
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cases import Maker, Operator
from helpers.operators import OPERATORS, as_tuple, bits, call

THREADS = 4
ROUNDS = 30


def run(operator: Operator, device: torch.device, seed: int) -> list[torch.Tensor]:
    arguments = operator.growing.make(Maker.seeded(torch.float32, device, seed), 2 + seed % 3)
    return [bits(result) for result in as_tuple(call(operator, arguments))]


def fail(operator: Operator, device: torch.device, seed: int) -> str:
    fitting = [wrong for wrong in operator.wrong if not wrong.only_on]
    wrong = fitting[seed % len(fitting)]
    with pytest.raises(RuntimeError, match=wrong.message) as raised:
        call(operator, wrong.make(Maker.seeded(wrong.dtype, device)))
    return str(raised.value)


def test_threads_do_not_disturb_each_other(device: torch.device) -> None:
    """Each thread gets its own results, and its own error messages."""
    expected = {
        (operator.name, seed): run(operator, device, seed)
        for operator in OPERATORS
        for seed in range(THREADS)
    }

    def work(seed: int) -> None:
        for number in range(ROUNDS):
            for operator in OPERATORS:
                fail(operator, device, THREADS * number + seed)
                for own, other in zip(
                    run(operator, device, seed), expected[operator.name, seed], strict=True
                ):
                    assert torch.equal(own, other), f"{operator.name} in thread {seed}"

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(work, seed) for seed in range(THREADS)]:
            future.result()
