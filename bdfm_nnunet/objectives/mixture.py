"""Objectives that are trained together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet.channel_dropout import only_channels
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.masking import MaskToken
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.networks.visible_tokens import VisibleTokens
from bdfm_nnunet.objectives.base import Monitored, Objective, Picture
from bdfm_nnunet.objectives.registry import objective_class
from bdfm_nnunet.settings import MixtureSettings

_SHARED = ("second_clip", "atlas", "redundancy_dropout", "legacy_dropout")
"""Settings of clips, and of blocks of the encoder, that cannot differ between objectives."""


@dataclass(frozen=True)
class SharedView(EncoderView):
    """An encoder that computes the features of one masked input once, however many objectives ask for them.

    Attributes:
        known: arguments, options and results since the last `clear`.

    Example:
        >>> from dataclasses import fields
        >>> from bdfm_nnunet.networks import SwinUNet, encoder_of
        >>> view = encoder_of(SwinUNet(
        ...     1, 2, strides=[[1, 1, 1], [4, 4, 4], [2, 2, 2]], features_per_stage=[4, 8, 16], depths=[1, 1],
        ...     num_heads=[1, 2], window_size=[2, 2, 2],
        ... ))
        >>> shared = SharedView(**{each.name: getattr(view, each.name) for each in fields(view)})
        >>> images, mask = torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 4, 4, 4, dtype=torch.bool)
        >>> token = MaskToken(8, "learned")
        >>> once = [shared.features(images, mask, token, patch_size=(4, 4, 4)) for _ in range(2)]
        >>> once[0][-1] is once[1][-1], len(shared.known)
        (True, 1)
    """

    known: list[tuple[Any, Any, Any]] = field(default_factory=list, compare=False)

    def features(self, images: Tensor, mask: Tensor, token: MaskToken, **options: Any) -> list[Tensor]:
        """Return the features of masked images, see `EncoderView.features`."""
        return list(self._once(super().features, images, mask, token, **options))

    def visible_features(self, images: Tensor, mask: Tensor, **options: Any) -> tuple[list[Tensor], VisibleTokens]:
        """Return the features of visible tokens, see `EncoderView.visible_features`."""
        features, where = self._once(super().visible_features, images, mask, **options)
        return list(features), where

    def _once(self, compute: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function, unless it is known what it gives for the very same arguments."""
        for known, known_options, result in self.known:
            same = len(known) == len(arguments) and all(a is b for a, b in zip(known, arguments, strict=True))
            if same and known_options == options:
                return result
        result = compute(*arguments, **options)
        self.known.append((arguments, options, result))
        return result

    def clear(self) -> None:
        """Forget the features, which hold the memory of a step."""
        self.known.clear()


