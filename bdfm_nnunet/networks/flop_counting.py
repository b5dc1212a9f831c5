"""Count of floating-point operations, without running them if tensors are on the meta device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bdfm_nnunet.networks.shape_rules import rule_of


class FlopCounter(TorchDispatchMode):
    """Context that counts like PyTorch's `FlopCounterMode`, without its tables and its import of PyTorch's compiler.

    `rule_of` answers operations on the meta device; operations on other devices are run.

    Args:
        device: device whose operations are counted; constants that are made on the CPU, for instance, are not.

    Attributes:
        flops: floating-point operations so far.

    Example:
        >>> with FlopCounter("meta") as counter:
        ...     product = torch.zeros(2, 3, device="meta") @ torch.zeros(3, 4, device="meta")
        >>> counter.flops
        48
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.flops = 0
        self._within = False  # an operation that is answered by others, which are not counted

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler, to say that `__torch_dispatch__` is not to be compiled

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        args = _with_tensors(operation, args)
        formula = None if self._within else flop_registry.get(operation._overloadpacket)
        result = self._do(operation, args, kwargs)
        if formula is not None and args[0].device.type == self.device:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result

    def _do(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        rule = rule_of(operation) if _on_meta(args, kwargs) else None
        if rule is None:
            return operation(*args, **kwargs)
        before, self._within = self._within, True
        try:
            with self:
                result = rule(*args, **kwargs)
        finally:
            self._within = before
        return operation(*args, **kwargs) if result is NotImplemented else result


class FusedAttention(TorchFunctionMode):
    """Context in which attention without a mask keeps on the meta device what the fused kernels of devices keep.

    There PyTorch takes the slow form, which keeps the weights of all pairs of tokens.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function."""
        kwargs = kwargs or {}
        masked = len(args) > 3 or kwargs.get("attn_mask") is not None or kwargs.get("dropout_p", 0) > 0
        if function is functional.scaled_dot_product_attention and not masked and args[0].is_meta:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(*args)[0]
        return function(*args, **kwargs)


def _with_tensors(operation: Any, args: Sequence[Any]) -> Sequence[Any]:
    """Return arguments whose numbers are tensors where the operation takes nothing else, as in `tensor & 255`."""
    if not any(isinstance(value, (int, float)) for value in args):
        return args
    device = next((value.device for value in args if isinstance(value, Tensor)), torch.device("cpu"))
    expected = [str(argument.type) for argument in operation._schema.arguments]
    return [
        torch.tensor(value, device=device) if kind == "Tensor" and isinstance(value, (int, float)) else value
        for value, kind in zip(args, expected, strict=False)
    ]


def _on_meta(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether all tensors are on the meta device; without any, whether a new one will be."""
    found = False
    for value in (*args, *kwargs.values()):
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Tensor):
                if not item.is_meta:
                    return False
                found = True
    return found or torch.device(kwargs.get("device") or "cpu").type == "meta"
