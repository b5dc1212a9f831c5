"""Results of operations on meta tensors, without importing SymPy and PyTorch's compiler.

PyTorch answers most operations on the meta device in Python, which takes two seconds of imports and 0.3 ms an
operation. Its C++ kernels for all devices ("CompositeExplicitAutograd") do without: they lay out their results, then
call what fills them, and where no tensor has content there is nothing to fill. A few operations have no such kernel but
a rule below; whatever is left takes PyTorch's own way.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

_ANY_LAYOUT = torch._C.DispatchKey.CompositeExplicitAutograd
_KERNELS = (torch._C.DispatchKey.CompositeExplicitAutogradNonFunctional, _ANY_LAYOUT)
_aten = torch.ops.aten

Rule = Callable[..., Any]


@cache
def rule_of(operation: Any) -> Rule | None:
    """Return the function that gives the result of an operation on meta tensors; None to run the operation.

    A rule calls other operations, for which the caller uses `rule_of` too. It returns NotImplemented for arguments that
    it does not know.

    Args:
        operation: a `torch._ops.OpOverload`.
    """
    if operation in _RULES:
        return _RULES[operation]
    if operation.is_view or torch.Tag.inplace_view in operation.tags:
        return None
    if operation._schema.is_mutable:
        return _rule_of_writing(operation._schema)
    has = partial(torch._C._dispatch_has_kernel_for_dispatch_key, operation.name())
    if has("Meta") and torch._C.DispatchKey.Meta not in operation.py_kernels:
        return None  # in C++
    return next((partial(operation._op_dk, key) for key in _KERNELS if has(key.name)), None)


def _rule_of_writing(schema: Any) -> Rule | None:
    """Return the rule of an operation that returns its output arguments, whose size is right unless they are empty."""
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    places = [(argument.name, i) for i, argument in enumerate(schema.arguments) if written[i]]
    if len(schema.returns) != len(places) or any(result.alias_info is None for result in schema.returns):
        return None

    def rule(*args: Any, **kwargs: Any) -> Any:
        targets = [kwargs[name] if name in kwargs else args[i] for name, i in places]
        if not all(isinstance(target, Tensor) and target.numel() for target in targets):
            return NotImplemented
        return targets[0] if len(targets) == 1 else tuple(targets)

    return rule


def _empty(like: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    return torch.empty(like.shape if shape is None else shape, dtype=like.dtype, device="meta")


def _empties(wanted: Sequence[bool], *likes: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(_empty(like) if want and like is not None else None for want, like in zip(wanted, likes, strict=True))


def _convolution(
    images: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *others: Any
) -> Tensor:
    more, groups = others
    spatial = []
    for axis, (size, kernel) in enumerate(zip(images.shape[2:], weight.shape[2:], strict=True)):
        reach = dilation[axis % len(dilation)] * (kernel - 1) + 1
        step, border = stride[axis % len(stride)], 2 * padding[axis % len(padding)]
        if transposed:
            spatial.append((size - 1) * step - border + reach + more[axis % len(more)])
        else:
            spatial.append((size + border - reach) // step + 1)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return _empty(images, (len(images), channels, *spatial))


def _convolution_backward(gradient: Tensor, images: Tensor, weight: Tensor, biases: Any, *others: Any) -> Any:
    return _empties(others[-1], images, weight, None if biases is None else _empty(gradient, biases))


def _batch_norm(images: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *others: Any) -> Any:
    kept = _empty(images, images.shape[1:2] if training else (0,))
    return torch.empty_like(images), kept, torch.empty_like(kept)


def _batch_norm_backward(gradient: Tensor, images: Tensor, weight: Tensor | None, *others: Any) -> Any:
    return torch.empty_like(images), *_empties(others[-1][1:], weight, weight)


def _layer_norm(tokens: Tensor, axes: Sequence[int], *others: Any) -> Any:
    kept = _empty(tokens, [*tokens.shape[: -len(axes)], *(1 for _ in axes)])
    return torch.empty_like(tokens), kept, torch.empty_like(kept)


def _layer_norm_backward(gradient: Tensor, tokens: Tensor, axes: Any, mean: Any, deviation: Any, *others: Any) -> Any:
    weight, bias, wanted = others
    return _empties(wanted, tokens, weight, bias)


def _index_select(source: Tensor, axis: int, index: Tensor) -> Tensor:
    shape = list(source.shape)
    shape[axis] = index.numel()
    return _empty(source, shape)


def _var_mean(values: Tensor, axes: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return tuple(_aten.sum.dim_IntList(values, axes, keepdim) for _ in range(2))


def _attention(query: Tensor, *others: Any, **settings: Any) -> Any:
    batch, heads, tokens, _ = query.shape
    return torch.empty_like(query), torch.empty(batch, tokens, heads, device="meta").transpose(1, 2)


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *others: Any, **kw: Any) -> Any:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _fft(signal: Tensor, axes: Sequence[int], normalization: int, forward: bool) -> Tensor:
    return _transformed(signal, _by_stride(signal, axes), signal.shape)


def _fft_of_real(signal: Tensor, axes: Sequence[int], normalization: int, onesided: bool) -> Tensor:
    shape = list(signal.shape)
    if onesided:
        shape[axes[-1]] = shape[axes[-1]] // 2 + 1
    return _transformed(signal, [*_by_stride(signal, axes[:-1]), axes[-1]], shape)


def _by_stride(signal: Tensor, axes: Sequence[int]) -> list[int]:
    return sorted(axes, key=lambda axis: -signal.stride()[axis])


def _transformed(signal: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return an empty spectrum in MKL's layout, which PyTorch uses on the meta device: transformed axes innermost."""
    axes = [axis % signal.ndim for axis in axes]
    order = [*_by_stride(signal, [axis for axis in range(signal.ndim) if axis not in axes]), *axes]
    spectrum = torch.empty([shape[axis] for axis in order], dtype=signal.dtype.to_complex(), device="meta")
    return spectrum.permute([order.index(axis) for axis in range(signal.ndim)])


_RULES: dict[Any, Rule] = {
    _aten.convolution.default: _convolution,
    _aten.convolution_backward.default: _convolution_backward,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_batch_norm_backward.default: _batch_norm_backward,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_layer_norm_backward.default: _layer_norm_backward,
    _aten.index_select.default: _index_select,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
    _aten.var_mean.correction: _var_mean,
    _aten._fft_c2c.default: _fft,
    _aten._fft_r2c.default: _fft_of_real,
    _aten.stack.default: partial(_aten.stack.default._op_dk, _ANY_LAYOUT),  # its C++ ends in Python
    _aten.remainder.Scalar: _aten.mul.Tensor,
    _aten.where.self: lambda condition, one, other: _aten.mul.Tensor(_aten.mul.Tensor(condition, one), other),
    _aten.abs.default: lambda values: torch.empty_like(values, dtype=values.dtype.to_real()),
    _aten.complex.default: lambda real, imaginary: torch.empty_like(real, dtype=real.dtype.to_complex()),
    _aten.flip.default: lambda images, axes: torch.empty_like(images),
    _aten.roll.default: lambda images, shifts, axes=(): _empty(images),
}
"""Operations that no kernel for all devices answers, or none that ends well."""
