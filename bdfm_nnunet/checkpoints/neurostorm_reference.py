"""The published NeuroSTORM model (https://arxiv.org/abs/2506.11167) from one of its checkpoints."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, checkpoint_in_memory, read_checkpoint
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.checkpoints.readers.neurostorm_plans import WINDOW
from bdfm_nnunet.checkpoints.readers.neurostorm_reader import NeurostormReader
from bdfm_nnunet.checkpoints.soundness import incomplete
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.mamba_stages import add_prompts
from bdfm_nnunet.networks.masked_neurostorm import MaskedNeurostorm, TokenKind
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder

logger = logging.getLogger(__name__)

_TOKENS = ("window", "random", "atlas")


class LastStage(nn.Module):
    """An encoder that returns the features of its last stage alone.

    Args:
        encoder: returns those of every stage.

    Example:
        >>> encoder = NeurostormEncoder(
        ...     1, image_size=(4, 4, 4, 2), patch_size=(2, 2, 2, 1), features=(4,), depths=(1,), merging=()
        ... )
        >>> LastStage(encoder)(torch.zeros(1, 1, 4, 4, 4, 2)).shape
        torch.Size([1, 4, 2, 2, 2, 2])
    """

    def __init__(self, encoder: NeurostormEncoder) -> None:
        super().__init__()
        self.stages = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, C, *grid) of images (B, C_in, X, Y, Z, T)."""
        return cast(Tensor, self.stages(images)[-1])


