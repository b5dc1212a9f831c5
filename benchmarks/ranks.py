"""Samples per second of one, two and four processes that share a batch, one thread each, and what their talking costs.

The processes (gloo, on this machine) train BDFM with the default settings as the trainers do: each takes its share of
the same batch, and the gradient is averaged over all. Numbers of processes take turns in each round. In the arms called
"alone" the same processes do the same work and keep their gradients to themselves: the ratio is the price of the
all-reduce. More processes than processors can only cost.

    python benchmarks/ranks.py [--quick] [--size 64] [--batch 4] [--rounds 5] [--worlds 1,2,4]
"""

import argparse
import json
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed
from torch import multiprocessing as mp

from bdfm_nnunet.networks import SwinUNet, encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.training.gradients import add_gradients, distributed_network
from bdfm_nnunet.training.process_group import shares
from harness import FIGURES, Result, Spread, Table, machine, numbers, options, parse, prose

CPU = torch.device("cpu")
LIMIT = 1.15
"""What averaging the gradient may cost on one machine with no more processes than processors."""


def objective() -> MaskedImageModelling:
    """Return a Swin encoder of 48 to 384 features under the default objective."""
    network = SwinUNet(
        1,
        2,
        strides=[[1, 1, 1], [4, 4, 4], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
        features_per_stage=[24, 48, 96, 192, 384],
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=[4, 4, 4],
    )
    return MaskedImageModelling(encoder_of(network))


def work(rank: int, world: int, folder: str, settings: dict[str, Any]) -> None:
    """Run one process of `world`; rank 0 writes the seconds of each step, with and without communication."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    model = objective()
    images = torch.randn(settings["batch"], 1, *(settings["size"],) * 3)
    mask = model.draw_mask(len(images), images.shape[2:])
    whole = distributed_network(model, CPU) if world > 1 else model
    arms = {"together": True, "alone": False} if world > 1 else {"together": True}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(-1, settings["steps"]):
        for arm, talks in arms.items():
            distributed.barrier()
            start = time.perf_counter()
            step(whole, images, mask, rank=rank, world=world, talks=talks)
            distributed.barrier()
            if number >= 0:
                seconds[arm].append(time.perf_counter() - start)
    if rank == 0:
        count = sum(parameter.numel() for parameter in model.parameters())
        Path(folder, "seconds.json").write_text(json.dumps({"seconds": seconds, "parameters": count}))
    distributed.destroy_process_group()


def measure(settings: argparse.Namespace) -> dict[str, Any]:
    """Measure the median seconds of a step of each arm in each round; the numbers of processes take turns."""
    found: dict[str, Any] = {"seconds": {}}
    for _ in range(settings.rounds):
        for world in settings.worlds:
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(work, args=(world, folder, vars(settings)), nprocs=world)
                measured = json.loads(Path(folder, "seconds.json").read_text())
            found["parameters"] = measured["parameters"]
            for arm, seconds in measured["seconds"].items():
                name = f"{world}" if arm == "together" else f"{world} alone"
                found["seconds"].setdefault(name, []).append(median(seconds))
    return found


def step(model: Any, images: torch.Tensor, mask: torch.Tensor, *, rank: int, world: int, talks: bool) -> None:
    """Compute the gradient of a batch, of which this process has a share."""
    sizes = shares(len(images), world)
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    batch = {"data": images[mine], "mask": mask[mine]}
    model.zero_grad(set_to_none=True)
    with model.no_sync() if world > 1 and not talks else nullcontext():
        add_gradients(
            model, [batch], lambda part: model(part["data"], mask=part["mask"]), samples=len(images), world=world
        )


def draw(rates: dict[int, Spread], processors: int) -> None:
    """Draw samples per second over the number of processes, beside what the processors could give."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.5, 3.2), layout="constrained")
    worlds, medians = list(rates), [rate.median for rate in rates.values()]
    spread = [[r.median - r.low for r in rates.values()], [r.high - r.median for r in rates.values()]]
    axes.errorbar(worlds, medians, yerr=spread, marker="o", capsize=3, label="measured")
    ideal = [medians[0] * min(world, processors) / worlds[0] for world in worlds]
    axes.plot(worlds, ideal, ls="--", color="0.6", label=f"ideal on {processors} processors")
    axes.set(xlabel="processes", ylabel="samples / s", xticks=worlds, ylim=(0, None))
    axes.legend()
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "ranks.png", dpi=110)


def report(settings: argparse.Namespace, measured: dict[str, Any]) -> Result:
    """Report rates, their ratio to one process, and the cost of communication."""
    seconds, worlds = measured["seconds"], settings.worlds
    processors = machine()["processors"]
    rates = {world: Spread.of([settings.batch / value for value in seconds[str(world)]]) for world in worlds}
    talking = {
        world: Spread.of([a / b for a, b in zip(seconds[str(world)], seconds[f"{world} alone"], strict=True)])
        for world in worlds
        if world > 1
    }
    first = str(worlds[0])
    table = Table("", ["processes", "samples / s", f"relative to {first}", "time relative to the same work alone"])
    for world in worlds:
        gain = Spread.of([a / b for a, b in zip(seconds[first], seconds[str(world)], strict=True)])
        table.rows.append([str(world), str(rates[world]), str(gain), str(talking.get(world, ""))])
    if not settings.quick and settings.json is None:
        draw(rates, processors)
    result = Result(
        "Processes that share a batch",
        f"{prose(__doc__)}\n\nThe network has {measured['parameters'] / 1e6:.1f} M parameters, the batch "
        f"{settings.batch} samples of {settings.size}^3 voxels.",
        settings=vars(settings),
        packages=("torch",),
        tables=[table],
        figures=[("ranks.png", "Samples per second over the number of processes, one thread each")],
        raw=measured,
    )
    within = [talking[world].median for world in talking if world <= processors]
    if within:
        goal = f"averaging the gradient costs at most {LIMIT - 1:.0%} with no more processes than processors"
        result.goals = [(goal, f"{max(within) - 1:.1%}", max(within) <= LIMIT)]
    return result


def main() -> None:
    """Run all arms and write the result."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--size", type=int, default=64, help="voxels per axis")
    parser.add_argument("--batch", type=int, default=4, help="samples of the shared batch")
    parser.add_argument("--steps", type=int, default=3, help="steps of each arm in a round")
    parser.add_argument("--worlds", type=numbers, default=[1, 2, 4], help="numbers of processes")
    settings = parse(parser, quick={"size": 32, "rounds": 2})
    report(settings, measure(settings)).write(settings.json)


if __name__ == "__main__":
    main()
