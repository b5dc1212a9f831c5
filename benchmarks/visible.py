"""One step of masked pre-training that encodes everything, against steps that encode only what is visible.

96 voxels an axis, blocks of 32 voxels an axis masked together, forward, backward, gradient norm and AdamW on made-up
images; every step draws a mask and, where only visible tokens are encoded, makes the lists of their windows. Every arm
lives in a separate process, and they take turns.

- "all" is the step that BDFM trains with by default: masked tokens are replaced and everything is encoded. It takes as
  long whatever the share that is masked.
- "visible-75" and "visible-90" encode nothing of the 75 % or 90 % of the blocks that are hidden, and rebuild all of
  them; "visible-75-third" rebuilds a third of them. This is other mathematics, not a faster way to the same gradients.

Encoders: "published" has the sizes of BDFM (embedding 96, depths 2-2-6-2, windows of 7), whose stages merge two axes of
three; "cubic" is the same with all three axes merged, as `bdfm plan` plans it for cubic voxels.

The floor is that of step.py: the counted operations at the rate of a large matrix product, plus the bytes that must
move at the rate of a copy. Memory is the peak of the process less what it held before the arm was built; on CUDA the
peak of the allocator. "Tensors" is the most that tensors take at once in a step, with weights, gradients and moments,
by PyTorch's profiler; what the process takes beyond it are the code and buffers of PyTorch's libraries (some 60 MiB,
the same for all arms) and holes in its heap. On CUDA "all" is compiled unless --eager is given; "visible" is not, as
its shapes differ from step to step.

With --packing, the last table says what packing would bring to a convolutional encoder (nnU-Net's PlainConvUNet at this
size): its forward and backward passes on the whole crop, and on the visible blocks alone as a batch of small crops,
each with a margin of some voxels on every side. A convolution reads across the border of a block, so without a margin
the blocks are encoded as if each were the whole image, and a margin as wide as the encoder reads would be wider than
the crop.

    python benchmarks/visible.py [--quick] [--packing] [--device cuda]
"""

import argparse
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import published
import torch
from step import add_arm_options, compare, floor_of, images_for, serve_step

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.network_costs import Costs, count_costs
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings
from floors import left_out, matrix_rate, memory_rate, types_for
from harness import Result, Spread, Table, Times, alternate, options, parse, peak_memory, prose

ENCODERS = {"published": (1, 2, 2), "cubic": (2, 2, 2)}
"""Encoder -> tokens per axis that each merging joins."""

ARMS: dict[str, dict[str, Any]] = {
    "all": {},
    "visible-75": {"encode": "visible"},
    "visible-75-third": {"encode": "visible", "rebuild": 1 / 3},
    "visible-90": {"encode": "visible", "mask_ratio": 0.9},
}
REFERENCE = "all"
QUICK_ARMS = ("all", "visible-75")
SHARE_OF_TIME, SHARE_OF_MEMORY, TIMES_FASTER_ON_CUDA = 0.6, 0.5, 2.5
TOKENS_OF_A_BLOCK = 8
COLUMNS = (
    *("arm", "s", "share of the time", "GiB", "share of the memory", "tensors GiB", "TFLOP", "share", "floor s"),
    "times the floor",
)
MARGINS = (0, 4, 8)
"""Voxels around a packed block."""


