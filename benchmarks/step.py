"""One training step of the published BDFM configuration, against the published mathematics written plainly.

96 voxels an axis, embedding 96, depths 2-2-6-2, windows of 7: forward, backward and AdamW on made-up images. Every arm
lives in a separate process, and they take turns.

- "published" is benchmarks/published.py: plain window attention, spectra convolved between FFTs, and a frequency loss
  that visits one patch after the other. "bf16" is the same under autocast, where the processor has units for it.
- "legacy" is this package with the published mathematics, faults included: loss and gradients are those of
  "published", so this comparison is like for like.
- "default" is this package as it trains by default: the same encoder, decoders and losses with the faults corrected,
  which is other mathematics, with other gradients and less arithmetic.

All arms have what costs nothing: memory that is freed stays in the process (`bdfm_nnunet.allocator`), and AdamW is
fused. Ours also take the norm of the gradients, to clip them. On CUDA ours are compiled, but for the arms that are
called "uncompiled"; "published" is not, as the compiler would unroll its loop over the patches. "fp32" there is full
fp32, without TF32.

The floor is what the counted operations take at the rate of a large matrix product of that type, plus the bytes that
must move at the rate of a copy: each parameter is read twice, its gradient is written and read, AdamW reads and
writes weight and moments, and what autograd keeps is written and read once. Memory is the peak of the process less
what it held before the arm was built, which is Python and PyTorch.

    python benchmarks/step.py [--quick] [--device cuda]
"""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import published
import torch
from torch import Tensor, nn

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.network_costs import Costs, count_costs
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings
from floors import left_out, matrix_rate, memory_rate, types_for
from harness import Result, Served, Spread, Table, Times, alternate, options, parse, peak_memory, prose, serve

REFERENCE = "published fp32"
OURS = ("legacy fp32", "legacy bf16", "default fp32", "default bf16")
UNCOMPILED = "uncompiled"
ON_CUDA = ("default fp32 uncompiled", "default bf16 uncompiled")
MATHEMATICS = {"legacy": "same gradients", "default": "other mathematics"}
"""Arms that have goals, and what a comparison with the reference compares."""

TIMES_FASTER = {("cpu", "fp32"): 6.0, ("cpu", "bf16"): 10.0, ("cuda", "bf16"): 5.0}
BYTES_PER_PARAMETER = 4 * (2 + 2 + 6)
CLIP = 12.0


def objective(kind: str) -> MaskedImageModelling:
    """Return the published encoder in "published" or "legacy" mathematics, or in our "default" ones."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = published.published_sizes()
    if kind == "default":
        return MaskedImageModelling(encoder_of(SwinEncoder(1, **sizes | {"legacy": False})))
    return MaskedImageModelling(encoder_of(SwinEncoder(1, **sizes)), PretrainingSettings.published())


def images_for(batch: int, size: int, device: str, channels: int = 1) -> Tensor:
    """Return made-up images."""
    return torch.rand(batch, channels, size, size, size, generator=torch.Generator().manual_seed(1)).to(device)


def loss_function(
    kind: str, batch: int, size: int, device: str, *, compiled: bool = False
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return the module of an arm, which holds the parameters, and its loss on fixed images."""
    module, images = objective(kind).to(device).train(), images_for(batch, size, device)
    mask = module.draw_mask(batch, images.shape[2:], generator=torch.Generator().manual_seed(2)).to(device)
    with torch.no_grad():
        module.mask_token(module.encoder.patch_embed(images), torch.zeros_like(mask))  # starts from these images
    if kind == "published":
        weights = dict(module.named_parameters())
        return module, lambda: published.loss_of(weights, images, mask)
    if compiled:
        module.compile()
    return module, lambda: module(images, mask=mask)["loss"]


def serve_arm(name: str, batch: int, size: int, device: str) -> None:
    """Run one training step whenever the other process asks for it."""
    kind, precision, *how = name.split()
    libraries = peak_memory()
    keep_freed_memory()
    compiled = device != "cpu" and UNCOMPILED not in how
    module, loss_of = loss_function(kind, batch, size, device, compiled=compiled)
    optimizer = torch.optim.AdamW(module.parameters(), 2e-4, fused=True)
    serve_step(loss_of, optimizer, precision, device, clip=kind != "published", libraries=libraries)