class NeurostormReference(nn.Module):
    """The published model, with what was loaded of it.

    Args:
        network: encoder, mask tokens and decoder, in the legacy form.
        report: what became of the tensors of its file.

    Example:
        >>> from pathlib import Path
        >>> encoder = NeurostormEncoder(
        ...     1, image_size=(4, 4, 4, 2), patch_size=(2, 2, 2, 1), features=(4,), depths=(1,), merging=(), legacy=True
        ... )
        >>> model = NeurostormReference(MaskedNeurostorm(encoder), LoadReport(Path("a.ckpt"), ""))
        >>> model.encoder(torch.zeros(1, 1, 4, 4, 4, 2)).shape
        torch.Size([1, 4, 2, 2, 2, 2])
    """

    def __init__(self, network: MaskedNeurostorm, report: LoadReport) -> None:
        super().__init__()
        self.network = network
        self.report = report

    @property
    def encoder(self) -> LastStage:
        """The encoder: images (B, 1, X, Y, Z, T) to features (B, C, *grid) of the last stage, which no norm follows."""
        return LastStage(self.network.encoder).train(self.training)

    def reconstruct(self, images: Tensor, *, mask: Tensor, kind: TokenKind = "window") -> Tensor:
        """Return images that are rebuilt from what a mask leaves visible.

        Args:
            images: (B, 1, X, Y, Z, T).
            mask: boolean over tokens (B, *grid), True = masked.
            kind: the learned token of the masking with which the file was trained, see `MaskTokens`.

        Returns:
            (B, 1, X, Y, Z, T).

        Raises:
            InputError: the file has no decoder, or no token of this kind.
            ValueError: the mask has another shape.
        """
        tokens = self.network.mask_tokens
        if tokens is None:
            raise InputError("this checkpoint holds an encoder alone: to rebuild images give one of the pre-training")
        if f"mask_tokens.{kind}" in self.report.new:
            raise InputError(
                f"this checkpoint has no token for masks of kind {kind!r}: it was trained with other masks"
            )
        return self.network.reconstruct(images, mask=mask.bool(), kind=kind)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of the last stage."""
        return cast(Tensor, self.encoder(images))


def load_neurostorm_reference(
    source: str | Path | Mapping[str, Any], *, full_last_window: bool = True
) -> NeurostormReference:
    """Load the published NeuroSTORM model, or one of other sizes, in its legacy form and in eval mode.

    Sizes are read off the shapes. Both layouts are known: until April 2026 there was one mask token alone. Heads and
    what Lightning stores beside the weights are left out; prompts are kept. A file without decoder gives an encoder.

    Args:
        source: the file, or its content: weights by name, in the containers and with the prefixes of Lightning or bare.
        full_last_window: whether windows of the last stage hold its whole grid in space, which files do not say; those
            of the published models do.

    Returns:
        The model in float32 on the CPU.

    Raises:
        InputError: the file cannot be read, or does not hold all tensors of that model, finite and no others.

    Example:
        A file with the names of the public code, of an encoder far smaller than the published one:

        >>> block, ones = "model.layers.0.blocks.0", torch.ones
        >>> weights = {"model.patch_embed.fc.weight": ones(4, 8), "model.patch_embed.fc.bias": ones(4),
        ...            "model.pos_embeds.0.pos_embed": ones(1, 4, 2, 2, 2, 1),
        ...            "model.pos_embeds.0.time_embed": ones(1, 4, 1, 1, 1, 3),
        ...            f"{block}.mamba.A_log": ones(8, 16), f"{block}.mamba.D": ones(8),
        ...            f"{block}.mamba.in_proj.weight": ones(16, 4), f"{block}.mamba.conv1d.weight": ones(8, 1, 4),
        ...            f"{block}.mamba.conv1d.bias": ones(8), f"{block}.mamba.x_proj.weight": ones(33, 8),
        ...            f"{block}.mamba.dt_proj.weight": ones(8, 1), f"{block}.mamba.dt_proj.bias": ones(8),
        ...            f"{block}.mamba.out_proj.weight": ones(4, 8), f"{block}.mlp.linear1.weight": ones(16, 4),
        ...            f"{block}.mlp.linear1.bias": ones(16), f"{block}.mlp.linear2.weight": ones(4, 16),
        ...            f"{block}.mlp.linear2.bias": ones(4), "output_head.head.head.weight": ones(1, 4)}
        >>> weights |= {f"{block}.norm{i}.{kind}": ones(4) for i in (1, 2) for kind in ("weight", "bias")}
        >>> torch.save({"epoch": 3, "state_dict": weights, "optimizer_states": []}, "storm.ckpt")
        >>> model = load_neurostorm_reference("storm.ckpt")
        >>> model.training, model.encoder(torch.zeros(1, 1, 4, 4, 4, 2)).shape, model.report.ignored
        (False, torch.Size([1, 4, 2, 2, 2, 2]), {'output_head.head.head.weight': 'a head belongs to its task'})
    """
    checkpoint = checkpoint_in_memory(source) if isinstance(source, Mapping) else read_checkpoint(source)
    if not isinstance(checkpoint.reader, NeurostormReader):
        raise InputError(
            f"{checkpoint.path.name} is no checkpoint of the public NeuroSTORM code (layers.0.blocks.0.mamba.A_log, "
            "pos_embeds.0.time_embed and patch_embed.fc.weight): load it with load_pretrained instead"
        )
    return _loaded(checkpoint, full_last_window).eval()


def _loaded(checkpoint: Checkpoint, full_last_window: bool) -> NeurostormReference:
    weights = dict(checkpoint.renamed.weights)
    name = checkpoint.path.name
    report = LoadReport(checkpoint.path, _digest(checkpoint), checkpoint.kind, checkpoint.exposure, checkpoint.notes)
    report.ignored.update(checkpoint.renamed.dropped)
    network = _network_for(weights, full_last_window, name)
    expected = network.state_dict()
    for key in (f"mask_tokens.{kind}" for kind in _TOKENS):
        if key in expected and key not in weights:
            weights[key] = torch.zeros(expected[key].shape)
            report.new[key] = "not in the checkpoint"
    if network.decoder is None:
        report.ignored |= {key: "without a decoder" for key in weights if key.startswith("mask_tokens.")}
        weights = {key: tensor for key, tensor in weights.items() if key not in report.ignored}
    if fault := incomplete(expected, weights):
        raise InputError(f"{name} is no complete checkpoint of NeuroSTORM ({fault}): copy it anew")
    network.load_state_dict({key: weights[key].float().clone() for key in expected}, assign=True)
    report.loaded = [key for key in expected if key not in report.new]
    report.encoder_share = report.source_share = 1.0
    logger.info("%s", report)
    return NeurostormReference(network, report)


def _digest(checkpoint: Checkpoint) -> str:
    """Return the digest of a file; empty for weights in memory."""
    return checkpoint.sha256 if checkpoint.path.is_file() else ""


def _network_for(weights: Mapping[str, Tensor], full_last_window: bool, name: str) -> MaskedNeurostorm:
    """Return a model of the sizes that the weights show, on the meta device."""
    try:
        depths = _depths(weights)
        patch = tuple(weights["encoder.patch_embed.weight"].shape[2:])
        grid = (
            *weights["encoder.stages.0.positions.space"].shape[:-1],
            len(weights["encoder.stages.0.positions.time"]),
        )
        first = "encoder.stages.0.blocks.0"
        with torch.device("meta"):
            encoder = NeurostormEncoder(
                1,
                image_size=[tokens * size for tokens, size in zip(grid, patch, strict=True)],
                patch_size=patch,
                features=[len(weights[f"encoder.stages.{i}.blocks.0.norm1.weight"]) for i in range(len(depths))],
                depths=depths,
                window_size=WINDOW,
                merging=[(2, 2, 2, 1)] * (len(depths) - 1),
                mlp_ratio=len(weights[f"{first}.mlp.0.weight"]) / len(weights[f"{first}.norm1.weight"]),
                full_last_window=full_last_window,
                legacy=True,
            )
            network = MaskedNeurostorm(encoder, decoder=any(key.startswith("decoder.") for key in weights))
        if f"{first}.prompt" in weights:
            add_prompts(encoder, len(weights[f"{first}.prompt"]), generator=torch.Generator())
        return network
    except KeyError as error:
        fault = f"it lacks {error.args[0]}"
    except (IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:  # tensors without axes, say
        fault = str(error).splitlines()[0][:200]
    raise InputError(f"{name} is no complete checkpoint of NeuroSTORM ({fault}): copy it anew")


def _depths(weights: Mapping[str, Tensor]) -> list[int]:
    """Return the blocks of each stage."""
    depths: list[int] = []
    while f"encoder.stages.{len(depths)}.blocks.0.norm1.weight" in weights:
        stage = f"encoder.stages.{len(depths)}.blocks."
        depths.append(len({name.split(".")[4] for name in weights if name.startswith(stage)}))
    return depths
