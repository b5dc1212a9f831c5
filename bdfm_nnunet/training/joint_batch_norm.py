"""Batch norm over the samples of all processes, on any device; PyTorch's SyncBatchNorm only runs on accelerators."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class JointBatchNorm(_BatchNorm):
    """A batch norm whose statistics in training are those of the joined batch of all processes.

    Outputs, gradients and running statistics are those of one process with all samples, shares of unequal size too, and
    the running statistics are equal in all processes. In evaluation nothing is exchanged. All processes must call it
    equally often.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"features of shape {tuple(input.shape)}, expected (B, C, *spatial)")

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, *spatial) to the same shape."""
        if not self.training or distributed.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, count = _joint_statistics(input.detach())
        self._update(mean, variance, count)
        inverse = (variance + self.eps).rsqrt()
        normalised: Tensor = _Normalise.apply(input, mean, inverse, count)
        if not self.affine:
            return normalised.clone()  # what follows may write into it
        shape = (1, -1, *(1,) * (input.ndim - 2))
        return normalised * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def join_batch_norms(network: nn.Module) -> nn.Module:
    """Replace every batch norm of a network, which keeps its parameters and buffers.

    Returns:
        The network, or what stands in its place if it is a batch norm.
    """
    if isinstance(network, _BatchNorm) and not isinstance(network, (nn.SyncBatchNorm, JointBatchNorm)):
        joint = JointBatchNorm(
            network.num_features, network.eps, network.momentum, network.affine, network.track_running_stats
        )
        joint.weight, joint.bias = network.weight, network.bias
        joint.running_mean, joint.running_var = network.running_mean, network.running_var
        joint.num_batches_tracked = network.num_batches_tracked
        return joint.train(network.training)
    for name, child in network.named_children():
        setattr(network, name, join_batch_norms(child))
    return network


def _joint_statistics(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and population variance of each channel over all processes, and how many values that are."""
    axes = [axis for axis in range(features.ndim) if axis != 1]
    features = features.float()
    size = features.new_full((1,), features.numel() / features.shape[1])
    sums = torch.cat([features.sum(axes), size])
    distributed.all_reduce(sums)
    count = sums[-1]
    mean = sums[:-1] / count
    spread = (features - mean.view(1, -1, *(1,) * (features.ndim - 2))).square_().sum(axes)
    distributed.all_reduce(spread)
    return mean, spread / count, count


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation, whose gradient knows that both depend on the samples of all processes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, mean: Tensor, inverse: Tensor, count: Tensor) -> Tensor:
        """See `JointBatchNorm`."""
        shape = (1, -1, *(1,) * (features.ndim - 2))
        normalised = ((features - mean.view(shape)) * inverse.view(shape)).to(features.dtype)
        ctx.save_for_backward(normalised, inverse, count)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the features: that of each sample, less its means over all processes."""
        normalised, inverse, count = ctx.saved_tensors
        axes = [axis for axis in range(gradient.ndim) if axis != 1]
        shape = (1, -1, *(1,) * (gradient.ndim - 2))
        sums = torch.stack([gradient.float().sum(axes), (gradient * normalised).float().sum(axes)])
        distributed.all_reduce(sums)
        plain, along = (part.view(shape) for part in sums / count)
        found = (gradient - plain - normalised * along) * inverse.view(shape)
        return found.to(gradient.dtype), None, None, None
