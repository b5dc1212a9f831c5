"""Fine-tuned files of the public NeuroSTORM code: heads of both layouts, and recorded outputs (BDFM_GOLDEN)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints import load_neurostorm_task
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.clip_heads import ClassToken, EmbeddingHead, HiddenMean
from tests.checkpoints.readers.test_neurostorm_reader import lightning
from tests.golden_outputs import FOLDER, golden_tensors
from tests.networks.neurostorm_slow import EMBED, FRAMES, public_weights, slow_stages

WIDTH, PLACES = 2 * EMBED, 4**3 * FRAMES
_LAYER = {
    "self_attn.in_proj_weight": (3 * WIDTH, WIDTH), "self_attn.in_proj_bias": (3 * WIDTH,),
    "self_attn.out_proj.weight": (WIDTH, WIDTH), "self_attn.out_proj.bias": (WIDTH,),
    "linear1.weight": (4 * WIDTH, WIDTH), "linear1.bias": (4 * WIDTH,),
    "linear2.weight": (WIDTH, 4 * WIDTH), "linear2.bias": (WIDTH,),
    **{f"norm{i}.{kind}": (WIDTH,) for i in (1, 2) for kind in ("weight", "bias")},
}  # fmt: skip


def _head(kind: str, *, outputs: int = 3, old: bool = False) -> dict[str, Tensor]:
    """Random weights of a head by the public names."""
    generator = torch.Generator().manual_seed(7)
    last = {"weight": (outputs, 4 * WIDTH if kind == "v2" else WIDTH), "bias": (outputs,)}
    shapes: dict[str, tuple[int, ...]] = {f"head.head.{name}": shape for name, shape in last.items()}
    if kind == "v2":
        shapes |= {"head.hidden.weight": (4 * WIDTH, WIDTH), "head.hidden.bias": (4 * WIDTH,)}
    if old and kind == "v1":
        shapes |= {f"head.norm.{name}": (WIDTH,) for name in ("weight", "bias")}
    if kind == "v3":
        shapes |= {f"head.norm.{name}": (WIDTH,) for name in ("weight", "bias")}
        shapes |= {"head.cls_token": (1, 1, WIDTH), "head.pos_embed": (1, 1 + PLACES, WIDTH)}
        shapes |= {f"head.transformer_encoder.layers.{i}.{name}": s for i in (0, 1) for name, s in _LAYER.items()}
    found = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if old and kind == "v3":
        names = {"head.norm.": "head.mlp_head.0.", "head.head.": "head.mlp_head.1."}
        for now, then in names.items():
            found = {name.replace(now, then): value for name, value in found.items()}
    return {f"output_head.{name}": value for name, value in found.items()}


def _images(batch: int = 2, frames: int = 5) -> Tensor:
    return torch.randn(batch, 1, 16, 16, 16, frames, generator=torch.Generator().manual_seed(3))


def _task(head: dict[str, Tensor]) -> Any:
    return load_neurostorm_task(lightning(public_weights(layout="encoder") | head))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("kind", "outputs"), [("v1", 1), ("v1", 4), ("v2", 3)])
def test_linear_heads_are_those_of_the_file(kind: str, outputs: int, old: bool) -> None:
    head = _head(kind, outputs=outputs, old=old)
    images = _images()
    pooled = slow_stages(images, public_weights(layout="encoder"))[-1].flatten(1, 4).mean(1)
    if kind == "v2":
        pooled = pooled @ head["output_head.head.hidden.weight"].double().T + head["output_head.head.hidden.bias"]
    expected = pooled @ head["output_head.head.head.weight"].double().T + head["output_head.head.head.bias"]
    task = _task(head)
    with torch.no_grad():
        torch.testing.assert_close(task(images).double(), expected, atol=1e-5, rtol=1e-4)
        assert task(images[:1]).shape == (1, outputs)  # a batch of one keeps its classes


def test_a_transformer_head_has_one_meaning_in_both_layouts() -> None:
    now, then = (_task(_head("v3", old=old)) for old in (False, True))
    with torch.no_grad():
        assert torch.equal(now(_images()), then(_images())) and now(_images(frames=9)).shape == (2, 3)
    neck = now.head[0]
    assert isinstance(neck, ClassToken) and len(neck.layers) == 2
    table = _head("v3")["output_head.head.pos_embed"][0]
    assert torch.equal(neck.token_position, table[0])
    # the last axis is fastest in the file: place (x, y, z), frame t
    assert torch.equal(neck.positions[1, 2, 3, 4], table[1 + ((1 * 4 + 2) * 4 + 3) * FRAMES + 4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "has no head"),
        ({"output_head.head.hidden.bias": torch.ones(3)}, "incomplete head"),
        (_head("v3") | {"output_head.head.pos_embed": torch.ones(1, 161, WIDTH)}, "positions are for 160 places"),
        ({"output_head.fc1.weight": torch.ones(5, WIDTH)}, "incomplete head"),
    ],
)
def test_what_has_no_whole_head_is_refused(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _task(changes)


def test_recorded_outputs_of_heads() -> None:
    golden = golden_tensors("neurostorm_small")
    features = golden["features"].float()
    kinds = {"cls_v1_7": None, "cls_v2_4": HiddenMean, "reg": None, "emb": EmbeddingHead}
    sex = FOLDER / "neurostorm_small.sex.ckpt"
    encoder = {k: v for k, v in torch.load(sex, weights_only=True)["state_dict"].items() if "output_head" not in k}
    for name, kind in kinds.items():
        mark = f"head.{name}."
        head = {f"model.output_head.{k.removeprefix(mark)}": v for k, v in golden.items() if k.startswith(mark)}
        task = load_neurostorm_task({"state_dict": encoder | head})
        with torch.no_grad():
            _close(task.head(features), golden[f"head.{name}"])
        assert kind is None or isinstance(task.head if kind is EmbeddingHead else task.head[0], kind)
    for file, name, source in (
        ("sex", "head.cls_v1_2", features), ("prompts", "prompt.head.cls_v1_7", golden["prompt.features"].float())
    ):  # fmt: skip
        with torch.no_grad():
            _close(load_neurostorm_task(FOLDER / f"neurostorm_small.{file}.ckpt").head(source), golden[name])


def _close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-4


def test_a_recorded_clip_from_image_to_logit() -> None:
    golden = golden_tensors("neurostorm_small")
    task = load_neurostorm_task(FOLDER / "neurostorm_small.sex.ckpt")
    with torch.no_grad():
        _close(task(golden["image"].float()[:1]), golden["head.cls_v1_2"][:1])
