"""Which parameters of a network train, and how fast: by what they are, and by what was loaded."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from torch import nn

from bdfm_nnunet.checkpoints import LoadReport
from bdfm_nnunet.networks.encoder_depth import encoder_layers
from bdfm_nnunet.networks.encoders import encoder_of, image_kernels, unwrap
from bdfm_nnunet.networks.low_rank import additions_of
from bdfm_nnunet.networks.mamba_stages import prompts_of
from bdfm_nnunet.settings import StrategySettings
from bdfm_nnunet.training.optimizers import Named
from bdfm_nnunet.training.stages import Moves


@dataclass(frozen=True, kw_only=True)
class LoadedParts:
    """What a training got from elsewhere.

    Attributes:
        weights: any weights at all.
        stem: those of the stem beside the encoder.
        inputs: those of the kernels that read the images as they were; False where channels differ, say.
    """

    weights: bool = False
    stem: bool = False
    inputs: bool = True

    @classmethod
    def of(cls, report: LoadReport, network: nn.Module) -> "LoadedParts":
        """Return what a report says of a network's parts."""
        view, has_stem = encoder_of(network), report.stem_share > 0
        parts = [view.module, view.stem] if has_stem and view.stem is not None else [view.module]
        reading = {id(kernel) for part in parts for kernel in image_kernels(part)}
        names = {name for name, each in unwrap(network).named_parameters() if id(each) in reading}
        return cls(weights=True, stem=has_stem, inputs=not names & {*report.adapted, *report.new})

    def as_dict(self) -> dict[str, bool]:
        """Return it for a checkpoint."""
        return asdict(self)


def moving(network: nn.Module, moves: Moves, loaded: LoadedParts) -> set[int]:
    """Return the identities of the parameters that train.

    The decoder always does, since it is new. A stem beside the encoder stays with the encoder where its weights were
    loaded; a random one trains.

    Args:
        network: any of those with an `encoder_of`.
        moves: "all"; "rest" is all but the encoder; "rest and new inputs" also the kernels that read the images where
            they were not loaded as they are; "norms", "embeddings", "additions", "prompts" and "prompts and norms" the
            rest and those parts.
        loaded: what was loaded.
    """
    network = unwrap(network)
    everything = {id(parameter) for parameter in network.parameters()}
    if moves == "all":
        return everything
    view = encoder_of(network)
    held = [view.module] + ([view.stem] if view.stem is not None and loaded.stem else [])
    rest = everything - _ids(held)
    if moves in ("prompts", "prompts and norms"):
        rest |= {id(prompt) for prompt in prompts_of(view.module)}
    if moves in ("norms", "prompts and norms"):
        return rest | {id(each) for part in held for each in _norms(part)}
    if moves == "embeddings":
        return rest | {id(each) for each in encoder_layers(view)[0]} | _ids(held[1:])
    if moves == "additions":
        rest |= {id(factor) for _, _, addition in additions_of(network) for factor in addition.parameters()}
    if moves != "rest" and not loaded.inputs:
        rest |= {id(kernel) for part in (*held, view.stem) if part is not None for kernel in image_kernels(part)}
    return rest


def _ids(parts: Iterable[nn.Module]) -> set[int]:
    return {id(parameter) for part in parts for parameter in part.parameters()}


def _norms(part: nn.Module) -> Iterator[nn.Parameter]:
    for module in part.modules():
        if type(module).__name__.lower().endswith(("norm", "norm1d", "norm2d", "norm3d")):
            yield from module.parameters(recurse=False)


def rated_parts(
    network: nn.Module, settings: StrategySettings, *, rate: float, loaded: LoadedParts
) -> dict[str, tuple[Named, float]]:
    """Return the parts of a network with a peak learning rate each, for `parameter_groups`.

    Args:
        network: compiled, joined with other processes, or plain.
        settings: factors of the encoder and of its layers.
        rate: peak learning rate of the rest.
        loaded: what was loaded: a stem that the weights lack learns as fast as the rest.
    """
    network = unwrap(network)
    view, encoder_rate = encoder_of(network), rate * settings.encoder_lr_factor
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    parts: dict[str, tuple[Named, float]] = {}

    def add(name: str, parameters: Iterable[nn.Parameter], peak: float) -> None:
        parts[name] = ((names.get(id(each), ""), each) for each in parameters), peak

    layers = encoder_layers(view) if settings.layer_decay != 1 else []
    above = len(layers) - view.ends_with_norm  # the final norm of a transformer counts as above its blocks
    factors = [settings.layer_decay ** (above - depth) for depth in range(len(layers))]
    for depth, (layer, factor) in enumerate(zip(layers, factors, strict=True)):
        add(f"encoder_{depth}", layer, encoder_rate * factor)
    add("encoder", view.module.parameters(), encoder_rate)
    first = encoder_rate * factors[0] if factors else encoder_rate
    if view.stem is not None and first != rate and (loaded.stem or not loaded.weights):
        add("stem", view.stem.parameters(), first)
    add("rest", network.parameters(), rate)
    return parts
