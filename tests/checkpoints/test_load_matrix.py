"""Which source fits which network: the table of docs/weights.md, with features that agree numerically."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import published
import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import ResNet18, SwinUNet, encoder_of
from bdfm_nnunet.networks.primus import PrimusNet
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from tests.checkpoints.described import configuration_of, network_of
from tests.checkpoints.monai_swin import MonaiSwin
from tests.checkpoints.readers.test_nnssl_reader import KWARGS, _entry, _primus
from tests.checkpoints.test_bdfm_reference import reference_names, small_published
from tests.networks import zoo

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
CHANNELS = (1, 2, 4)
NONE: Mapping[str, Any] = MappingProxyType({})


class Source(NamedTuple):
    """A file, and the features that its own network has for an image (B, 1, z, y, x), in that order of axes."""

    content: dict[str, Any]
    features: Callable[[Tensor], list[Tensor]]
    swin: dict[str, Any] = zoo._SWIN
    planned: Mapping[str, Any] = NONE
    settings: Mapping[str, Any] = NONE


def _randomised(source: nn.Module) -> nn.Module:
    """Norms and biases as after a training, so that a wrong order of channels shows."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return source.eval()


def _nnunet(kind: str) -> Source:
    torch.manual_seed(1)
    source = _randomised(network_of(kind, 1))
    plans = {"configurations": {"c": configuration_of(kind)}}
    content = {"network_weights": source.state_dict(), "init_args": {"plans": plans, "configuration": "c"}}
    return Source(content, source.encoder)


def _ours() -> Source:
    torch.manual_seed(1)
    objective = _randomised(MaskedImageModelling(encoder_of(network_of("swin", 1))))
    plans = {"configurations": {"c": configuration_of("swin")}}
    content = {"network_weights": objective.state_dict(), "init_args": {"plans": plans, "configuration": "c"}}
    return Source(content, objective.encoder)


def _neuro_simclr() -> Source:
    torch.manual_seed(1)
    source = _randomised(ResNet18(1, features=(4, 8, 16, 32)))
    weights = {f"encoder.{name}": value for name, value in source.state_dict().items()}
    return Source({"model_state_dict": weights | {"projector.0.weight": torch.ones(2, 32)}, "epoch": 9}, source)


def _nnssl_resenc() -> Source:
    torch.manual_seed(1)
    source = _randomised(network_of("resenc", 1))
    kwargs = configuration_of("resenc")["architecture"]["arch_kwargs"]
    entry = _entry("ResidualEncoderUNet", [32, 32, 32], kwargs)
    return Source({"network_weights": source.state_dict(), "nnssl_adaptation_plan": entry}, source.encoder)


def _nnssl_primus() -> Source:
    source = _primus()
    entry = _entry("PrimusX", [16, 16, 16], KWARGS)
    content = {"network_weights": source.state_dict(), "nnssl_adaptation_plan": entry}
    return Source(content | {"trainer_name": "BaseEvaMAETrainer"}, lambda image: [source.tokens(image, "hwd")])


def _monai(order: str) -> Source:
    torch.manual_seed(1)
    source = _randomised(MonaiSwin(1, order=order, features=12, depths=(2, 1), heads=(3, 2), window=3))
    weights = {f"module.{name}": value for name, value in source.state_dict().items()}
    sizes = {
        "strides": [[1] * 3, *[[2] * 3] * 2], "features_per_stage": [8, 12, 24], "depths": [2, 1],
        "num_heads": [3, 2], "window_size": [3] * 3,
    }  # fmt: skip

    planned = {"legacy": "reversed", "merging_order": "monai-1.4" if order == "monai-1.4" else "swin"}
    return Source(
        {"state_dict": weights}, lambda image: _turned_features(source, image), sizes, planned, {"merging": order}
    )


def _turned_features(source: MonaiSwin, image: Tensor) -> list[Tensor]:
    found = source.features(image.permute(0, 1, 4, 3, 2))[:-1]  # the last is after one more merging
    return [each.permute(0, 3, 2, 1)[None] for each in found]


