from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import NeurostormEncoder, encoder_of
from bdfm_nnunet.networks.low_rank import low_rank_state
from bdfm_nnunet.networks.subject_network import SubjectNetwork
from bdfm_nnunet.training.gradients import distributed_network
from bdfm_nnunet.training.trained_parts import LoadedParts
from tests.forking import run_together
from tests.networks.zoo import NETWORKS, network
from tests.training.staged import Staged, changed, state_of

KINDS = (*NETWORKS, "primus")
LOADED = LoadedParts(weights=True)


def _network(kind: str, channels: int = 1, **changes: Any) -> Any:
    """A network that drops paths, or has norms with statistics, where its kind can."""
    torch.manual_seed(0)
    if kind in ("resenc", "plain"):
        changes = {"norm_op": nn.BatchNorm3d} | changes
    if kind == "primus":
        changes = {"input_shape": [16, 16, 16], "drop_path_rate": 0.0} | changes
    return network(kind, channels, **changes)


def _start(kind: str, loaded: LoadedParts = LOADED, *, net: Any = None, **settings: Any) -> Staged:
    trainer = Staged(net or _network(kind), **settings)
    trainer.strategy.loaded = loaded
    trainer.strategy.start()
    return trainer


def _of_encoder(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(("encoder.", "decoder.encoder."))}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_encoder_keeps_every_bit(kind: str) -> None:
    """Statistics of norms too; and no path is dropped in it, so that its features are those of evaluation."""
    drops = {"drop_path_rate": 0.5} if kind in ("swin", "primus") else {}
    trainer = _start(kind, strategy="frozen", net=_network(kind, **drops))
    before, encoder = state_of(trainer.network), encoder_of(trainer.network).module
    images = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        expected = encoder.eval()(images)
    trainer.train()
    found = changed(trainer.network, before)
    assert not _of_encoder(found)
    rest = {name for name, _ in trainer.network.named_parameters() if not name.startswith("encoder.")}
    # a normalised convolution's bias gets a gradient of nearly zero, and a head without gradient none
    assert {name for name in rest if name.endswith("weight") and ".seg_layers." not in name} <= found
    assert all(torch.equal(a, b) for a, b in zip(encoder(images), expected))
    trainer.network.train()
    assert any(not torch.equal(a, b) for a, b in zip(encoder(images), expected)), "training mode shows no difference"


@pytest.mark.parametrize("kind", KINDS)
def test_two_stages_train_the_decoder_and_then_everything(kind: str) -> None:
    strategy = "sawtooth" if kind in ("resenc", "resnet18") else "warmup"
    trainer = _start(kind, strategy=strategy, decoder_share=0.5, epochs=2)
    before = state_of(trainer.network)
    trainer.train()
    assert changed(trainer.network, before) and not _of_encoder(changed(trainer.network, before))
    middle = state_of(trainer.network)
    trainer.train()
    kernels = {name for name, each in trainer.network.named_parameters() if each.ndim > 1 and ".seg_" not in name}
    assert kernels <= changed(trainer.network, middle)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_were_not_loaded_as_they_are_train_with_the_decoder(kind: str) -> None:
    trainer = _start(kind, LoadedParts(weights=True, inputs=False), strategy="warmup", decoder_share=0.5)
    before = state_of(trainer.network)
    trainer.train()
    first = next(name for name, each in trainer.network.encoder.named_parameters() if each.ndim > 2)
    trained = {name for name in changed(trainer.network, before) if name.startswith("encoder.")}
    assert f"encoder.{first}" in trained and len(trained) <= 2  # an alias


@pytest.mark.parametrize(("loaded", "trains"), [(LOADED, True), (LoadedParts(weights=True, stem=True), False)])
def test_a_stem_beside_the_encoder_is_held_where_it_was_loaded(loaded: LoadedParts, trains: bool) -> None:
    trainer = _start("swin", loaded, strategy="frozen")
    before = state_of(trainer.network)
    trainer.train()
    assert ("stem.convs.0.0.weight" in changed(trainer.network, before)) is trains


def test_rates_of_a_stem_follow_those_of_the_encoder_that_it_was_loaded_with() -> None:
    for loaded, expected in ((LOADED, 0.01), (LoadedParts(weights=True, stem=True), 0.001), (LoadedParts(), 0.001)):
        trainer = _start("swin", loaded, encoder_lr_factor=0.1)
        (rate,) = {
            group["peak_lr"]
            for group in trainer.optimizer.param_groups
            if any(each is trainer.network.stem.convs[0][0].weight for each in group["params"])
        }
        assert rate == pytest.approx(expected)