def objective(encoder: str, arm: str) -> MaskedImageModelling:
    """Return the objective of an arm."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = published.published_sizes()
    sizes |= {"legacy": False, "merging": [ENCODERS[encoder]] * 3}
    settings = PretrainingSettings(block_size=TOKENS_OF_A_BLOCK, **ARMS[arm])
    return MaskedImageModelling(encoder_of(SwinEncoder(1, **sizes)), settings)


def serve_arm(name: str, batch: int, size: int, device: str) -> None:
    """Run one training step whenever the other process asks for it."""
    encoder, arm, precision, *compiled = name.split()
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # which imports 90 MB of PyTorch
    libraries = peak_memory()
    keep_freed_memory()
    module, images = objective(encoder, arm).to(device).train(), images_for(batch, size, device)
    generator = torch.Generator().manual_seed(2)
    if compiled:
        module.compile()

    def loss_of() -> torch.Tensor:
        drawn = module.draw(batch, images.shape[2:], generator=generator)
        loss: torch.Tensor = module(images, **{key: value.to(device) for key, value in drawn.items()})["loss"]
        return loss

    optimizer = torch.optim.AdamW(module.parameters(), 2e-4, fused=True)
    serve_step(loss_of, optimizer, precision, device, clip=True, libraries=libraries)


def tensors_of(encoder: str, arm: str, batch: int, size: int) -> int:
    """Return the most bytes that tensors take at once in a step on the CPU."""
    module, images = objective(encoder, arm).train(), images_for(batch, size, "cpu")
    drawn = module.draw(batch, images.shape[2:], generator=torch.Generator().manual_seed(2))
    module(images, **drawn)  # makes what is kept for all steps
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        module(images, **drawn)["loss"].backward()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    state = 3 * sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    return state + max(accumulate(changes))  # gradients are among the changes


def costs_of(encoder: str, arm: str, precision: str, batch: int, size: int) -> Costs:
    """Count in a real pass, for one mask."""
    device = "cpu" if precision in types_for("cpu") else "cuda"
    module, shape = objective(encoder, arm).to(device), (batch, 1, size, size, size)
    drawn = module.draw(batch, shape[2:], generator=torch.Generator().manual_seed(2))
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return count_costs(module, shape, device=device, arguments=drawn)


def main() -> None:
    """Compare the arms for every encoder and batch size, and write the result."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--encoders", nargs="*", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--precisions", nargs="+", help="number types (default: those the device has units for)")
    parser.add_argument("--packing", action="store_true", help="measure packed blocks in a convolutional encoder too")
    parser.add_argument("--eager", action="store_true", help="do not compile any arm on CUDA")
    add_arm_options(parser)
    quick = {"rounds": 3, "batches": [1], "encoders": ["published"], "arms": list(QUICK_ARMS), "eager": True}
    settings = parse(parser, quick=quick)
    if settings.arm:
        serve_arm(settings.arm, settings.batch, settings.size, settings.device)
        return
    shown = {name: value for name, value in vars(settings).items() if name not in ("arm", "batch")}
    title = "Encoding only what is visible" if settings.encoders else "Packed blocks in a convolutional encoder"
    result = Result(title, prose(__doc__), shown, ("torch", "numpy"))
    types = {n: t for n, t in types_for(settings.device).items() if n in (settings.precisions or [n])}
    rates = {name: matrix_rate(type_, device=settings.device) for name, type_ in types.items()}
    rates["bytes"] = memory_rate(device=settings.device)
    result.raw["rates"] = rates
    for encoder in settings.encoders:
        for batch in settings.batches:
            for precision in types:
                _add_comparison(result, settings, encoder, batch, precision, rates)
    if settings.packing:
        _add_packing(result, settings)
    result.write(settings.json)


def _add_comparison(
    result: Result, settings: argparse.Namespace, encoder: str, batch: int, precision: str, rates: dict[str, float]
) -> None:
    compiled = settings.device != "cpu" and not settings.eager
    names = {arm: f"{encoder} {arm} {precision}" for arm in settings.arms}
    if compiled and REFERENCE in names:
        names[REFERENCE] += " compiled"
    times, ends = compare(Path(__file__), list(names.values()), settings, batch)
    title = f"{encoder} encoder, {settings.size}^3 voxels, batch of {batch}, {precision}"
    table = Table(title, list(COLUMNS))
    costs = {arm: costs_of(encoder, arm, precision, batch, settings.size) for arm in names}
    tensors = {arm: tensors_of(encoder, arm, batch, settings.size) for arm in names if settings.device == "cpu"}
    raw: dict[str, Any] = {"seconds": times.seconds, "ends": ends, "tensors": tensors, "costs": {}}
    for arm, name in names.items():
        flops, moved, floor = floor_of(costs[arm], precision, rates)
        raw["costs"][name] = {"flops": flops, "bytes": moved, "floor_seconds": floor}
        reference = names[REFERENCE]
        over = Spread.of([second / floor for second in times.seconds[name]])
        table.rows.append(
            [
                " ".join([arm, *name.split()[3:]]),
                str(times.of(name)),
                str(share_of_time(times, name, reference)),
                f"{ends[name]['memory'] / 2**30:.2f}",
                f"{ends[name]['memory'] / ends[reference]['memory']:.2f}",
                f"{tensors[arm] / 2**30:.2f}" if arm in tensors else "",
                f"{flops / 1e12:.3f}",
                f"{flops / floor_of(costs[REFERENCE], precision, rates)[0]:.2f}",
                f"{floor:.3g}",
                str(over),
            ]
        )
    table.note = f"Rates of this run: {', '.join(f'{name} {rate / 1e9:.0f} G/s' for name, rate in rates.items())}. "
    table.note = (table.note + left_out(settings.device)).rstrip()
    result.tables.append(table)
    result.raw[f"{encoder}_{batch}_{precision}"] = raw
    result.goals += goals_of(times, ends, names, settings.device, title)