def _brainsegfounder() -> Source:
    """Two channels, T1 and FLAIR, and the heads of the pre-training beside the encoder."""
    torch.manual_seed(1)
    source = _randomised(MonaiSwin(2, order="monai-1.4", features=12, depths=(2, 1), heads=(3, 2), window=3))
    weights = {f"module.swinViT.{name}": value for name, value in source.state_dict().items()}
    weights |= {"module.rotation_head.weight": torch.ones(4, 48), "module.conv.0.weight": torch.ones(48, 24, 3, 3, 3)}
    content = {"global_step": 3, "epoch": 1, "state_dict": weights, "optimizer": {}}
    one = _monai("monai-1.4")
    return Source(
        content, lambda image: _turned_features(source, image.expand(-1, 2, -1, -1, -1)), one.swin, one.planned
    )


def _public_bdfm() -> Source:
    """The public code's names; its features by the plain form that the step benchmark compares with."""
    objective = small_published()
    weights = dict(objective.named_parameters())
    sizes = {
        "strides": [[1] * 3, [4] * 3, [1, 2, 2]], "features_per_stage": [8, 8, 16], "depths": [2, 2],
        "num_heads": [2, 4], "window_size": [3] * 3,
    }  # fmt: skip

    def features(image: Tensor) -> list[Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"WINDOW": 3, "HEADS": (2, 4), "DEPTHS": (2, 2)}.items():
                patch.setattr(published, name, value)
            return list(published.stages(weights, image, torch.zeros(1, 4, 4, 4, dtype=torch.bool)))

    content = {"global_step": 1, "state_dict": reference_names(objective), "optimizer": {}}
    return Source(content, features, sizes, {"legacy": True})


SOURCES: dict[str, Callable[[], Source]] = {
    "nnU-Net, PlainConvUNet": lambda: _nnunet("plain"),
    "nnU-Net, ResEnc": lambda: _nnunet("resenc"),
    "ours, Swin": _ours,
    "public BDFM": _public_bdfm,
    "3D-Neuro-SimCLR": _neuro_simclr,
    "nnssl, ResEnc": _nnssl_resenc,
    "nnssl, Primus": _nnssl_primus,
    "MONAI up to 1.4, swinViT": lambda: _monai("monai-1.4"),
    "MONAI from 1.5, swinViT": lambda: _monai("monai-1.5"),
    "BrainSegFounder, swinViT": _brainsegfounder,
}
TARGETS: dict[str, Callable[[int, Source], Any]] = {
    "PlainConvUNet": lambda channels, _: network_of("plain", channels),
    "ResEnc": lambda channels, _: network_of("resenc", channels),
    "ResNet18UNet": lambda channels, _: network_of("resnet18", channels),
    "PrimusNet": lambda channels, _: PrimusNet(
        channels, 2, input_shape=(16, 16, 16), embed_dim=24, eva_depth=2, eva_numheads=2,
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)), init_values=0.1, scale_attn_inner=True,
    ),
    "SwinUNet": lambda channels, source: SwinUNet(channels, 2, **source.swin),
    "SwinUNet, planned to match": lambda channels, source: SwinUNet(channels, 2, **source.swin, **source.planned),
}  # fmt: skip


def _table() -> dict[str, dict[str, str]]:
    """Source -> network -> cell, as the page has them."""
    text = PAGE.read_text().split("## Which source fits which network\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.+\|$", text, re.M)]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


def _cell(source: Source, path: Path, name: str, channels: int) -> str:
    target = TARGETS[name](channels, source)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    try:
        report = load_pretrained(target, path, **source.settings)
    except InputError:
        assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
        return "refused"
    if "swin" in path.name.lower():
        target.encoder.norm = nn.Identity()  # MONAI's features have no last norm
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found, expected = target.eval().encoder(image.expand(-1, channels, -1, -1, -1)), source.features(image)
    off = max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
    padding = any(each.startswith("legacy attention") for each in report.differences)
    return "exact" if off < 1e-4 else "but for padding" if padding else f"off by {off:.2g}"


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_fits_the_networks_that_the_page_says(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]()
    path = tmp_path / ("swin.pt" if "swinViT" in name else "weights.pth")
    torch.save(source.content, path)
    row = _table()[name]
    assert set(row) == set(TARGETS)
    for target, said in row.items():
        for channels in CHANNELS if said != "refused" else CHANNELS[:1]:
            assert _cell(source, path, target, channels) == said, (target, channels)


def test_the_page_has_all_sources_and_is_no_empty_promise() -> None:
    table = _table()
    assert list(table) == list(SOURCES)
    assert all("exact" in row.values() and "refused" in row.values() for row in table.values())
    assert set().union(*(row.values() for row in table.values())) <= {"exact", "refused", "but for padding"}
