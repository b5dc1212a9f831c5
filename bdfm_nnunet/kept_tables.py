"""Cache of tables that are computed once, also under torch.compile."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

_clear: list[Callable[[], None]] = []
"""Of each cache, what empties it."""


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
        _clear.append(cached.cache_clear)
        return call

    return decorate


def clear_tables() -> None:
    """Empty all caches, so that what is kept from now on does not depend on what was computed before.

    A table that one cache gave up may live on in a table of another; the next is then made a second time.

    Example:
        >>> @kept(maxsize=1)
        ... def table(size: int) -> torch.Tensor:
        ...     return torch.arange(size)
        >>> first = table(2)
        >>> clear_tables()
        >>> table(2) is first
        False
    """
    for clear in _clear:
        clear()