def _add_packing(result: Result, settings: argparse.Namespace) -> None:
    """Time a convolutional encoder on the whole crop and on packed blocks of it."""
    encoder, block = _convolutional().to(settings.device), settings.size // 3
    shapes = {"whole crop": (1, settings.size)}
    shapes |= {f"7 of 27 blocks, margin {margin}": (7, block + 2 * margin) for margin in MARGINS}

    def passes(count: int, size: int) -> Callable[[], None]:
        images = images_for(count, size, settings.device)

        def step() -> None:
            encoder.zero_grad()
            sum(feature.square().mean() for feature in encoder(images)).backward()
            if settings.device != "cpu":
                torch.cuda.synchronize()

        return step

    times = alternate({name: passes(*shape) for name, shape in shapes.items()}, rounds=settings.rounds)
    table = Table("Packed blocks in a convolutional encoder, forward and backward", ["input", "s", "share of the time"])
    for name in shapes:
        table.rows.append([name, str(times.of(name)), str(share_of_time(times, name, "whole crop"))])
    result.tables.append(table)
    result.raw["packing"] = times.seconds


def _convolutional() -> torch.nn.Module:
    from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder

    return PlainConvEncoder(
        1,
        5,
        [32, 64, 128, 256, 320],
        torch.nn.Conv3d,
        3,
        [1, 2, 2, 2, 2],
        2,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=torch.nn.LeakyReLU,
        return_skips=True,
    )


def share_of_time(times: Times, name: str, reference: str) -> Spread:
    """Return the time of an arm, relative to the reference, over the rounds."""
    return Spread.of([a / b for a, b in zip(times.seconds[name], times.seconds[reference], strict=True)])


def goals_of(
    times: Times, ends: dict[str, Any], names: dict[str, str], device: str, where: str
) -> list[tuple[str, str, bool]]:
    """Return the goals of "visible-75", and whether they were reached.

    Args:
        times: seconds by the names of the arms.
        ends: what each arm said at its end.
        names: arm -> its name.
        device: "cpu" or "cuda".
        where: encoder, size and batch.
    """
    if "visible-75" not in names:
        return []
    ours, reference = names["visible-75"], names[REFERENCE]
    kind = "compiled" if reference.endswith("compiled") else "eager" if device == "cuda" else device
    if device == "cuda":
        faster = times.speedup(ours, reference)
        text = f"visible-75 against all ({kind}), {where} on cuda: {TIMES_FASTER_ON_CUDA:g} times faster"
        return [(text, str(faster), faster.median >= TIMES_FASTER_ON_CUDA)]
    share, memory = share_of_time(times, ours, reference), ends[ours]["memory"] / ends[reference]["memory"]
    text = f"visible-75 against all, {where} on {kind}: at most"
    return [
        (f"{text} {SHARE_OF_TIME:g} of the time", str(share), share.median <= SHARE_OF_TIME),
        (f"{text} {SHARE_OF_MEMORY:g} of the peak memory", f"{memory:.2f}", memory <= SHARE_OF_MEMORY),
    ]


if __name__ == "__main__":
    main()