def serve_step(
    loss_of: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    precision: str,
    device: str,
    *,
    clip: bool,
    libraries: int,
) -> None:
    """Serve forward, backward and optimiser; at the end print the memory beyond that of the `libraries`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    if device != "cpu":
        torch.backends.cudnn.allow_tf32 = False  # of products it is off
        step()  # all arms compile side by side, and what tuning takes is not counted
        torch.cuda.reset_peak_memory_stats()
    process = serve(step)
    taken = process - libraries if device == "cpu" else torch.cuda.max_memory_allocated()
    print(json.dumps({"memory": taken, "process": process}), flush=True)


def costs_of(kind: str, precision: str, batch: int, size: int, device: str = "cpu") -> Costs:
    """Count in a real pass, as the meta device has no autocast that shows which activations are halved."""
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return count_costs(partial(objective, kind), (batch, 1, size, size, size), device=device)


def floor_of(costs: Costs, precision: str, rates: dict[str, float]) -> tuple[int, int, float]:
    """Return FLOPs, bytes that must move, and the seconds that both take at the rates measured."""
    flops = (costs.forward_flops or 0) + (costs.backward_flops or 0)
    moved = BYTES_PER_PARAMETER * costs.parameters + 2 * costs.activation_bytes
    return flops, moved, flops / rates[precision] + moved / rates["bytes"]


def profile_of(kind: str, precision: str, size: int) -> Table:
    """Profile where the time of a step goes, by kind of operation; a profiled step is slower than others."""
    module, loss_of = loss_function(kind, 1, size, "cpu")

    def step() -> None:
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of()
        loss.backward()

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    table = Table(f"Where {kind} {precision} spends its time, batch of 1", ["operation", "ms", "share", "calls"])
    for event in events[:14]:
        milliseconds, share = event.self_cpu_time_total / 1e3, event.self_cpu_time_total / total
        table.rows.append([event.key, f"{milliseconds:.0f}", f"{share:.1%}", str(event.count)])
    return table


def agreement(size: int = 32) -> float:
    """Return the largest difference of a gradient of "legacy" and "published" in double precision, relative to all."""
    module = objective("legacy").double().train()
    images = images_for(1, size, "cpu").double()
    mask = module.draw_mask(1, images.shape[2:], generator=torch.Generator().manual_seed(2))
    weights = dict(module.named_parameters())
    gradients = []
    for loss in (published.loss_of(weights, images, mask), module.eval()(images, mask=mask)["loss"]):
        gradients.append(torch.autograd.grad(loss, list(weights.values())))
    total = torch.stack([gradient.norm() for gradient in gradients[0]]).norm()
    return max(((a - b).norm() / total).item() for a, b in zip(*gradients))


# ----------------------------------------------------------------------------------------------------------- results


def compare(script: Path, names: list[str], settings: argparse.Namespace, batch: int) -> tuple[Times, dict[str, Any]]:
    """Time the arms that a script serves, and return what each process said at its end too."""
    with ExitStack() as stack:
        arms = {}
        for name in names:
            arguments = (
                "--arm",
                name,
                "--batch",
                str(batch),
                "--size",
                str(settings.size),
                "--device",
                settings.device,
            )
            arms[name] = Served(script, *arguments, wait=settings.device == "cpu")
            stack.callback(arms[name].kill)
        for arm in arms.values():
            arm.ready()
        times = alternate(arms, rounds=settings.rounds)
        return times, {name: arm.close() for name, arm in arms.items()}


def add_arm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of scripts that serve arms; those that name one are for the script itself."""
    parser.add_argument("--size", type=int, default=96, help="voxels per axis (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)


def main() -> None:
    """Compare the arms at every batch size and write the result."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--arms", nargs="+", metavar="ARM", help=f"only these arms and {REFERENCE!r} (default: all)")
    add_arm_options(parser)
    settings = parse(parser, quick={"rounds": 3, "batches": [1]})
    if settings.arm:
        serve_arm(settings.arm, settings.batch, settings.size, settings.device)
        return
    shown = {name: value for name, value in vars(settings).items() if name not in ("arm", "batch")}
    result = Result("One training step", prose(__doc__), shown, ("torch", "numpy"))
    types = types_for(settings.device)
    rates = {name: matrix_rate(type_, device=settings.device) for name, type_ in types.items()}
    rates["bytes"] = memory_rate(device=settings.device)
    result.raw["rates"] = rates
    result.raw["gradient_difference_float64"] = difference = agreement()
    for batch in settings.batches:
        _add_comparison(result, settings, batch, rates)
    if settings.device == "cpu":
        keep_freed_memory()
        result.tables += [profile_of("default", precision, settings.size) for precision in types]
    result.goals.append(
        ("gradients of the step agree with the plain arm in float64", f"{difference:.1e} of all", difference < 1e-12)
    )
    result.write(settings.json)


def _add_comparison(result: Result, settings: argparse.Namespace, batch: int, rates: dict[str, float]) -> None:
    names = [REFERENCE, *OURS] if batch > 1 else [REFERENCE, "published bf16", *OURS]  # all are in memory at once
    names += ON_CUDA if settings.device == "cuda" else ()
    wanted = settings.arms or names
    names = [name for name in names if name.split()[1] in rates and name in (REFERENCE, *wanted)]
    times, ends = compare(Path(__file__), names, settings, batch)
    title = f"{settings.size}^3 voxels, batch of {batch}"
    table = Table(
        title, ["arm", "s", "times faster", "GiB", "relative", "whole process", "TFLOP", "floor s", "times the floor"]
    )
    raw: dict[str, Any] = {"seconds": times.seconds, "ends": ends, "costs": {}}
    for name in times.seconds:
        kind, precision = name.split()[:2]
        faster, taken = times.speedup(name, REFERENCE), ends[name]["memory"]
        share = taken / ends[REFERENCE]["memory"]
        row = [
            name,
            str(times.of(name)),
            str(faster),
            f"{taken / 2**30:.2f}",
            f"{share:.2f}",
            f"{ends[name]['process'] / 2**30:.2f}",
        ]
        if kind == "published":
            flops = published.flops(batch, settings.size)
            table.rows.append([*row, f"{flops / 1e12:.3f}", "", ""])
            continue
        costs = costs_of(kind, precision, batch, settings.size, settings.device)
        flops, moved, floor = floor_of(costs, precision, rates)
        over = Spread.of([second / floor for second in times.seconds[name]])
        raw["costs"][name] = {"flops": flops, "bytes": moved, "floor_seconds": floor}
        table.rows.append([*row, f"{flops / 1e12:.3f}", f"{floor:.3g}", str(over)])
    measured = ", ".join(f"{rate / 1e9:.0f} {unit}" for rate, unit in _units(rates))
    table.note = f"Rates measured in this run: {measured}. {left_out(settings.device)}".rstrip()
    result.tables.append(table)
    result.raw[f"batch_{batch}"] = raw
    if batch == 1:
        result.goals += goals_of(raw, settings.device)


def _units(rates: dict[str, float]) -> list[tuple[float, str]]:
    return [(rate, "GB/s" if name == "bytes" else f"GFLOP/s in {name}") for name, rate in rates.items()]


def goals_of(raw: dict[str, Any], device: str) -> list[tuple[str, str, bool]]:
    """Return the goals of our arms, and whether they were reached; each row names its arm.

    Args:
        raw: seconds, ends and costs of the arms at one batch size, as a result holds them.
        device: "cpu" or "cuda".
    """
    times, goals = Times(raw["seconds"]), []
    lacking = "" if device == "cpu" else "; published is not compiled"
    for name in times.seconds:
        kind, precision, *how = name.split()
        if kind not in MATHEMATICS or how:
            continue
        where = f"{name} against {REFERENCE} on {device} ({MATHEMATICS[kind]}{lacking})"
        faster, share = times.speedup(name, REFERENCE), raw["ends"][name]["memory"] / raw["ends"][REFERENCE]["memory"]
        over = Spread.of([second / raw["costs"][name]["floor_seconds"] for second in times.seconds[name]])
        if at_least := TIMES_FASTER.get((device, precision)):
            goals.append((f"{where}: {at_least:g} times faster", str(faster), faster.median >= at_least))
        goals.append((f"{where}: at most 0.7 of the peak memory", f"{share:.2f}", share <= 0.7))
        goals.append((f"{name} on {device}: at most 2.5 times the floor", str(over), over.median <= 2.5))
    return goals


if __name__ == "__main__":
    main()
