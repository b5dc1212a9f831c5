"""Contrastive learning: make the embeddings of two views of a crop alike, and those of different crops different.

SimCLR: Chen et al. 2020, https://arxiv.org/abs/2002.05709; of brain MRI: Kaczmarek et al. 2025 (3D-Neuro-SimCLR),
https://arxiv.org/abs/2509.10620, which is the preset "simclr_published".
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet import embedding_measures
from bdfm_nnunet.channel_dropout import only_channels
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.frequency import at_least_single, full_precision
from bdfm_nnunet.intensity_changes import standardised
from bdfm_nnunet.losses import nt_xent
from bdfm_nnunet.losses.contrastive_losses import NegativeQueue, standardised_columns
from bdfm_nnunet.losses.joined_batches import gather_rows
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.networks.projector import Projector
from bdfm_nnunet.objectives.base import Monitored, Objective, Picture
from bdfm_nnunet.objectives.sequence_scores import changing_voxels, upright
from bdfm_nnunet.objectives.views import draw_views, in_space, two_clip_views, two_views
from bdfm_nnunet.settings import ContrastiveSettings

LEAST_RANK = 2.0
"""Effective rank of the embeddings of validation crops below which they count as collapsed."""
LEAST_GAIN = 0.1
"""Share of the way from the chance level to 0 that the loss must have gone, or it counts as not learning."""


class ContrastiveLearning(Objective):
    """SimCLR: two random views of each crop, NT-Xent on the projected mean of the last stage's features.

    Of 4-D images, the two views are of two clips, which come as two channels.

    Args:
        view: encoder to pre-train, see `encoder_of`.
        settings: all other settings.
        spacing: millimetres per voxel and axis; 1 by default.

    Attributes:
        projector: from the mean features of the last stage to the embeddings that the loss compares.
        queue: embeddings of earlier steps as further negatives; None without.

    Example:
        >>> from bdfm_nnunet.networks.encoders import encoder_of
        >>> from bdfm_nnunet.networks.swin_unet import SwinUNet
        >>> network = SwinUNet(
        ...     1, 2, strides=((1, 1, 1), (4, 4, 4), (2, 2, 2)), features_per_stage=(8, 24, 48), depths=(2, 2),
        ...     num_heads=(2, 4), window_size=(4, 4, 4),
        ... )
        >>> objective, generator = ContrastiveLearning(encoder_of(network)), torch.Generator().manual_seed(0)
        >>> drawn = objective.draw(4, (32, 32, 32), generator=generator)
        >>> losses = objective(torch.rand(4, 1, 32, 32, 32), **drawn, patients=torch.tensor([0, 1, 2, 2]))
        >>> sorted(losses)
        ['loss']
    """

    settings_class = ContrastiveSettings
    settings: ContrastiveSettings
    compares_samples = True
    uses_patients = True
    uses_channels = True
    channel_subsets = 2  # one for both views would tell the pairs
    reads_clips = True
    uses_brain = True
    suits_adamw = True
    panels: Mapping[str, Mapping[str, str]] = MappingProxyType(
        {
            "contrastive loss": {"validation": "pair_loss", "chance": "chance"},
            "pairs found": {"share": "pair_accuracy", "chance": "pair_chance"},
            "embeddings": {"alignment": "alignment", "uniformity": "uniformity"},
            "effective rank": {"embeddings": "effective_rank", "features": "feature_rank"},
            "error of the foreground's share": {"neighbours": "probe_error", "mean": "probe_error_mean"},
        }
    )

    def __init__(
        self,
        view: EncoderView,
        settings: ContrastiveSettings | None = None,
        *,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(view, settings, spacing=spacing)
        settings = self.settings
        self.encoder_forwards = 1 if settings.joint_forward else 2
        self.shapes_vary = settings.queue > 0  # until the queue is full
        self.clips = 2 if view.axes == 4 else 1
        self.second_clip = settings.second_clip
        self.uses_foreground = settings.probe_neighbours > 0 and self.clips == 1  # runs have no labels
        if not self.uses_foreground:
            self.panels = {
                title: curves for title, curves in self.panels.items() if "probe_error" not in curves.values()
            }
        self.projector = Projector(view.channels[-1], settings.hidden, settings.projection)
        self.queue = NegativeQueue(settings.queue, settings.projection) if settings.queue else None

    @classmethod
    def check(cls, configuration: Mapping[str, Any], settings: ContrastiveSettings) -> None:
        """Raise InputError where settings belong to images of another number of axes."""
        clips = len(configuration["patch_size"]) == 4
        if clips and settings.legacy_views:
            raise InputError(
                "pretraining.legacy_views makes the published views of 3-D images, but these are 4-D: leave it out"
            )
        if not clips and settings.second_clip != cls.settings_class().second_clip:
            raise InputError(
                f"pretraining.second_clip is {settings.second_clip}, but only 4-D images have clips: leave it out, or "
                "plan a data set of sequences"
            )

    @classmethod
    def crop_size(cls, patch_size: Sequence[int], settings: ContrastiveSettings) -> tuple[int, ...]:
        """Return the voxels of the crops of which views are made: the patch times `region` in space."""
        return (*(round(size * settings.region) for size in patch_size[:3]), *patch_size[3:])

    def draw(self, batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the views of a step, see `draw_views`."""
        return draw_views(batch, spatial[:3], self.settings, spacing=self.spacing[:3], generator=generator)

    def views(
        self, images: Tensor, drawn: Mapping[str, Tensor], *, brain: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return two views (B, C, *patch) of crops, or of each two clips.

        Args:
            images: (B, C, *crop), or (B, 2, X, Y, Z, T).
            drawn: result of `draw` for these samples.
            brain: of clips, boolean (B, 2, X, Y, Z); by default voxels that change from frame to frame.
        """
        patch = [round(size / self.settings.region) for size in images.shape[2:5]]  # undoes `crop_size`
        with torch.no_grad(), full_precision(images.device):
            images = at_least_single(images)
            if self.clips == 1:
                return two_views(images, drawn, self.settings, spatial=patch)
            brain = _brain_of(images) if brain is None else brain.bool()
            return two_clip_views(images, brain, drawn, self.settings, spatial=patch)

    def features(self, images: Tensor) -> Tensor:
        """Return the mean features (B, C) of the last stage, in at least single precision."""
        return at_least_single(self.encoder(images)[-1]).flatten(2).mean(2)

    def project(self, features: Tensor) -> Tensor:
        """Return the embeddings (B, D) of features, in at least single precision."""
        with full_precision(features.device):
            return self.projector(features)

    def represent(
        self,
        images: Tensor,
        *,
        patients: Tensor | None = None,
        brain: Tensor | None = None,
        channels: Tensor | None = None,
        **drawn: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the embeddings of two views, "first" and "second" (B, D), and "patients".

        Args:
            images: (B, C, *crop), or (B, 2, X, Y, Z, T) with two clips of each sample.
            patients: (B,) integer keys of the samples' patients, -1 where unknown; by default all are.
            brain: of clips, see `views`.
            channels: boolean (B, 2, C), False where a view lacks a channel; by default none does.
            drawn: result of `draw` for these samples.
        """
        views = self.views(images, drawn, brain=brain)
        if channels is not None:
            views = (only_channels(views[0], channels[:, 0]), only_channels(views[1], channels[:, 1]))
        if self.settings.joint_forward:
            first, second = self.project(self.features(torch.cat(views))).chunk(2)
        else:
            first, second = (self.project(self.features(view)) for view in views)
        unknown = torch.full((len(images),), -1, device=images.device)
        return {"first": first, "second": second, "patients": unknown if patients is None else patients}, {}

    def compare(self, representations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss of all pairs; in training the embeddings then go into the queue."""
        views, patients = (
            torch.stack([representations["first"], representations["second"]], 1),
            representations["patients"],
        )
        with full_precision(views.device):
            views = self._spread(views, gather_rows(views)[0])
        queue = self.queue if self.training else None
        loss = self._loss(views, patients, queue)
        if queue is not None:
            queue.put(views.flatten(0, 1), groups=patients.repeat_interleave(2))
        return {"loss": loss}

    def _spread(self, views: Tensor, over: Tensor) -> Tensor:
        """Return embeddings (n, 2, D), standardised over those of all processes (N, 2, D) if the settings say so."""
        return standardised_columns(views, over.flatten(0, 1)) if self.settings.standardise_embeddings else views

    def _loss(self, views: Tensor, patients: Tensor, queue: NegativeQueue | None = None) -> Tensor:
        return nt_xent(
            *views.unbind(1),
            temperature=self.settings.temperature,
            decoupled=self.settings.decoupled,
            queue=None if queue is None else queue.embeddings.clone(),  # which change before the gradient is computed
            groups=patients,
            queue_groups=None if queue is None else queue.groups.clone(),
            same_group=self.settings.same_patient,
        )

    # --- monitors -----------------------------------------------------------------------------------------------

    def monitor(self, images: Tensor, *, foreground: Tensor | None = None, **drawn: Tensor) -> Monitored:
        """Return the loss of validation crops beside its chance level, and keep their embeddings for `summarise`.

        Args:
            images: as in `represent`.
            foreground: (B,), labelled share of each crop, for the probe.
            drawn: result of `draw`, "patients" and "brain".
        """
        representations, _ = self.represent(images, **drawn)
        values = self.compare(representations)
        alike = torch.ones_like(representations["first"])[:, None].expand(-1, 2, -1)
        values |= {"pair_loss": values["loss"], "chance": self._loss(alike, representations["patients"])}
        kept = dict(representations)
        with torch.no_grad():
            kept["features"] = self.features(self._whole(images, drawn.get("brain")))
        if foreground is not None:
            kept["foreground"] = foreground
        brain = drawn["brain"][:1] if "brain" in drawn else None
        changes = {name: value[:1] for name, value in drawn.items() if name not in ("patients", "brain")}
        original, first, second = (_shown(each) for each in (images, *self.views(images[:1], changes, brain=brain)))
        picture = Picture(original, {"first view": first, "second view": second}, errors=False)
        return Monitored(values, {"views": picture}, {name: value.detach() for name, value in kept.items()})

    def _whole(self, images: Tensor, brain: Tensor | None) -> Tensor:
        """Return crops, or the first of two clips, as all views have them: of the patch's size, and normalised."""
        images = at_least_single(images)
        if self.clips > 1:
            brain = _brain_of(images) if brain is None else brain
            images = torch.where(brain[:, :1, ..., None], images[:, :1], 0)
        if self.settings.region > 1:
            patch = [round(size / self.settings.region) for size in images.shape[2:5]]
            mode = "bilinear" if len(patch) == 2 else "trilinear"
            images = in_space(partial(torch.nn.functional.interpolate, size=patch, mode=mode), images)
        changed = self.settings.standardise or self.settings.legacy_views
        return standardised(images, images != 0) if changed else images

    def summarise(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return measures of the embeddings of all validation crops, and what the neighbours of a crop tell of it.

        The probe guesses the labelled share of a crop from the most similar crops of other patients, by the features
        that fine-tuning starts from, beside guessing their mean. It reads features and changes nothing. Where all crops
        are of one patient there are no neighbours, and it guesses the mean too.
        """
        views, features = torch.stack([kept["first"], kept["second"]], 1), kept["features"]
        first, second = self._spread(views, views).unbind(1)
        others = None if self.settings.same_patient == "negative" else kept["patients"]
        alike = torch.ones_like(first)
        found = {
            "alignment": embedding_measures.alignment(first, second),
            "uniformity": embedding_measures.uniformity(first),
            "effective_rank": embedding_measures.effective_rank(first),
            "feature_rank": embedding_measures.effective_rank(features),
            "pair_accuracy": embedding_measures.pair_accuracy(first, second, groups=others),
            "pair_chance": embedding_measures.pair_accuracy(alike, alike, groups=others),
        }
        if self.uses_foreground:
            shares = kept["foreground"].to(features)
            options: dict[str, Any] = {"groups": kept["patients"], "neighbours": self.settings.probe_neighbours}
            centred = features - features.mean(0)  # else all features of one network point the same way
            guess = (shares - shares.mean()).abs().mean()
            error = embedding_measures.knn_regression(centred, shares, **options)
            found |= {"probe_error": torch.where(error.isfinite(), error, guess), "probe_error_mean": guess}
        return found

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Return a sentence on the last validation; a warning that says what to change where nothing is learnt."""
        loss, chance, rank = latest["pair_loss"], latest["chance"], latest["effective_rank"]
        found = (
            f"Held-out pairs: loss {loss:.3f} against {chance:.3f} by chance; {latest['pair_accuracy']:.1%} found, "
            f"{latest['pair_chance']:.1%} by chance; effective rank {rank:.1f} of {self.settings.projection}"
        )
        if rank < LEAST_RANK:
            return (
                f"{found}. WARNING: the embeddings have collapsed (rank below {LEAST_RANK:g}): lower "
                "training.initial_lr or pretraining.temperature, or raise the batch size or pretraining.queue"
            )
        if chance > 0 and not loss < (1 - LEAST_GAIN) * chance and not self.settings.decoupled:
            return (
                f"{found}. WARNING: the loss is near its chance level: train longer, or weaken the views "
                "(pretraining.least_share and least_overlap up, pretraining.p_flip, degrees and noise down)"
            )
        return found


def _brain_of(clips: Tensor) -> Tensor:
    """Return the voxels (B, 2, X, Y, Z) of two clips (B, 2, X, Y, Z, T) that change from frame to frame."""
    return changing_voxels(clips.flatten(0, 1)[:, None]).unflatten(0, clips.shape[:2])


def _shown(images: Tensor) -> Tensor:
    """Return the first channel of the first sample, and of a clip its first frame."""
    return upright(images[0, 0, ..., 0]) if images.ndim == 6 else images[0, 0]