@pytest.mark.parametrize("strategy", ["norms", "embeddings"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_a_part_of_the_encoder_trains(kind: str, strategy: str) -> None:
    trainer = _start(kind, LoadedParts(weights=True, stem=True), strategy=strategy)
    before = state_of(trainer.network)
    trainer.train()
    found, encoder = changed(trainer.network, before), trainer.network.encoder
    parameters = {name: each for name, each in trainer.network.named_parameters() if not name.startswith("decoder.")}
    trained = {name for name in parameters if name in found}
    if strategy == "norms":
        owners = {name: trainer.network.get_submodule(name.rpartition(".")[0]) for name in parameters}
        norms = {name for name, owner in owners.items() if "Norm" in type(owner).__name__}
        # the last stage sees two values a channel, whose batch norm has no gradient
        assert {name for name in norms if ".layer4." not in name} <= trained <= norms
        return
    first = {"swin": ("encoder.patch_embed.", "stem."), "resenc": ("encoder.stem.",),
             "plain": ("encoder.stages.0.",), "primus": ("encoder.down_projection.", "encoder.eva.pos_embed"),
             "resnet18": ("encoder.conv1.", "encoder.bn1.")}[kind]  # fmt: skip
    inside = {name for name in parameters if name.startswith(first)}
    assert trained and trained <= inside and {name for name in inside if parameters[name].ndim > 1} <= trained
    buffers = {name for name in found if "running" in name and name.startswith("encoder.")}
    assert all(name.startswith(first) for name in buffers) and isinstance(encoder, nn.Module)


def test_the_untrained_control_holds_a_random_encoder() -> None:
    trainer = _start("swin", LoadedParts(), strategy="frozen")
    before = state_of(trainer.network)
    found = changed(trainer.train().network, before)
    assert not _of_encoder(found) and "stem.convs.0.0.weight" in found
    assert "this is the untrained control" in trainer.told[-1]
    assert "untrained control" not in "".join(_start("swin", strategy="frozen").told)
    assert "untrained control" not in "".join(_start("swin", LoadedParts(), strategy="warmup").told)


# ----------------------------------------------------------------------------------------------------- schedules


def _rates(trainer: Staged) -> list[float]:
    """The rate after each half epoch, and in the last stage that of all."""
    found = []
    for epoch in range(trainer.num_epochs):
        trainer.strategy.reach(epoch)
        for half in (0.5, 1.0):
            trainer.lr_scheduler.step(epoch + half)
            found.append(trainer.optimizer.param_groups[-1]["lr"] / 0.01)
    return found


def test_the_rate_has_two_teeth() -> None:
    trainer = _start("swin", strategy="sawtooth", decoder_share=0.5, epochs=8, training={"warmup_epochs": 2})
    rates = _rates(trainer)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0]) and rates[7] == 0 and 0 < rates[6] < rates[5] < 1
    assert rates[8:12] == pytest.approx([0.25, 0.5, 0.75, 1.0]) and rates[15] == 0
    assert rates[14] == pytest.approx(0.25**0.9)


def test_the_rate_of_a_warm_up_rises_twice_and_falls_once() -> None:
    trainer = _start("swin", strategy="warmup", decoder_share=0.25, epochs=8, training={"warmup_epochs": 1})
    rates = _rates(trainer)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0]) and rates[4:6] == pytest.approx([0.5, 1.0])
    assert all(second < first for first, second in pairwise(rates[5:])) and rates[-1] == 0


def test_only_a_sawtooth_forgets_what_the_optimiser_has_gathered() -> None:
    for strategy, kept in (("warmup", True), ("sawtooth", False)):
        trainer = _start("resnet18", strategy=strategy, decoder_share=0.5).train(2)
        bias = trainer.network.decoder.seg_layers[-1].bias
        before = trainer.optimizer.state[bias]["momentum_buffer"].clone()
        trainer.strategy.reach(2)
        state = trainer.optimizer.state
        assert (bias in state) is kept and (not kept or torch.equal(state[bias]["momentum_buffer"], before))


def test_too_few_epochs_for_two_stages_are_a_sentence() -> None:
    with pytest.raises(InputError, match=r"strategy=warmup needs an epoch .* training.epochs is 1"):
        _start("swin", strategy="warmup", epochs=1)


# ------------------------------------------------------------------------------------------------------ going on


@pytest.mark.parametrize(
    ("kind", "strategy", "done"),
    [
        *(("swin", "warmup", done) for done in (1, 2, 3)),
        *(("resenc", "sawtooth", done) for done in (1, 2, 3)),
        *((kind, "lora", 2) for kind in ("swin", "resenc")),
        ("resnet18", "frozen", 2),
    ],
)
def test_a_run_that_goes_on_is_the_same_to_the_bit(kind: str, strategy: str, done: int) -> None:
    """Stopped in the first stage, at the border and in the second one."""
    settings: dict[str, Any] = {"strategy": strategy, "decoder_share": 0.5, "layer_decay": 0.8}
    whole = _start(kind, **settings)
    saved = whole.train(done).saved()
    whole.train(4 - done)
    going_on = Staged(_network(kind), **settings).load(saved).train(4 - done)
    ours, theirs = state_of(going_on.network), state_of(whole.network)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert going_on.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]
    assert (saved["strategy"] or {"stage": 0})["stage"] == (done == 3 and strategy in ("warmup", "sawtooth"))
    assert len(changed(going_on.network, saved["weights"])) > 4