class Mixture(Objective):
    """The weighted sum of several objectives on one encoder.

    Every objective draws what it would draw alone. Objectives whose encoder sees the same input, such as two decoders
    of one masked image, share the forward pass of the encoder. Terms and monitors are named after their objective,
    "masked_pixel" for instance; a second objective of one kind is "masked2".

    Args:
        view: encoder to pre-train, see `encoder_of`.
        settings: the objectives and their weights.
        spacing: millimetres per voxel and axis; 1 by default.

    Example:
        >>> from bdfm_nnunet.networks.encoders import encoder_of
        >>> from bdfm_nnunet.networks.swin_unet import SwinUNet
        >>> from bdfm_nnunet.settings import PretrainingSettings, WeightedObjective
        >>> network = SwinUNet(
        ...     1, 2, strides=((1, 1, 1), (4, 4, 4), (2, 2, 2)), features_per_stage=(8, 24, 48), depths=(2, 2),
        ...     num_heads=(2, 4), window_size=(4, 4, 4),
        ... )
        >>> parts = [
        ...     WeightedObjective(name="masked", weight=weight, settings=PretrainingSettings(decoder=decoder))
        ...     for weight, decoder in ((1.0, "pyramid"), (0.5, "final"))
        ... ]
        >>> mixture = Mixture(encoder_of(network), MixtureSettings(objectives=tuple(parts)))
        >>> mixture.terms
        ('masked_pixel', 'masked_frequency', 'masked2_pixel', 'masked2_frequency')
        >>> mixture.encoder_forwards  # both decode the same masked image
        1
        >>> images, generator = torch.rand(2, 1, 32, 32, 32), torch.Generator().manual_seed(0)
        >>> losses = mixture(images, **mixture.draw(2, (32, 32, 32), generator=generator))
        >>> alone = losses["masked_pixel"] + losses["masked_frequency"]
        >>> other = losses["masked2_pixel"] + losses["masked2_frequency"]
        >>> torch.allclose(losses["loss"], alone + 0.5 * other)
        True
    """

    settings_class = MixtureSettings
    settings: MixtureSettings
    view: SharedView
    reads_clips = True  # where all of its objectives do, see `check`

    def __init__(self, view: EncoderView, settings: MixtureSettings, *, spacing: Sequence[float] | None = None) -> None:
        shared = SharedView(view.module, view.in_channels, view.channels, view.strides, view.stem, view.decoder)
        super().__init__(shared, settings, spacing=spacing)
        self.weights = [each.weight for each in settings.objectives]
        parts = [objective_class(each.name)(shared, each.settings, spacing=spacing) for each in settings.objectives]
        planned = [view.module, view.stem, view.decoder]
        for part in parts:  # whose encoder would be a second name of the same weights in checkpoints
            for name in [name for name, module in part._modules.items() if any(module is each for each in planned)]:
                module = part._modules.pop(name)
                object.__setattr__(part, name, module)
                setattr(self, name, module)
        self.labels = _labels([each.name for each in settings.objectives])
        shares = [any(part.share_encoding(other) for other in parts[:i]) for i, part in enumerate(parts)]
        self.encoder_forwards = sum(p.encoder_forwards for p, other in zip(parts, shares, strict=True) if not other)
        self.parts = nn.ModuleList(parts)
        self.clips = max(part.clips for part in parts)
        self.second_clip = next((part.second_clip for part in parts if part.clips > 1), self.second_clip)
        self.atlas = next((part.atlas for part in parts if part.atlas is not None), None)
        self.panels = {
            f"{label}: {title}": {curve: f"{label}_{name}" for curve, name in panel.items()}
            for label, part in self._named()
            for title, panel in part.panels.items()
        }

    def _named(self) -> Iterator[tuple[str, Objective]]:
        for label, part in zip(self.labels, self.parts, strict=True):
            assert isinstance(part, Objective)
            yield label, part

    @classmethod
    def check(cls, configuration: Mapping[str, Any], settings: MixtureSettings) -> None:
        """Raise InputError if an objective does not fit the plans, or objectives ask for different crops or clips."""
        for each in settings.objectives:
            kind = objective_class(each.name)
            if len(configuration["patch_size"]) == 4:
                kind.check_clips()
            kind.check(configuration, each.settings)
        for name in _SHARED:
            values = {getattr(each.settings, name) for each in settings.objectives if hasattr(each.settings, name)}
            if len(values) > 1:
                shown = " and ".join(map(str, sorted(values, key=str)))
                raise InputError(
                    f"the objectives of pretraining.objectives have the {name} {shown}, but they share clips and "
                    "encoder: give all of them the same"
                )
        cls.crop_size(configuration["patch_size"], settings)

    @classmethod
    def crop_size(cls, patch_size: Sequence[int], settings: MixtureSettings) -> tuple[int, ...]:
        """Return the size of the crops, which is the same for all objectives."""
        sizes = [objective_class(each.name).crop_size(patch_size, each.settings) for each in settings.objectives]
        if len(set(sizes)) > 1:
            named = ", ".join(f"{each.name} {size}" for each, size in zip(settings.objectives, sizes, strict=True))
            raise InputError(f"the objectives of pretraining.objectives read crops of other sizes: {named} voxels")
        return sizes[0]

    @property
    def compares_samples(self) -> bool:  # type: ignore[override]
        """Whether any objective compares samples."""
        return any(part.compares_samples for _, part in self._named())

    @property
    def uses_patients(self) -> bool:  # type: ignore[override]
        """Whether any objective asks for patients."""
        return any(part.uses_patients for _, part in self._named())

    @property
    def shapes_vary(self) -> bool:  # type: ignore[override]
        """Whether shapes of any objective vary."""
        return any(part.shapes_vary for _, part in self._named())

    @property
    def uses_channels(self) -> bool:  # type: ignore[override]
        """Whether any objective asks for the channels that are left out."""
        return any(part.uses_channels for _, part in self._named())

    @property
    def channel_subsets(self) -> int:  # type: ignore[override]
        """Subsets of channels of a sample, of which objectives of one take the first."""
        return max(part.channel_subsets for _, part in self._named())

    @property
    def uses_foreground(self) -> bool:  # type: ignore[override]
        """Whether any objective asks for the labelled share of crops."""
        return any(part.uses_foreground for _, part in self._named())

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of all objectives."""
        return tuple(name for label, part in self._named() for name in (_under(label, part.terms) or (label,)))

    def make_countable(self) -> None:
        """Make all objectives countable."""
        for _, part in self._named():
            part.make_countable()

    def draw(self, batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw for every objective from the same state of the generator, as each would alone.

        Returns:
            "0:NAME" for the draw NAME of the first objective; "0,2:NAME" if the third one drew the same.
        """
        start = generator.get_state()
        found: list[tuple[list[int], str, Tensor]] = []
        for number, (_, part) in enumerate(self._named()):
            generator.set_state(start)
            for name, value in part.draw(batch, spatial, generator=generator).items():
                same = [users for users, other, drawn in found if other == name and torch.equal(drawn, value)]
                if same:
                    same[0].append(number)
                else:
                    found.append(([number], name, value))
        return {f"{','.join(map(str, users))}:{name}": value for users, name, value in found}

    def _parts_with(self, drawn: Mapping[str, Tensor]) -> Iterator[tuple[str, float, Objective, dict[str, Tensor]]]:
        """Yield label, weight and objective with its draws; "patients", "brain" and the like go to those that ask."""
        for number, (label, part) in enumerate(self._named()):
            own = {}
            for key, value in drawn.items():
                users, _, name = key.rpartition(":")
                if (users and str(number) in users.split(",")) or (not users and getattr(part, f"uses_{name}")):
                    own[name] = value
            if self.clips > part.clips and "brain" in own:
                own["brain"] = own["brain"][:, 0]
            if self.channel_subsets > part.channel_subsets and "channels" in own:
                own["channels"] = own["channels"][:, 0]
            yield label, self.weights[number], part, own

    def forward(self, images: Tensor, *, only_represent: bool = False, **drawn: Tensor) -> Any:
        """Return "loss", the weighted sum, and the terms of all objectives."""
        representations, losses = self.represent(images, **drawn)
        if only_represent:
            return representations, losses
        return self.joined(losses, self.compare(representations)) if representations else losses

    def represent(self, images: Tensor, **drawn: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what objectives compare, and the weighted losses of those that compare nothing."""
        self.view.clear()
        representations: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        of_one_subset = images
        if self.channel_subsets > 1 and "channels" in drawn:
            of_one_subset = only_channels(images, drawn["channels"][:, 0])
        for label, weight, part, own in self._parts_with(drawn):
            shown = images if part.channel_subsets > 1 else of_one_subset
            shown = shown[:, : part.clips] if self.clips > 1 else shown
            if part.compares_samples:
                compared, found = part.represent(shown, **own)
                representations |= {f"{label}:{name}": value for name, value in compared.items()}
            else:
                found = part(shown, **own)
            if found:
                _add(losses, _labelled(found, label, part), weight)
        self.view.clear()
        return representations, losses

    def compare(self, representations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses of the objectives that compare samples."""
        losses: dict[str, Tensor] = {}
        for (label, part), weight in zip(self._named(), self.weights, strict=True):
            own = {k.partition(":")[2]: value for k, value in representations.items() if k.partition(":")[0] == label}
            if own:
                _add(losses, _labelled(part.compare(own), label, part), weight)
        return losses

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        """Score validation crops by the monitors of all objectives."""
        self.view.clear()
        values: dict[str, Tensor] = {}
        pictures: dict[str, Picture] = {}
        kept: dict[str, Tensor] = {}
        for label, weight, part, own in self._parts_with(drawn):
            found = part.monitor(images[:, : part.clips] if self.clips > 1 else images, **own)
            _add(values, _labelled(found.values, label, part), weight)
            kept |= {f"{label}:{name}": value for name, value in found.kept.items()}
            pictures |= {(name if name not in pictures else f"{label}_{name}"): p for name, p in found.pictures.items()}
        self.view.clear()
        return Monitored(values, pictures, kept)

    def summarise(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the monitors of all objectives that need all validation crops."""
        found: dict[str, Tensor] = {}
        for label, part in self._named():
            own = {k.partition(":")[2]: value for k, value in kept.items() if k.partition(":")[0] == label}
            found |= {f"{label}_{name}": value for name, value in part.summarise(own).items()}
        return found

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Return the sentences of all objectives."""
        found = []
        for label, part in self._named():
            own = {k.removeprefix(f"{label}_"): value for k, value in latest.items() if k.startswith(f"{label}_")}
            if sentence := part.verdict(own):
                found.append(f"{label}: {sentence}")
        return "; ".join(found)


def _labels(names: Sequence[str]) -> list[str]:
    return [f"{name}{number}" if (number := names[: i + 1].count(name)) > 1 else name for i, name in enumerate(names)]


def _under(label: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{label}_{name}" for name in names)


def _labelled(found: Mapping[str, Tensor], label: str, part: Objective) -> dict[str, Tensor]:
    """Return the values of an objective under its label; the loss of one without terms is its only term."""
    named = {f"{label}_{name}": value for name, value in found.items() if name != "loss"}
    return named | ({} if part.terms else {label: found["loss"]}) | {"loss": found["loss"]}


def _add(losses: dict[str, Tensor], found: dict[str, Tensor], weight: float) -> None:
    """Add what an objective gave to the values of all, and its weighted loss to theirs."""
    loss = weight * found.pop("loss")
    losses["loss"] = losses["loss"] + loss if "loss" in losses else loss
    losses |= found
