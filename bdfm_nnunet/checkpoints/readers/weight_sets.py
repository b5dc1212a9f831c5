"""The sets of weights in one file: containers, averages beside the weights they average, student and teacher."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.readers.families import encoder_names, family_of, shared_prefix
from bdfm_nnunet.errors import InputError

CONTAINERS = (
    "network_weights", "state_dict", "model_state_dict", "model", "net", "network", "teacher", "student", "model_ema",
    "ema", "ema_state_dict", "state_dict_ema", "ema_model", "target_encoder", "encoder", "backbone", "spark_weights",
    "weights", "params",
)  # fmt: skip
"""Keys under which training codes keep weights, in the order in which they are taken."""
COPIES = ("teacher", "student", "model", "online", "target", "momentum", "ema", "model_ema", "ema_model")
"""First parts of names by which one table holds several copies of a network, in the order in which they are taken."""
_USUAL = ("network_weights", "state_dict", "model_state_dict", "model", "teacher", "student")
_DEEPEST = 4


@dataclass(frozen=True)
class WeightSet:
    """One of the sets of weights in a file.

    Attributes:
        name: keys that lead to it, with dots between them; empty for the file itself.
        tensors: by the file's names.

    Example:
        >>> WeightSet("model_ema", {}).has_encoder
        False
    """

    name: str
    tensors: dict[str, Tensor]

    @property
    def has_encoder(self) -> bool:
        """Whether its names are those of an encoder; a projector has none."""
        return family_of(self.tensors) is not None


def weight_sets(content: Mapping[str, Any]) -> list[WeightSet]:
    """Return all sets of weights of a file, the most usual first.

    Example:
        >>> import torch
        >>> one = torch.zeros(1)
        >>> names = {"teacher.layers.0.blocks.0.attn.qkv.weight": one, "student.layers.0.blocks.0.attn.qkv.weight": one}
        >>> [each.name for each in weight_sets({"epoch": 3, "state_dict": names})]
        ['state_dict.teacher', 'state_dict.student']
    """
    return [part for each in _containers(content, "", 0) for part in _copies(each)]


def _containers(content: Mapping[Any, Any], name: str, depth: int) -> Iterator[WeightSet]:
    keys = [key for key in CONTAINERS if isinstance(content.get(key), Mapping)]
    if depth < _DEEPEST:
        for key in keys:
            yield from _containers(content[key], f"{name}.{key}".strip("."), depth + 1)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor) and isinstance(key, str)}
    if tensors:
        yield WeightSet(name, tensors)


def _copies(whole: WeightSet) -> list[WeightSet]:
    """Return the copies of a network that one table holds, or the table."""
    prefix = shared_prefix(whole.tensors)
    firsts = {name.removeprefix(prefix).partition(".")[0] for name in encoder_names(whole.tensors)}
    found = [copy for copy in COPIES if copy in firsts]
    if not found or len(firsts) < 2:
        return [whole]
    inside = [name for name in whole.tensors if name.removeprefix(prefix).startswith(tuple(f"{c}." for c in found))]
    rest = WeightSet(whole.name, {name: value for name, value in whole.tensors.items() if name not in inside})
    parts = [
        WeightSet(
            f"{whole.name}.{copy}".strip("."),
            {
                name.removeprefix(prefix).removeprefix(f"{copy}."): whole.tensors[name]
                for name in inside
                if name.removeprefix(prefix).startswith(f"{copy}.")
            },
        )
        for copy in found
    ]
    return [rest, *parts] if rest.has_encoder else parts


def chosen_set(content: Mapping[str, Any], name: str | None = None) -> tuple[WeightSet, tuple[str, ...]]:
    """Return the set of weights to use, and sentences that state the choice where there was one.

    Args:
        content: of the file.
        name: the set asked for, by its last key or all keys; None: the first that holds an encoder.

    Returns:
        The set, empty where no set holds an encoder that is known, and the sentences.

    Raises:
        InputError: the file has no set of this name.

    Example:
        >>> import torch
        >>> encoder = {"layers.0.blocks.0.attn.qkv.weight": torch.zeros(1)}
        >>> chosen, notes = chosen_set({"model": {"projector.weight": torch.zeros(1)}, "model_ema": encoder})
        >>> chosen.name, notes
        ('model_ema', ('the weights are those of model_ema; model has no encoder',))
    """
    sets = weight_sets(content)
    if name is not None:
        found = [each for each in sets if each.name == name or each.name.rpartition(".")[2] == name]
        if not found:
            known = ", ".join(each.name or "the file itself" for each in sets) or "none"
            raise InputError(f"it has no weight set {name!r}: choose one of {known}")
        return found[0], _told(found[0], sets)
    chosen = next((each for each in sets if each.has_encoder), None)
    if chosen is None:
        return WeightSet("", {}), ()
    return chosen, _told(chosen, sets)


def _told(chosen: WeightSet, sets: list[WeightSet]) -> tuple[str, ...]:
    others = [each for each in sets if each is not chosen and each.name]
    usable = [each.name for each in others if each.has_encoder]
    without = [each.name for each in others if not each.has_encoder and sets.index(each) < sets.index(chosen)]
    if not usable and not without:
        return ()
    parts = [f"the weights are those of {chosen.name or 'the file itself'}"]
    if usable:
        parts.append(f"{' and '.join(usable)} could be chosen by weight_set")
    if without:
        parts.append(f"{' and '.join(without)} {'have' if len(without) > 1 else 'has'} no encoder")
    return ("; ".join(parts),)


def named_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the first container that training codes commonly use, else those of the file itself.

    Example:
        >>> import torch
        >>> named_tensors({"epoch": 3, "state_dict": {"weight": torch.zeros(2)}})
        {'weight': tensor([0., 0.])}
    """
    for key in _USUAL:
        if isinstance(content.get(key), Mapping):
            return named_tensors(content[key])
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}