@pytest.mark.parametrize(
    "state", [{"stage": 2}, {"stage": "decoder"}, {"stage": -1}, {"low_rank": {"encoder.conv1": {}}}]
)
def test_a_strange_state_is_refused(state: dict[str, Any]) -> None:
    trainer = Staged(_network("resnet18"), strategy="warmup")
    with pytest.raises(ValueError, match=r"stage|additions"):
        trainer.strategy.recall(state)
        trainer.strategy.recall_low_rank(state)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sawtooth", "lora"])
def test_a_compiled_network_passes_from_stage_to_stage(strategy: str) -> None:
    """Through PyTorch's tracer, which must see that other parameters train and that layers have additions."""
    states = []
    for compiled in (False, True):
        trainer = Staged(_network("plain"), strategy=strategy, decoder_share=0.5)
        trainer.network = torch.compile(trainer.network, backend="eager") if compiled else trainer.network
        trainer.strategy.loaded = LOADED
        trainer.strategy.start()
        states.append(trainer.train(4).saved()["weights"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_primus_has_figures_of_its_own() -> None:
    for kind, betas, clip in (("swin", (0.9, 0.999), 12.0), ("primus", (0.9, 0.98), 1.0)):
        trainer = _start(kind)
        assert {group["betas"] for group in trainer.optimizer.param_groups} == {betas}
        assert trainer.strategy.clip == clip
        assert _start(kind, training={"gradient_clip": 3.0}).strategy.clip == 3


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("primus", {"strategy": "sawtooth"}, 1e-4),
        ("primus", {"strategy": "warmup"}, 1e-2),
        ("primus", {"strategy": "sawtooth", "decoder_lr_factor": 0.5}, 5e-3),
        ("resnet18", {"strategy": "sawtooth"}, 1e-2),
        ("resnet18", {"strategy": "warmup", "decoder_lr_factor": 0.1}, 1e-3),
    ],
)
def test_the_first_stage_may_have_another_peak(kind: str, settings: Any, expected: float) -> None:
    trainer = _start(kind, decoder_share=0.5, **settings)
    assert all(group["peak_lr"] == pytest.approx(expected) for group in trainer.optimizer.param_groups)
    trainer.strategy.reach(2)
    assert {group["peak_lr"] for group in trainer.optimizer.param_groups} == {0.01}


