"""The selective scan of Mamba against loops over time, on one thread.

Shapes are sequences x steps x channels, with 16 states each, as in the blocks of a network for functional MRI whose
windows hold 256 tokens; random inputs in single precision, with step sizes as Mamba draws them at the start.

- "loop" advances the state step by step and keeps nothing but it: no decay or input of all steps lies in memory. Its
  backward pass is autograd's. It sums over the states by a batched matrix product, or "elementwise".
- "loop, indexed" is the same with each step cut out by an index, `x[:, :, time]`, as public code does: the backward
  pass of every cut is a tensor of all steps. The others cut all steps at once.
- "ours" is `bdfm_nnunet.networks.selective_scan`: the same mathematics, to rounding. Goals compare it with the indexed
  loop and with the fastest of the three.

All arms keep freed memory in the process (`bdfm_nnunet.allocator`), as `bdfm train` does, unless the memory is
"returned": then the system gets it back and hands out zeroed pages, as in any process of plain PyTorch, which costs the
loop most. The arms take turns and are timed by the seconds that the processor spends on them, which other programs on
the machine change less than those on the wall. The floor is the exponentials, one per step and number of a state and
twice that with the backward pass, which computes states again, at the rate of an exponential in the cache, plus the
bytes of inputs, outputs, kept states and gradients at the rate of a copy. "Kept" are the tensors that autograd keeps
for the backward pass.

    python benchmarks/selective_scan.py [--quick] [--shapes 80x256x72,40x256x144] [--memory returned]
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.networks import selective_scan
from floors import memory_rate
from harness import Result, Spread, Table, Times, alternate, options, parse, prose

STATES = 16
GOALS = {
    ("80x256x72", "forward"): 1.5,
    ("40x256x144", "forward"): 1.0,
    ("5x256x288", "forward"): 1.0,
    ("5x32x576", "forward"): 1.0,
    ("40x256x144", "forward and backward"): 3.0,
    ("5x256x288", "forward and backward"): 2.0,
}
"""How many times faster ours is to be; 1: not slower."""
KINDS = ("forward", "forward and backward")
OURS, INDEXED, LOOPS = "ours", "loop, indexed", ("loop", "loop, elementwise")
CHUNK = 16
"""Steps between kept states."""


class Inputs(NamedTuple):
    """Arguments of a scan."""

    x: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def inputs_of(shape: str) -> Inputs:
    """Return random arguments, with step sizes and rates as Mamba has them at the start."""
    count, length, channels = map(int, shape.split("x"))
    torch.manual_seed(0)
    delta = functional.softplus(torch.randn(count, channels, length) - 4.6)  # about 0.01
    A = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    B, C = torch.randn(2, count, STATES, length)
    return Inputs(torch.randn(count, channels, length), delta, A, B, C, torch.ones(channels))


def loop(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, elementwise: bool = False) -> Tensor:
    """Scan step by step."""
    state, outputs = x.new_zeros(len(x), *A.shape), []
    steps = zip(x.unbind(2), delta.unbind(2), B.unbind(2), C.unbind(2), strict=True)
    for value, step, into, out_of in steps:
        state = torch.exp(step[..., None] * A) * state + (step * value)[..., None] * into[:, None]
        if elementwise:
            outputs.append((state * out_of[:, None]).sum(-1))
        else:
            outputs.append((state @ out_of[..., None]).squeeze(-1))
    return torch.stack(outputs, -1) + D[:, None] * x


def indexed_loop(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan step by step, each step cut out by its index."""
    state, outputs = x.new_zeros(len(x), *A.shape), []
    for time_ in range(x.shape[2]):
        step = delta[:, :, time_, None]
        state = torch.exp(step * A) * state + step * x[:, :, time_, None] * B[:, None, :, time_]
        outputs.append((state * C[:, None, :, time_]).sum(-1))
    return torch.stack(outputs, -1) + D[:, None] * x


SCANS: dict[str, Callable[..., Tensor]] = {
    OURS: selective_scan,
    LOOPS[0]: loop,
    LOOPS[1]: partial(loop, elementwise=True),
    INDEXED: indexed_loop,
}


def forward(name: str, inputs: Inputs) -> Tensor:
    """Scan without gradients."""
    with torch.no_grad():
        return SCANS[name](*inputs)


def both_passes(name: str, inputs: Inputs) -> tuple[Tensor, ...]:
    """Scan, and return the gradients of all arguments."""
    wanted = [value.detach().requires_grad_() for value in inputs]
    return torch.autograd.grad(SCANS[name](*wanted), wanted, inputs.x)


ARMS = dict(zip(KINDS, (forward, both_passes), strict=True))


