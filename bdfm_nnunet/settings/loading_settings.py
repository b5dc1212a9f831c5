"""Settings of how the weights of a file get into a network."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from bdfm_nnunet.settings.value_checks import share


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """What of a checkpoint is taken over, and what is refused.

    Attributes:
        min_match: smallest share of the encoder's parameters that the checkpoint must have.
        min_source_match: smallest share of the checkpoint's encoder that must find a place in the network; by default
            `min_match`.
        allow_gaps: take weights that lie behind new ones too, seen from the image, or behind parts of the checkpoint
            that the network does not have; their features are not those of the checkpoint.
        allow_other_function: take weights of a network that computes something else with the same names and shapes, for
            instance with another norm or activation.
        depth: blocks that a stage has more of than the checkpoint's: "new" ones, which start as the identity where they
            are residual, or "copied" from the last block before them.
        positions: absolute positions for another grid of tokens: "resample" stretches them, "extend" keeps them in the
            middle.
        decoder: "none" leaves the decoder new, "same-plan" takes that of a segmentation whose encoder and decoder fit
            as a whole, "all" whatever of a decoder fits, that of a training without labels too.
        check: hold the features of a random image against those of the checkpoint's network, where its file describes
            it, and refuse what no adaptation explains.
        weight_set: which of several sets of weights in the file, by the key it has there, like "model_ema".
        merging: order in which MONAI's Swin transformer merged tokens; by default the reader's, which it states.
        token_order: order in which a Primus read its tokens: "whd" (first axis slowest) or "hwd" (second axis slowest);
            by default what the file tells.

    Example:
        >>> LoadingSettings(min_match=0.9).allow_gaps
        False
    """

    min_match: float = 0.5
    min_source_match: float | None = None
    allow_gaps: bool = False
    allow_other_function: bool = False
    depth: Literal["new", "copied"] = "new"
    positions: Literal["resample", "extend"] = "resample"
    decoder: Literal["none", "same-plan", "all"] = "same-plan"
    check: bool = True
    weight_set: str | None = None
    merging: Literal["monai-1.4", "monai-1.5", "mergingv2"] | None = None
    token_order: Literal["whd", "hwd"] | None = None

    def __post_init__(self) -> None:
        share(self, "min_match", *(["min_source_match"] if self.min_source_match is not None else []))

    def loading(self) -> dict[str, Any]:
        """Return these settings alone, for `load_pretrained`, where they are part of a larger block."""
        return {field.name: getattr(self, field.name) for field in fields(LoadingSettings)}
