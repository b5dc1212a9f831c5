"""One pre-training step of NeuroSTORM in the published configuration, beside what was counted without running it.

Clips of 96 x 96 x 96 voxels and 20 frames, batch of 1, on one thread in single precision: masks, encoder, decoder,
loss, backward and AdamW on made-up clips without augmentation. There is no arm of the public code, which needs a
package that is built for CUDA alone; `selective_scan.py` holds the scan against a loop over time.

- "default" keeps the activations of all blocks.
- "recomputed" computes each block again in the backward pass (`gradient_checkpointing`).

The arms live in separate processes and take turns. Arms and rates are timed by the seconds that the processor spends on
them, which other programs on the machine change less than those on the wall. The floor is the counted arithmetic at the
rate of a large matrix product, plus the exponentials of the scans at the rate of an exponential in the cache (one per
token, inner channel and state, again where states are computed again), plus the bytes that must move at the rate of a
copy: each parameter is read twice, its gradient is written and read, AdamW reads and writes weight and moments, and
what autograd keeps is written and read once. "Counted" memory is what `bdfm plan` counts: weights, gradients, moments
and kept activations. "Peak" is that of the process less what it held before the arm was built.

    python benchmarks/neurostorm_step.py [--quick] [--size 96] [--frames 20]
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from selective_scan import STATES, exponential_rate
from torch import Tensor, nn

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.mamba import Mamba
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.network_costs import Costs, build_on
from bdfm_nnunet.objectives.sequence import SequenceModelling
from bdfm_nnunet.plans.clip_layout import clip_layout
from bdfm_nnunet.plans.neurostorm_planner import PUBLISHED, architecture_of
from bdfm_nnunet.training_costs import count_step
from floors import matrix_rate, memory_rate
from harness import Result, Served, Spread, Table, Times, alternate, options, parse, peak_memory, prose, serve

ARMS = ("default", "recomputed")
SPACING = (2.0, 2.0, 2.0)
BYTES_PER_PARAMETER = 4 * (2 + 2 + 6)
GIB = 2**30


def objective(arm: str, size: int, frames: int) -> SequenceModelling:
    """Return the pre-training of the network that `bdfm plan` plans for volumes of this size, at published sizes."""
    architecture = architecture_of(clip_layout((size,) * 3, SPACING), replace(PUBLISHED, frames=frames))
    architecture["arch_kwargs"]["gradient_checkpointing"] = arm == "recomputed"
    torch.manual_seed(0)
    network = build_network({"architecture": architecture}, inputs=1, outputs=2, deep_supervision=False)
    return SequenceModelling(encoder_of(network))


def image_size(model: SequenceModelling) -> tuple[int, ...]:
    """Return the voxels per axis and frames of a clip."""
    return tuple(model.encoder.image_size)


def serve_arm(arm: str, size: int, frames: int) -> None:
    """Take one training step whenever the other process asks for it, and tell at the end what it took."""
    torch.set_num_threads(1)
    libraries = peak_memory()
    keep_freed_memory()
    model = objective(arm, size, frames).train()
    shape, random = image_size(model), torch.Generator().manual_seed(1)
    clips = torch.randn(1, 1, *shape, generator=random)
    keys = model.draw(1, shape, generator=random)["mask_keys"]
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 2e-4, fused=True)
    seconds: list[float] = []

    def step() -> None:
        start = time.process_time()
        optimizer.zero_grad()
        loss: Tensor = model(clips, mask_keys=keys)["loss"]
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - start)

    process = serve(step)
    print(json.dumps({"memory": process - libraries, "process": process, "seconds": seconds}), flush=True)


def counted(arm: str, size: int, frames: int) -> tuple[Costs, int]:
    """Count a step as `bdfm plan` does, and the exponentials of its scans, which are scanned again going back."""
    model = build_on(lambda: objective(arm, size, frames))
    assert isinstance(model, SequenceModelling)
    cells: list[int] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Mamba)
        cells.append(arguments[0].shape[:2].numel() * module.D.numel() * STATES)

    for module in model.modules():
        if isinstance(module, Mamba):
            module.register_forward_pre_hook(note)
    costs = count_step(model, 1, image_size(model), optimizer="adamw")
    passes = 2 if arm == "recomputed" else 1  # forward passes, which have all been noted
    return costs, sum(cells) * (passes + 1) // passes


def floor_of(costs: Costs, exponentials: int, rates: dict[str, float]) -> float:
    """Return the seconds that a step takes at least."""
    flops = (costs.forward_flops or 0) + (costs.backward_flops or 0)
    moved = BYTES_PER_PARAMETER * costs.parameters + 2 * costs.activation_bytes
    return flops / rates["products"] + exponentials / rates["exponentials"] + moved / rates["bytes"]


def measure(size: int, frames: int, rounds: int) -> dict[str, Any]:
    """Let the arms take turns; return what each says at its end."""
    served = {arm: Served(Path(__file__), "--arm", arm, "--size", str(size), "--frames", str(frames)) for arm in ARMS}
    try:
        alternate(served, rounds=rounds)
        return {arm: each.close() for arm, each in served.items()}
    finally:
        for each in served.values():
            each.kill()


def row_of(arm: str, found: dict[str, Any], costs: Costs, floor: float, times: Times) -> list[str]:
    """Return what was measured of an arm, beside what was counted."""
    expected, slower = (costs.state_bytes + costs.activation_bytes) / GIB, [s / floor for s in times.seconds[arm]]
    return [
        arm,
        str(times.of(arm)),
        f"{floor:.3g}",
        str(Spread.of(slower)),
        f"{costs.parameters / 1e6:.2f}",
        f"{((costs.forward_flops or 0) + (costs.backward_flops or 0)) / 1e9:.0f}",
        f"{expected:.2f}",
        f"{found['memory'] / GIB:.2f}",
    ]


def main() -> None:
    """Count, measure and write the result."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--size", type=int, default=96, help="voxels per axis of the clips (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=PUBLISHED.frames, help="frames of a clip (default: %(default)s)")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    settings = parse(parser, quick={"rounds": 2, "size": 24, "frames": 8})
    if settings.arm is not None:
        serve_arm(settings.arm, settings.size, settings.frames)
        return
    torch.set_num_threads(1)
    clock = time.process_time
    rates = {
        "products": matrix_rate(torch.float32, clock=clock),
        "bytes": memory_rate(clock=clock),
        "exponentials": exponential_rate(),
    }
    found = measure(settings.size, settings.frames, settings.rounds)
    times = Times({arm: each["seconds"][1:] for arm, each in found.items()})  # less the one for warming up
    del settings.arm
    result = Result("A step of NeuroSTORM", prose(__doc__), vars(settings), ("torch",))
    columns = ["arm", "s of the processor", "floor s", "times the floor", "million parameters", "GFLOP", "counted GiB",
               "peak GiB"]  # fmt: skip
    table = Table(f"{settings.size} x {settings.size} x {settings.size} voxels, {settings.frames} frames, batch of 1",
                  columns)  # fmt: skip
    for arm in ARMS:
        costs, exponentials = counted(arm, settings.size, settings.frames)
        floor = floor_of(costs, exponentials, rates)
        table.rows.append(row_of(arm, found[arm], costs, floor, times))
        result.raw[arm] = found[arm] | {"floor_seconds": floor, "costs": vars(costs)}
    table.note = (
        f"Rates measured in this run: {rates['products'] / 1e9:.0f} GFLOP/s, {rates['bytes'] / 1e9:.0f} GB/s, "
        f"{rates['exponentials'] / 1e6:.0f} million exponentials/s."
    )
    result.tables.append(table)
    result.write(settings.json)


if __name__ == "__main__":
    main()
