"""The way of an image through an encoder, tensor by tensor: where a transfer of weights ends, and what it leaves out.

Weights mean something only behind the weights that they were trained behind. A tensor that stays new therefore ends the
transfer for everything that the image meets later.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from bdfm_nnunet.networks.encoders import encoder_of, image_kernels


@dataclass(frozen=True)
class Target:
    """A network that gets weights, and the order in which an image meets its parameters.

    Attributes:
        network: without the wrappers of DDP and torch.compile.

    Example:
        >>> from bdfm_nnunet.networks import ResNet18
        >>> target = Target(ResNet18(1, features=(4, 8, 8, 8)))
        >>> target.encoder[:3], target.stem
        (('conv1.weight', 'bn1.weight', 'bn1.bias'), ())
    """

    network: nn.Module

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """All modules by name."""
        return dict(self.network.named_modules())

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters by name, each once."""
        return dict(self.network.named_parameters())

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers that the network saves, by name."""
        saved = self.network.state_dict().keys()
        return {name: buffer for name, buffer in self.network.named_buffers() if name in saved}

    @cached_property
    def every_name(self) -> frozenset[str]:
        """All names under which the network saves something, second names of one tensor too."""
        return frozenset({*self.parameters, *self.network.state_dict()})

    @cached_property
    def encoder(self) -> tuple[str, ...]:
        """Names of the encoder's parameters, as the image meets them."""
        return self._names(encoder_of(self.network).module)

    @cached_property
    def stem(self) -> tuple[str, ...]:
        """Names of the parameters of a stem beside the encoder, as the image meets them; empty without a stem."""
        stem = encoder_of(self.network).stem
        return () if stem is None else self._names(stem)

    @property
    def reading_image(self) -> tuple[str, ...]:
        """Names of the kernels that read the image."""
        view = encoder_of(self.network)
        kernels = [each for part in (view.stem, view.module) if part is not None for each in image_kernels(part)]
        return tuple(self._name_of[id(kernel)] for kernel in kernels)

    def owner(self, name: str) -> nn.Module:
        """Return the module that has a parameter or buffer."""
        return self.modules[name.rpartition(".")[0]]

    def is_kernel(self, name: str) -> bool:
        """Return whether a parameter is the kernel of a convolution or a matrix, and not a bias, norm or table."""
        return name.endswith("weight") and self.parameters[name].ndim > 1

    def is_of_encoder(self, name: str) -> bool:
        """Return whether a name, perhaps of another network, belongs to the encoder."""
        home = self.home(name)
        return bool(home) and any(each.startswith(f"{home}.") for each in self.encoder)

    def home(self, name: str) -> str:
        """Return the innermost module of the network that a name, perhaps of another network, lies in."""
        while name and name not in self.modules:
            name = name.rpartition(".")[0]
        return name

    def _names(self, part: nn.Module) -> tuple[str, ...]:
        return tuple(self._name_of[id(parameter)] for parameter in part.parameters())

    @cached_property
    def _name_of(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.parameters.items()}


def behind_the_end(names: Sequence[str], taken: Collection[str], kernels: Collection[str]) -> tuple[str, list[str]]:
    """Return the tensor at which a transfer ends, and what was found for small tensors behind it.

    Behind the last kernel that fits, biases and tables may fit by chance; they belong to kernels that stay new.

    Args:
        names: parameters as the image meets them.
        taken: those for which the checkpoint has something.
        kernels: those that are kernels or matrices.

    Example:
        >>> behind_the_end(["a.weight", "b.weight", "b.bias"], {"a.weight", "b.bias"}, {"a.weight", "b.weight"})
        ('b.weight', ['b.bias'])
    """
    last = max((i for i, name in enumerate(names) if name in taken and name in kernels), default=-1)
    end = next((i for i in range(last + 1, len(names)) if names[i] not in taken), len(names))
    return (names[end] if end < len(names) else ""), [name for name in names[end:] if name in taken]


def first_gap(names: Sequence[str], taken: Collection[str]) -> tuple[str, list[str]]:
    """Return the first tensor that stays new in front of others that do not, and these; ("", []) for none.

    Example:
        >>> first_gap(["stem.weight", "stage.weight"], {"stage.weight"})
        ('stem.weight', ['stage.weight'])
    """
    start = next((i for i, name in enumerate(names) if name not in taken), len(names))
    behind = [name for name in names[start:] if name in taken]
    return (names[start], behind) if behind else ("", [])


def cut_out(target: Target, ignored: Collection[str], taken: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the parts of a checkpoint's encoder that the network lacks in front of others that it takes, and these.

    Args:
        target: the network.
        ignored: names of the checkpoint's encoder for which the network has no place.
        taken: parameters of the network's encoder that get something.

    Example:
        A block of a stage that the network does not have:

        >>> from bdfm_nnunet.networks import ResNet18
        >>> target = Target(ResNet18(1, features=(4, 8, 8, 8)))
        >>> cut_out(target, ["layer1.2.conv1.weight"], target.encoder)[0]
        ['layer1.2.conv1.weight']
        >>> cut_out(target, ["layer4.2.conv1.weight"], target.encoder)
        ([], [])
    """
    lost, behind = [], set()
    for name in ignored:
        home = target.home(name)
        last = max((i for i, each in enumerate(target.encoder) if each.startswith(f"{home}.")), default=-1)
        later = [each for each in target.encoder[last + 1 :] if each in taken and target.is_kernel(each)]
        if last >= 0 and later:
            lost.append(name)
            behind.update(later)
    return lost, [name for name in target.encoder if name in behind]


def share_of(sizes: Mapping[str, int], taken: Collection[str]) -> float:
    """Return which share of all numbers the taken tensors hold, 0 to 1; 0 if there are none.

    Example:
        >>> share_of({"a": 3, "b": 1}, ["a"])
        0.75
    """
    return sum(size for name, size in sizes.items() if name in taken) / max(sum(sizes.values()), 1)
