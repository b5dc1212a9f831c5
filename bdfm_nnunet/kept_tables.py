"""Cache of tables that are computed once, also under torch.compile."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def kept(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Cache the results of a function of hashable constants, like `lru_cache`.

    torch.compile would trace through the function, including loops over thousands of tokens. It calls the cached
    function instead and treats the result as a constant. (`torch.compiler.assume_constant_result` sets the same mark,
    but imports the whole compiler for it: two seconds of every command.)

    Args:
        maxsize: number of results to keep.
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
