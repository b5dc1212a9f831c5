"""Tables that are computed once and kept, for torch.compile too."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def kept(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keeps the results of a function of hashable constants, like `lru_cache`.

    torch.compile would trace through the function, loops over thousands of tokens included; it calls this one and
    takes the result for a constant. (The mark is what `torch.compiler.assume_constant_result` sets, which imports the
    whole compiler for it, two seconds of every command.)

    Args:
        maxsize: how many results are kept.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @lru_cache(maxsize)
        def cached(*arguments: P.args, **settings: P.kwargs) -> T:
            with torch.inference_mode(False):  # a prediction may come first, a training after it
                return function(*arguments, **settings)

        @wraps(function)
        def call(*arguments: P.args, **settings: P.kwargs) -> T:
            return cached(*arguments, **settings)  # type: ignore[arg-type]

        call._dynamo_marked_constant = True  # type: ignore[attr-defined]
        return call

    return decorate