def check(inputs: Inputs) -> None:
    """Raise unless all arms agree."""
    expected = (forward(LOOPS[0], inputs), *both_passes(LOOPS[0], inputs))
    for name in (OURS, LOOPS[1], INDEXED):
        found = (forward(name, inputs), *both_passes(name, inputs))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


def kept_bytes(name: str, inputs: Inputs) -> int:
    """Return the bytes that autograd keeps for the backward pass."""
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        SCANS[name](*(value.detach().requires_grad_() for value in inputs))
    return sum(storage.nbytes() for storage in kept.values())


def exponential_rate(*, numbers: int = 1 << 15, repeats: int = 50) -> float:
    """Return exponentials a second of a tensor that fits the cache, the best of some tries."""
    values = -torch.rand(numbers)
    room = torch.empty_like(values)

    def run() -> None:
        for _ in range(repeats):
            torch.exp(values, out=room)

    times = alternate({"exp": run}, rounds=5, clock=time.process_time)
    return numbers * repeats / min(times.seconds["exp"])


def floors_of(inputs: Inputs, exponentials: float, copies: float) -> dict[str, float]:
    """Return the seconds that either kind takes at least."""
    cells = inputs.x.numel() * STATES
    given = sum(value.nbytes for value in inputs)
    once = given + inputs.x.nbytes
    starts = 4 * cells / CHUNK
    floors = cells / exponentials + once / copies, 2 * cells / exponentials + (once + 2 * starts + 2 * given) / copies
    return dict(zip(KINDS, floors, strict=True))


def reference(times: Times) -> str:
    """Return the fastest loop."""
    return min((*LOOPS, INDEXED), key=lambda name: times.of(name).median)


def rows_of(shape: str, times: Times, floor: float, kept: dict[str, int] | None) -> list[list[str]]:
    """Return a row for each arm."""
    rows = []
    for name in SCANS:
        times_floor = Spread.of([seconds / floor for seconds in times.seconds[name]])
        row = [shape, name, str(times.of(name)), str(times.speedup(name, reference(times))), str(times_floor)]
        rows.append(row if kept is None else [*row, f"{kept[name] / 2**20:.0f}"])
    return rows


def goals_of(shape: str, kind: str, times: Times, memory: str) -> list[tuple[str, str, bool]]:
    """Return the goal of a shape, if it has one: against the loop as public code has it, and against the fastest."""
    if (shape, kind) not in GOALS:
        return []
    factor = GOALS[shape, kind]
    wanted = "not slower" if factor == 1 else f"{factor:g} times faster"
    rows = []
    for name, loop_name in (("indexed loop", INDEXED), ("fastest loop", reference(times))):
        what = f"selective scan against the {name} over time, {shape} x {STATES}, {kind}, one thread, memory {memory}"
        found = times.speedup(OURS, loop_name)
        rows.append((f"{what}: {wanted}", str(found), found.median >= factor))
    return rows


def main() -> None:
    """Check that the arms agree, run them alternately and write the result."""
    parser = options(__doc__, rounds=5)
    parser.add_argument(
        "--shapes", type=lambda text: text.split(","), default=list(dict.fromkeys(shape for shape, _ in GOALS))
    )
    parser.add_argument("--memory", choices=("kept", "returned"), default="kept", help="what becomes of freed memory")
    settings = parse(parser, quick={"rounds": 2, "shapes": ["5x32x576"]})
    torch.set_num_threads(1)
    if settings.memory == "kept":
        keep_freed_memory()
    exponentials, copies = exponential_rate(), memory_rate()
    title = "Selective scan" if settings.memory == "kept" else "Selective scan, freed memory returned"
    result = Result(title, prose(__doc__), vars(settings), ("torch",))
    rates = f"Rates measured in this run: {exponentials / 1e6:.0f} million exponentials/s, {copies / 1e9:.0f} GB/s."
    columns = ["shape", "arm", "s", "times faster than the fastest loop", "times the floor"]
    tables = {
        KINDS[0]: Table("Forward, without gradients", columns, note=rates),
        KINDS[1]: Table("Forward and backward", [*columns, "kept MiB"]),
    }
    for shape in settings.shapes:
        inputs = inputs_of(shape)
        check(inputs)
        floors = floors_of(inputs, exponentials, copies)
        for kind, run in ARMS.items():
            arms = {name: partial(run, name, inputs) for name in SCANS}
            times = alternate(arms, rounds=settings.rounds, warmup=0, clock=time.process_time)
            kept = None if kind == KINDS[0] else {name: kept_bytes(name, inputs) for name in SCANS}
            tables[kind].rows += rows_of(shape, times, floors[kind], kept)
            result.goals += goals_of(shape, kind, times, settings.memory)
            result.raw[f"{shape} {kind}"] = {"floor_seconds": floors[kind], "seconds": times, "kept_bytes": kept}
    result.tables += tables.values()
    result.write(settings.json)


if __name__ == "__main__":
    main()
