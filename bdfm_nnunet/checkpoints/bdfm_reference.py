"""The public BDFM model from one of its checkpoints."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bdfm_nnunet.checkpoints.adapting import cubic_window
from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.readers.public_bdfm_reader import PublicBdfmReader
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings

# BDFM merges tokens in height and width only, at each of its three steps
_MERGING = (1, 2, 2)


def load_bdfm_reference(path: str | Path) -> MaskedImageModelling:
    """Load the model of the public BDFM code, in its published form and in eval mode.

    Its images are (B, 1, D, H, W) in the model's order, depth first: the public code permutes volumes loaded as
    (W, H, D) by (0, 1, 4, 2, 3).

    Args:
        path: a checkpoint of the public BDFM code.

    Returns:
        The objective with encoder, mask token and both decoders.

    Raises:
        InputError: the file is no checkpoint of the public BDFM code.

    Example:
        A file with the names of the public code, of a model far smaller than the published one:

        >>> block, frequency = "encoder.layers.0.blocks.0", "frequency_decoder.blocks.0"
        >>> shapes = {"encoder.patch_embed.proj": (4, 1, 2, 2, 2), "encoder.norm": (4,), f"{block}.norm1": (4,),
        ...           f"{block}.attn.qkv": (12, 4), f"{block}.attn.proj": (4, 4), f"{block}.norm2": (4,),
        ...           f"{block}.mlp.fc1": (16, 4), f"{block}.mlp.fc2": (4, 16), "conv3d_transpose": (4, 4, 2, 2, 2),
        ...           f"{frequency}.realconv1": (1, 1, 3, 3, 3), f"{frequency}.imagconv1": (1, 1, 3, 3, 3),
        ...           "frequency_decoder.final_norm": (8,)}
        >>> weights = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
        >>> weights |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
        >>> weights |= {f"{block}.attn.relative_position_bias_table": torch.zeros(27, 1),
        ...             "conv3d_transpose_1.weight": torch.zeros(4, 1, 1, 1, 1),
        ...             "conv3d_transpose_1.bias": torch.zeros(1), "mask_token": torch.zeros(1, 1, 4)}
        >>> torch.save({"state_dict": weights}, "bdfm.pt")
        >>> objective = load_bdfm_reference("bdfm.pt")
        >>> objective.training, objective.encoder.patch_embed.weight.shape
        (False, torch.Size([4, 1, 2, 2, 2]))
    """
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint.reader, PublicBdfmReader):
        raise InputError(f"{path} is no checkpoint of the public BDFM code: load it with load_pretrained instead")
    return _built(checkpoint, path).eval()


def _built(checkpoint: Checkpoint, path: str | Path) -> MaskedImageModelling:
    try:
        return _objective_for({**checkpoint.renamed.weights})
    except InputError:
        raise
    except Exception as error:  # sizes are read off tensors that may be missing, empty or of another shape
        reason = ([line.strip() for line in str(error).splitlines()[:2]] or [""])[-1] or type(error).__name__
        raise InputError(f"{path} is no complete BDFM checkpoint ({reason}): copy it anew") from None


def _objective_for(weights: dict[str, Tensor]) -> MaskedImageModelling:
    weights["mask_token.value"] = weights["mask_token.value"].flatten()
    weights["mask_token.initialised"] = torch.tensor(True)
    weights = _join_frequency_kernels(weights)
    objective = MaskedImageModelling(encoder_of(published_encoder(weights)), _settings_for(weights))
    objective.load_state_dict(weights)
    return objective


def published_encoder(weights: Mapping[str, Tensor]) -> SwinEncoder:
    """Return an encoder of the published form with random weights, of the sizes that the given ones show.

    Args:
        weights: of the public BDFM code, under our names.

    Example:
        >>> block = "encoder.stages.0.blocks.0"
        >>> weights = {"encoder.patch_embed.weight": torch.zeros(4, 1, 2, 2, 2)}
        >>> weights |= {f"{block}.attn.relative_position_bias_table": torch.zeros(27, 1)}
        >>> weights |= {f"{block}.mlp.0.weight": torch.zeros(16, 4)}
        >>> published_encoder(weights | {f"{block}.norm1.weight": torch.zeros(4)}).strides
        ((2, 2, 2),)
    """
    patch = weights["encoder.patch_embed.weight"]
    depths: list[int] = []
    while f"encoder.stages.{len(depths)}.blocks.0.norm1.weight" in weights:
        stage = f"encoder.stages.{len(depths)}.blocks."
        depths.append(len({name.split(".")[4] for name in weights if name.startswith(stage)}))
    tables = [weights[f"encoder.stages.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(len(depths))]
    window = cubic_window(len(tables[0]), patch.ndim - 2)
    if window is None:
        raise ValueError(f"a bias table of {len(tables[0])} entries, expected one of a window with equal sides")
    first = "encoder.stages.0.blocks.0"
    return SwinEncoder(
        patch.shape[1],
        patch_size=patch.shape[2:],
        features=[len(weights[f"encoder.stages.{i}.blocks.0.norm1.weight"]) for i in range(len(depths))],
        depths=depths,
        num_heads=[table.shape[1] for table in tables],
        window_size=window,
        merging=[_MERGING] * (len(depths) - 1),
        mlp_ratio=len(weights[f"{first}.mlp.0.weight"]) / len(patch),
        drop_path_rate=0.2,
        legacy=True,
    )


def _settings_for(weights: dict[str, Tensor]) -> PretrainingSettings:
    blocks = {name.split(".")[2] for name in weights if name.startswith("frequency_decoder.blocks.")}
    return PretrainingSettings.published(
        decoder_channels=weights["pixel_decoder.expand.weight"].shape[1],
        frequency_blocks=len(blocks),
    )


def _join_frequency_kernels(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """One tensor for the two kernels of a block, real part first, and one for their biases."""
    joined = {name: tensor for name, tensor in weights.items() if "conv1." not in name}
    for name in weights:
        if not name.endswith("realconv1.weight"):
            continue
        block = name.removesuffix("realconv1.weight")
        parts = [weights[f"{block}{part}conv1.weight"].squeeze(1) for part in ("real", "imag")]
        joined[f"{block}kernels"] = torch.stack(parts)
        joined[f"{block}bias"] = torch.stack([weights[f"{block}{part}conv1.bias"] for part in ("real", "imag")])
    return joined
