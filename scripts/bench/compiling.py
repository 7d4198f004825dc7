"""torch.compile for a comparison: whole graphs, static shapes, and an error instead of a silent fallback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType

import torch

# Option of the command line -> torch.compile's mode.
MODES = {
    "compile": None,
    "max-autotune": "max-autotune-no-cudagraphs",
    "reduce-overhead": "reduce-overhead",
}


def compiled(function: FunctionType, mode: str | None = None) -> Callable:
    """`function` under torch.compile.

    It gets a code object of its own: the compiler keeps its results there, and calls would otherwise search
    among those of other modes.
    """
    name = f"{function.__name__}_{mode or 'default'}".replace("-", "_")
    own = FunctionType(
        function.__code__.replace(co_name=name),
        function.__globals__,
        name,
        function.__defaults__,
        function.__closure__,
    )
    return torch.compile(own, mode=mode, fullgraph=True, dynamic=False)


@contextmanager
def one_compilation() -> Iterator[None]:
    """Within it a second compilation of the same function raises an error: then the calls differ in more than
    their data, and would be measured wrongly."""
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


@contextmanager
def empty_caches() -> Iterator[None]:
    """Within it torch.compile finds nothing that an earlier process compiled: first calls take what they take
    a user."""
    with tempfile.TemporaryDirectory(prefix="ds_diffusers_bench_", ignore_cleanup_errors=True) as folder:
        variables = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": os.path.join(folder, "triton")}
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def forget_compiled() -> None:
    """Frees what torch.compile has compiled in this process."""
    torch._dynamo.reset()
