"""The parameters of an encoder by their depth, for learning rates that grow from the image to the decoder."""

from torch import nn

from bdfm_nnunet.networks.encoders import EncoderView

Layer = list[nn.Parameter]


def encoder_layers(view: EncoderView) -> list[Layer]:
    """Return the parameters of an encoder in layers, from the image inwards.

    The layers of a transformer are its embedding, each block, and the final norm where it has one. The merging of
    tokens before a stage, and positions that are added there, belong to the block before it, as in SimMIM's fine-tuning
    (https://arxiv.org/abs/2111.09886). Those of any other encoder are its stem and each stage: a ResEnc has too many
    blocks for a factor each.

    Example:
        >>> from bdfm_nnunet.networks import encoder_of
        >>> from bdfm_nnunet.networks.resnet_unet import ResNet18UNet
        >>> network = ResNet18UNet(1, 2, features_per_stage=(4, 4, 8, 16, 32), decoder_features=(4, 4, 8, 8))
        >>> [len(layer) for layer in encoder_layers(encoder_of(network))]
        [3, 12, 16, 16, 16]
    """
    module = view.module
    if hasattr(module, "eva"):
        layers = _of_plain_transformer(module)
    elif view.is_transformer:
        layers = _of_swin(view)
    else:
        layers = _of_convolutions(module)
    return [_distinct(layer) for layer in layers if layer]


def _of_swin(view: EncoderView) -> list[Layer]:
    module = view.module
    layers = [_all(module.patch_embed)]
    for stage in module.stages:  # type: ignore[union-attr]
        for part in (stage.merging, getattr(stage, "positions", None)):
            layers[-1] += [] if part is None else _all(part)
        layers += [_all(block) for block in stage.blocks]
    return [*layers, _all(module.norm)] if view.ends_with_norm else layers


def _of_plain_transformer(module: nn.Module) -> list[Layer]:
    blocks = [_all(block) for block in module.eva.blocks]  # type: ignore[union-attr]
    last = _all(module.eva.norm)
    placed = {id(parameter) for layer in (*blocks, last) for parameter in layer}
    return [[each for each in module.parameters() if id(each) not in placed], *blocks, last]


def _of_convolutions(module: nn.Module) -> list[Layer]:
    """Each stage is a layer; all that stands beside the stages is the first one."""
    stages: list[Layer] = []
    first: Layer = []
    for name, child in module.named_children():
        if name == "stages":
            stages += [_all(stage) for stage in child.children()]
        elif isinstance(child, nn.Sequential):
            stages.append(_all(child))
        else:
            first += _all(child)
    return [first, *stages]


def _all(module: object) -> Layer:
    assert isinstance(module, nn.Module)
    return list(module.parameters())


def _distinct(layer: Layer) -> Layer:
    return list({id(parameter): parameter for parameter in layer}.values())
