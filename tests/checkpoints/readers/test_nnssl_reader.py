"""Files in the packing of nnssl, against the networks that wrote them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.primus import Primus, PrimusV2, PrimusV3
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.checkpoints.readers.nnssl_plans import NnsslPlans
from bdfm_nnunet.checkpoints.readers.primus_tokens import heads_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import check_plans

CONFIGURATION = {"spacing": [1, 1, 1], "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": False}
SMALL: dict[str, Any] = {"embed_dim": 24, "eva_depth": 2, "eva_numheads": 2, "init_values": 0.1,
                         "scale_attn_inner": True}  # fmt: skip


def _entry(name: str | None, patch: list[int], kwargs: Any = None, **changes: Any) -> dict[str, Any]:
    entry = {
        "architecture_plans": {"arch_class_name": name, "arch_kwargs": kwargs, "arch_kwargs_requiring_import": None},
        "pretrain_plan": {
            "dataset_name": "Dataset745_OpenMind",
            "transpose_forward": [0, 1, 2],
            "configurations": {"onemmiso": CONFIGURATION | {"patch_size": patch}},
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": patch,
        "key_to_encoder": "encoder.stages",
    }
    return entry | changes


def _saved(tmp_path: Path, weights: dict[str, Tensor], entry: Any, **beside: Any) -> Path:
    beside = {"citations": [{"name": "x", "bibtex_citations": ["@a"]}], "nnssl_adaptation_plan": entry} | beside
    torch.save({"network_weights": weights} | beside, tmp_path / "checkpoint_final.pth")
    return tmp_path / "checkpoint_final.pth"


def _source(path: Path, **settings: Any) -> nn.Module:
    """The network that the file's plans describe, with its weights."""
    checkpoint = read_checkpoint(path, **settings)
    assert checkpoint.plans is not None and checkpoint.kind == "nnssl"
    configuration = check_plans(checkpoint.plans, "plans")["configurations"][checkpoint.configuration]
    built = build_network(configuration, inputs=1, outputs=1, deep_supervision=False)
    built.load_state_dict(checkpoint.renamed.weights, strict=False)
    return built.eval()


# ------------------------------------------------------------------------------------------------------------ ResEnc


def _resenc_kwargs() -> dict[str, Any]:
    return {
        "n_stages": 3, "features_per_stage": [8, 12, 16], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 1]], "n_blocks_per_stage": [1, 2, 2],
        "n_conv_per_stage_decoder": [1, 1], "conv_bias": True, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip


def _resenc() -> nn.Module:
    torch.manual_seed(4)
    classes = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    return ResidualEncoderUNet(1, num_classes=1, **(_resenc_kwargs() | classes)).eval()


@pytest.mark.parametrize("prefix", ["", "module.", "my.", "encoder."])
def test_resenc_has_the_features_of_its_network(tmp_path: Path, prefix: str) -> None:
    source = _resenc()
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    weights["projector.0.weight"] = torch.ones(2, 2)
    path = _saved(
        tmp_path, weights, _entry("ResidualEncoderUNet", [16, 16, 16], _resenc_kwargs(),
                                  key_to_encoder=f"{prefix}encoder.stages"),
    )  # fmt: skip
    image = torch.randn(1, 1, 16, 16, 16)
    for ours, theirs in zip(_source(path).encoder(image), source.encoder(image), strict=True):  # type: ignore[operator]
        assert torch.equal(ours, theirs)
    checkpoint = read_checkpoint(path)
    assert "projector.0.weight" in checkpoint.renamed.dropped
    network_ = checkpoint.source_network
    assert (network_.norm, network_.activation, network_.labels) == ("instance", "LeakyReLU", False)
    assert network_.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 1)) and network_.input_channels == 1


