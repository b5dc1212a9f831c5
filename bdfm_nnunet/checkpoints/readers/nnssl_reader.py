"""Checkpoints of nnssl (https://github.com/MIC-DKFZ/nnssl): OpenMind, nnFoundation and what else it pre-trains.

Wald et al. 2024, https://arxiv.org/abs/2412.17041. `nnssl_adaptation_plan` describes network and images, often by the
name of a preset alone; files as the trainer leaves them have nnssl's plans in `init_args` instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.adaptation_plan import ADAPTATION_PLAN
from bdfm_nnunet.checkpoints.readers.nnssl_plans import NnsslPlans
from bdfm_nnunet.checkpoints.readers.nnunet_reader import nnunet_origin
from bdfm_nnunet.checkpoints.readers.primus_tokens import PRIMUS, in_raster_order, is_primus
from bdfm_nnunet.checkpoints.readers.reader import Origin, Reader, ReadingSettings
from bdfm_nnunet.checkpoints.readers.renaming import ALIASES, Renamed, Table, rename, without_wrappers
from bdfm_nnunet.checkpoints.readers.source_network import TokenOrder

NNSSL: Table = (
    *ALIASES,
    (r"^(projector|rotation_proj_head|contrast_proj_head|recon_proj_head|predictor)\.", None),
)
"""Names of nnssl that no segmentation has; those of ResEnc networks are nnU-Net's."""

_RELEASES = (
    ("nnfoundation", "CC BY-SA 4.0", "the licence is that of the nnFoundation release"),
    ("openmind", "CC BY 4.0", "the licence is that of the OpenMind release"),
)


@dataclass(frozen=True)
class NnsslReader(Reader):
    """nnssl's weights, which have nnU-Net's names for ResEnc and those of dynamic-network-architectures for Primus.

    Masked auto-encoders of nnssl, and the networks of its other methods but SimMIM, read the tokens of a Primus second
    axis slowest; dynamic-network-architectures does so no more since June 2025. Shapes do not show it, see
    `raster_order`.

    Attributes:
        plans: what the file tells of network and images.
        token_order: order in which the file's Primus reads its tokens; None for other networks.
        assumed: whether that is assumed.

    Example:
        >>> reader = NnsslReader()
        >>> reader.recognises({"network_weights": {}, "nnssl_adaptation_plan": {}})
        True
        >>> reader.recognises({"network_weights": {}, "init_args": {"plans": {}}, "nnssl_adaptation_plan": {}})
        False
    """

    plans: NnsslPlans = field(default_factory=NnsslPlans)
    token_order: TokenOrder | None = None
    assumed: bool = False

    kind = "nnssl"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether the file has nnssl's description; ours have one too, beside nnU-Net's plans."""
        arguments = content.get("init_args")
        arguments = arguments if isinstance(arguments, Mapping) else {}
        if "network_weights" not in content or "plans" in arguments:
            return False
        return isinstance(content.get(ADAPTATION_PLAN), Mapping) or {"plan", "configuration_name"} <= set(arguments)

    def configured(self, content: Mapping[str, Any], settings: ReadingSettings) -> "NnsslReader":
        """Return the reader that knows this file's plans and the order of its tokens."""
        plans = NnsslPlans.of(content)
        if not is_primus(self.tensors(content)):
            return NnsslReader(plans)
        trainer = nnunet_origin(content).trainer or ""
        usual: TokenOrder = "whd" if "simmim" in trainer.lower() else "hwd"
        return NnsslReader(plans, settings.token_order or usual, settings.token_order is None)

    def rename(self, weights: Mapping[str, Tensor]) -> Renamed:
        """Return the weights under our names, tokens in raster order."""
        renamed = self._under_our_names(weights)
        if self.token_order != "hwd":
            return renamed
        ordered = in_raster_order(renamed.weights, self.plans.arguments, self.plans.patch_size)
        return Renamed(ordered, renamed.dropped)

    def _under_our_names(self, weights: Mapping[str, Tensor]) -> Renamed:
        prefix = self.plans.prefix
        found = {without_wrappers(name).removeprefix(prefix): value for name, value in weights.items()}
        return rename(found, (*NNSSL, *PRIMUS) if is_primus(found) else NNSSL)

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return network, images, licence and citations as far as the file tells them."""
        said = nnunet_origin(content)
        weights = self._under_our_names(self.tensors(content)).weights
        notes = []
        if self.token_order is not None:
            why = "as nnssl's trainers of this kind do" if self.assumed else "as asked for"
            other = "; token_order chooses the other order" if self.assumed else ""
            notes.append(f"tokens are taken to be read in the order ({' '.join(self.token_order)}), {why}{other}")
        named = f"{self.plans.dataset} {said.trainer} {' '.join(said.citations)}".lower()
        licence = next(((text, note) for word, text, note in _RELEASES if word in named), ("", ""))
        if licence[1] and not said.licence:
            notes.append(licence[1])
        return replace(
            said,
            plans=self.plans.as_nnunet(weights),
            configuration=self.plans.configuration,
            images=self.plans.images,
            source_network=self.plans.network(weights, self.token_order),
            licence=said.licence or licence[0],
            notes=(*notes, *self.plans.notes),
        )
