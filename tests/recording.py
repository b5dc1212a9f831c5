"""What PyTorch really computes with, seen from below."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RecordedTypes(TorchDispatchMode):
    """A context that notes the types of all tensors that operations give while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, list | tuple) else [results]:
            if isinstance(result, torch.Tensor):
                self.seen.add(result.dtype)
        return results