@pytest.mark.parametrize("name", ["ResEncL", "NoSkipResEncL", None])
def test_presets_without_arguments(tmp_path: Path, name: str | None) -> None:
    """The name stands for a network; the files of the trainers do not even have the name."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in _preset().encoder.state_dict().items()}  # type: ignore[union-attr]
    weights = {f"encoder.{key}": torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    plans = NnsslPlans.of({"nnssl_adaptation_plan": _entry(name, [160, 160, 160])} if name else {})
    described = plans.network(weights, None)
    assert described.class_name == "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    assert described.arch_kwargs is not None
    configuration = {"architecture": {"network_class_name": described.class_name, "arch_kwargs": described.arch_kwargs,
                                      "_kw_requires_import": ["conv_op", "norm_op", "nonlin"]}}  # fmt: skip
    with torch.device("meta"):
        built = build_network(configuration, inputs=1, outputs=1, deep_supervision=False, initialise=False)
    found = {key: value.shape for key, value in built.encoder.state_dict().items()}  # type: ignore[union-attr]
    assert found == shapes


def _preset() -> nn.Module:
    """Architecture of https://arxiv.org/abs/2410.23132, as its paper and code have it."""
    return ResidualEncoderUNet(
        1, 6, [32, 64, 128, 256, 320, 320], nn.Conv3d, [[3, 3, 3]] * 6, [[1, 1, 1], *[[2, 2, 2]] * 5],
        [1, 3, 4, 6, 6, 6], 1, [1] * 5, True, nn.InstanceNorm3d, {"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
    )  # fmt: skip


def test_images_licence_and_citations(tmp_path: Path) -> None:
    path = _saved(tmp_path, _resenc().state_dict(), _entry("ResidualEncoderUNet", [16] * 3, _resenc_kwargs()))
    checkpoint = read_checkpoint(path)
    assert checkpoint.images is not None and checkpoint.images.spacing == (1.0, 1.0, 1.0)
    assert checkpoint.images.normalisation == ("ZScoreNormalization",) and checkpoint.images.masked == (False,)
    assert checkpoint.licence == "CC BY 4.0" and checkpoint.citations == ("@a",) and checkpoint.exposure is None


def test_files_as_the_trainer_leaves_them(tmp_path: Path) -> None:
    plan = _entry(None, [16] * 3)["pretrain_plan"]
    plan["configurations"] |= {"other": {"spacing": [2, 2, 2]}}
    content = {
        "network_weights": {f"_orig_mod.{name}": value for name, value in _resenc().state_dict().items()},
        "spark_weights": {"sp_cnn.mask_token": torch.zeros(1)},
        "init_args": {"plan": plan, "configuration_name": "onemmiso", "fold": "all"},
        "trainer_name": "SparkMAETrainer_BS8_1000ep",
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
    }
    torch.save(content, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint.kind == "nnssl" and checkpoint.trainer == "SparkMAETrainer_BS8_1000ep"
    assert checkpoint.images is not None and checkpoint.images.spacing == (1.0, 1.0, 1.0)
    target = _resenc()
    assert set(checkpoint.renamed.weights) <= set(target.state_dict())
    assert {name for name, _ in target.named_parameters()} <= set(checkpoint.renamed.weights)
    assert checkpoint.plans is None  # no preset has these sizes


@pytest.mark.parametrize("odd", [5, [1], {"architecture_plans": 3}, {"pretrain_plan": {"configurations": {"a": 3}}}])
def test_descriptions_of_an_odd_kind_say_nothing(tmp_path: Path, odd: Any) -> None:
    path = _saved(tmp_path, _resenc().state_dict(), odd, init_args={"plan": 3, "configuration_name": 4})
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind == "nnssl" and checkpoint.plans is None and checkpoint.images is None


# ------------------------------------------------------------------------------------------------------------ Primus


class HwdPrimus(Primus):
    """A Primus as it was before June 2025 and as nnssl's auto-encoders are: second axis slowest."""

    def tokens(self, image: Tensor, order: str) -> Tensor:
        """Return features (B, C, *grid)."""
        embedded = self.down_projection(image)
        grid = embedded.shape[2:]
        if order == "hwd":
            embedded = embedded.transpose(2, 3)
        sequence = embedded.flatten(2).transpose(1, 2)
        if self.register_tokens is not None:
            sequence = torch.cat([self.register_tokens.expand(len(sequence), -1, -1), sequence], 1)
        encoded = self.eva(sequence)[0]
        encoded = encoded[:, encoded.shape[1] - grid.numel() :].transpose(1, 2)
        if order == "hwd":
            return encoded.unflatten(2, (grid[1], grid[0], grid[2])).transpose(2, 3)
        return encoded.unflatten(2, grid)


def _primus(shape: tuple[int, ...] = (16, 16, 16), **changes: Any) -> HwdPrimus:
    torch.manual_seed(5)
    primus = HwdPrimus(1, patch_embed_size=(4, 4, 4), num_classes=1, input_shape=shape, **(SMALL | changes)).eval()
    with torch.no_grad():
        for parameter in primus.parameters():  # positions and scales as large as after a training
            parameter.add_(0.1 * torch.randn_like(parameter))
    return primus


def _read(path: Path, shape: tuple[int, ...] = (16, 16, 16), **settings: Any) -> HwdPrimus:
    """A Primus of today with the weights of a file, of which it needs all, and its positions moved before."""
    weights = read_checkpoint(path, **settings).renamed.weights
    registers = weights.get("encoder.register_tokens")
    target = _primus(shape, num_register_tokens=0 if registers is None else registers.shape[1])
    names = {name.removeprefix("encoder.").removeprefix("decoder."): value for name, value in weights.items()}
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    missing, odd = target.load_state_dict(names, strict=False)
    assert missing == ["mask_token"] and not odd
    return target


KWARGS = {"encoder_eva_depth": 2, "encoder_eva_numheads": 2, "embed_dim": 24}


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.parametrize("order", ["hwd", "whd"])
@pytest.mark.parametrize("registers", [0, 3])
def test_primus_has_the_features_of_its_network(tmp_path: Path, order: str, prefix: str, registers: int) -> None:
    source = _primus(num_register_tokens=registers)
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    weights |= {f"{prefix}decoder.blocks.0.norm1.weight": torch.ones(24), "projector.weight": torch.ones(3)}
    trainer = "BaseEvaMAETrainer" if order == "hwd" else "SimMIMEvaTrainer"
    path = _saved(tmp_path, weights, _entry("PrimusX", [16, 16, 16], KWARGS), trainer_name=trainer)
    image = torch.randn(1, 1, 16, 16, 16)
    ours, theirs = _read(path).tokens(image, "whd"), source.tokens(image, order)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    wrong = source.tokens(image, "whd" if order == "hwd" else "hwd")
    assert (ours - wrong).norm() > 0.05 * wrong.norm()  # the orders do make a difference
    notes = read_checkpoint(path).notes
    assert any(" ".join(order) in note and "token_order" in note for note in notes)


def test_the_order_of_tokens_can_be_chosen(tmp_path: Path) -> None:
    source = _primus()
    path = _saved(tmp_path, source.state_dict(), _entry("PrimusX", [16] * 3, KWARGS))
    image = torch.randn(1, 1, 16, 16, 16)
    for order in ("whd", "hwd"):
        ours = _read(path, token_order=order).tokens(image, "whd")
        torch.testing.assert_close(ours, source.tokens(image, order), rtol=1e-5, atol=1e-5)
    assert read_checkpoint(path).source_network.token_order == "hwd"  # the auto-encoder's
    with pytest.raises(ValueError, match="token_order is 'dhw', expected 'whd' or 'hwd'"):
        read_checkpoint(path, token_order="dhw")  # type: ignore[arg-type]


def test_grids_that_are_no_cubes(tmp_path: Path) -> None:
    """Equal first axes are exact with any third; otherwise positions belong to other tokens, which is refused."""
    source = _primus((8, 8, 16))
    path = _saved(tmp_path, source.state_dict(), _entry("PrimusX", [8, 8, 16], KWARGS))
    image = torch.randn(1, 1, 8, 8, 16)
    ours = _read(path, (8, 8, 16)).tokens(image, "whd")
    torch.testing.assert_close(ours, source.tokens(image, "hwd"), rtol=1e-5, atol=1e-5)
    path = _saved(tmp_path, _primus((8, 16, 16)).state_dict(), _entry("PrimusX", [8, 16, 16], KWARGS))
    with pytest.raises(InputError, match=r"checkpoint_final\.pth .*grid \(2, 4, 4\) in the order \(h w d\)"):
        assert read_checkpoint(path).renamed
    assert read_checkpoint(path, token_order="whd").renamed


def test_heads_and_grid_that_are_not_told(tmp_path: Path) -> None:
    path = _saved(tmp_path, _primus((8, 8, 16)).state_dict(), _entry("PrimusM", []))
    with pytest.raises(InputError, match="does not tell its tokens per axis"):
        assert read_checkpoint(path).renamed
    path = _saved(tmp_path, _primus().state_dict(), {})
    with pytest.raises(InputError, match="does not tell its attention heads"):
        assert read_checkpoint(path).renamed


@pytest.mark.parametrize(("kind", "version"), [(Primus, 1), (PrimusV2, 2), (PrimusV3, 3)])
def test_the_version_of_a_primus_is_seen(tmp_path: Path, kind: Any, version: int) -> None:
    patch = (8, 8, 8)
    source = kind(1, patch_embed_size=patch, num_classes=1, input_shape=(16, 16, 16), **SMALL)
    path = _saved(tmp_path, source.state_dict(), _entry("PrimusX", [16] * 3, KWARGS))
    described = read_checkpoint(path).source_network
    assert described.arch_kwargs is not None and described.arch_kwargs["version"] == version
    assert described.heads == (2,) and described.norm == "layer"


@pytest.mark.parametrize(("channels", "heads"), [(396, 6), (792, 12), (864, 12), (1056, 16), (48, None)])
def test_published_sizes_tell_their_heads(channels: int, heads: int | None) -> None:
    assert heads_of({"encoder.eva.blocks.0.norm1.weight": torch.zeros(channels)}, {}) == heads


@pytest.mark.parametrize("order", ["hwd", "whd"])
def test_primus_of_nnunet_trainers(tmp_path: Path, order: Any) -> None:
    """nnU-Net's own plans may name a Primus; the file does not tell from which version of the library it is."""
    source = _primus()
    arguments = {"eva_numheads": 2, "input_shape": [16, 16, 16]}
    architecture = {"network_class_name": "x.Primus", "arch_kwargs": arguments, "_kw_requires_import": []}
    plans = {"transpose_forward": [0, 1, 2], "configurations": {"3d_fullres": {"architecture": architecture}}}
    content = {"network_weights": source.state_dict(), "init_args": {"plans": plans, "configuration": "3d_fullres"}}
    torch.save(content, tmp_path / "a.pth")
    image = torch.randn(1, 1, 16, 16, 16)
    ours = _read(tmp_path / "a.pth", token_order=order).tokens(image, "whd")
    torch.testing.assert_close(ours, source.tokens(image, order), rtol=1e-5, atol=1e-5)
    assert read_checkpoint(tmp_path / "a.pth").kind == "nnunet"