def _train_together(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for strategy in ("sawtooth", "lora"):
        trainer = _for_two(strategy)
        trainer.network = distributed_network(trainer.network, trainer.device)
        trainer.strategy.loaded = LOADED
        trainer.strategy.start()
        trainer.train(2, rank=rank, world=2)
        torch.save(trainer.saved()["weights"], f"{folder}/{strategy}_{rank}.pt")
    distributed.destroy_process_group()


def _for_two(strategy: str) -> Staged:
    """With statistics of the joined batch, and a use for every parameter."""
    network = _network("plain", deep_supervision=True)
    return Staged(network, strategy=strategy, decoder_share=0.5, epochs=2, training={"initial_lr": 1e-3})


@pytest.mark.slow
def test_two_processes_pass_from_stage_to_stage_as_one(tmp_path: Path) -> None:
    run_together(_train_together, 2, str(tmp_path))
    for strategy in ("sawtooth", "lora"):
        first, second = (torch.load(tmp_path / f"{strategy}_{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
        alone = _for_two(strategy)
        alone.strategy.loaded = LOADED
        alone.strategy.start()
        before = state_of(alone.network)
        alone.train(2)
        moved = {name for name in changed(alone.network, before) if before[name].is_floating_point()}
        assert any(name.startswith("encoder.stages.3") for name in moved)
        for name in moved:
            value = alone.network.state_dict()[name]
            assert (first[name] - value).norm() < 0.01 * (value - before[name]).norm() + 1e-6, name


# ----------------------------------------------------------------------------------------------- low-rank additions


@pytest.mark.parametrize("kind", KINDS)
def test_merged_kernels_compute_what_the_additions_do(kind: str) -> None:
    trainer = _start(kind, strategy="lora", lora_rank=2, lora_alpha=6.0)
    before = state_of(trainer.network)
    trainer.train(2)
    plain = _network(kind)
    plain.load_state_dict(trainer.network.state_dict())
    images = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(plain.eval()(images), trainer.network.eval()(images))
    layers = low_rank_state(trainer.network)
    assert len(layers) > 3
    for name, parts in layers.items():
        low = 3.0 * (parts["up"] @ parts["down"]).reshape(parts["kernel"].shape)
        weight = plain.state_dict()[f"{name}.weight"]
        assert torch.equal(parts["kernel"], before[f"{name}.weight"]) and low.abs().max() > 0
        torch.testing.assert_close(weight, parts["kernel"] + low)
    trained = {name.removesuffix(".weight") for name in _of_encoder(changed(trainer.network, before))}
    assert {name for name in trained if not name.startswith("decoder.")} >= set(layers)
    others = {
        name for name, _ in plain.encoder.named_parameters() if f"encoder.{name}".removesuffix(".weight") not in layers
    }
    assert not {f"encoder.{name}" for name in others} & changed(trainer.network, before)


def test_the_report_says_what_was_loaded() -> None:
    net = _network("swin", 4)
    report = LoadReport(Path("a"), "0", stem_share=1.0, loaded=["encoder.patch_embed.weight", "stem.convs.0.0.weight"])
    assert LoadedParts.of(report, net) == LoadedParts(weights=True, stem=True)
    report.adapted["stem.convs.0.0.weight"] = "input channels 1 to 4"
    assert LoadedParts.of(report, net) == LoadedParts(weights=True, stem=True, inputs=False)
    report.stem_share = 0.0
    assert LoadedParts.of(report, net) == LoadedParts(weights=True)
    report.new["encoder.patch_embed.weight"] = "not in the checkpoint"
    assert not LoadedParts.of(report, net).inputs


def test_the_log_has_a_table_of_the_groups() -> None:
    trainer = _start("swin", strategy="warmup", decoder_share=0.5, layer_decay=0.5)
    title, header, *rows = trainer.told
    assert title.startswith("Stage 1 of 2, epochs 0 to 1: all but the encoder; AdamW, rate rising for 2 epochs")
    assert header.split()[:3] == ["group", "tensors", "parameters"]
    still = sum(each.numel() for each in trainer.network.encoder.parameters())
    assert rows[-1].split()[0] == "(still)" and rows[-1].split()[2] == f"{still:,}"
    trainer.told.clear()
    trainer.strategy.reach(2)
    names = [row.split()[0] for row in trainer.told[2:]]
    assert names[0] == "encoder_0" and names[-2:] == ["rest", "rest_no_decay"] and "(still)" not in names


def _scanning() -> SubjectNetwork:
    torch.manual_seed(0)
    encoder = NeurostormEncoder(
        1, image_size=(4, 4, 4, 4), patch_size=(2, 2, 2, 1), features=(4,), depths=(2,), merging=()
    )  # fmt: skip
    return SubjectNetwork(encoder_of(encoder), 1)


@pytest.mark.parametrize(("strategy", "norms"), [("prompts", 0), ("prompts and norms", 8)])
def test_prompts_train_with_all_but_the_encoder(strategy: str, norms: int) -> None:
    trainer = _start("", net=_scanning(), strategy=strategy, prompts=3)
    moving = {name: each for name, each in trainer.network.named_parameters() if each.requires_grad}
    prompts = {name for name in moving if name.endswith(".prompt")}
    assert prompts == {f"encoder.stages.0.blocks.{i}.prompt" for i in range(2)}
    assert all(moving[name].shape == (3, 4) for name in prompts)
    rest = {name for name in moving if name not in prompts}
    assert len(rest) == 2 + norms and all(name.startswith("head.") or ".norm" in name for name in rest)
    count, every = (sum(each.numel() for each in part) for part in (moving.values(), trainer.network.parameters()))
    assert trainer.told[0].endswith(f"; {count:,} of {every:,} parameters train ({count / every:.2%})")
    names = {id(each) for group in trainer.optimizer.param_groups for each in group["params"] if each.requires_grad}
    assert names == {id(each) for each in moving.values()}


def test_a_run_with_prompts_goes_on() -> None:
    first = _start("", net=_scanning(), strategy="prompts", prompts=3)
    again = Staged(_scanning(), strategy="prompts", prompts=3, training={"seed": 5})
    again.strategy.recall(first.strategy.state())
    again.network.load_state_dict(first.network.state_dict())
    bags = torch.rand(1, 1, 1, 4, 4, 4, 4)
    assert torch.equal(first.network(bags), again.network(bags))


def test_prompts_need_blocks_that_scan() -> None:
    with pytest.raises(InputError, match=r"finetuning\.strategy=prompts cannot be: SwinEncoder has no blocks"):
        _start("swin", strategy="prompts")
