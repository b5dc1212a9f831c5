"""Training on any number of processes: `torchrun ... -m bdfm_nnunet.train`, or `bdfm train` on one machine.

The arguments are those of nnUNetv2_train. Exit codes: 0 done, 2 the input cannot be used, 75 paused (continue with
`--c`), 130 paused by Ctrl-C; `bdfm_nnunet.training.signals` says how torchrun reports them.
"""

import argparse
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import take_each_once
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.nnunet_files import read_dataset_json, read_plans_file, resolve_configuration
from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder, trainer_search_path
from bdfm_nnunet.safe_names import check_name

EXIT_BAD_INPUT = 2
_MARKER = "started.json"
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_previous.pth", "checkpoint_best.pth")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of nnUNetv2_train's arguments and --max-hours."""
    parser = argparse.ArgumentParser(
        prog="bdfm train",
        description="nnUNetv2_train with our trainers on any number of processes; every argument of it is taken.",
        epilog="Several machines: torchrun --nnodes N --nproc-per-node M -m bdfm_nnunet.train ... (docs/training.md)",
    )
    add = take_each_once(parser).add_argument
    add("dataset_name_or_id", help="name or number of the data set")
    add("configuration", help="configuration of the plans")
    add("fold", help="a fold of splits_final.json, or `all`")
    add("-tr", default="nnUNetTrainer", metavar="TRAINER", help="class of the trainer (default: %(default)s)")
    add("-p", default="nnUNetPlans", metavar="PLANS", help="name of the plans (default: %(default)s)")
    add("-pretrained_weights", metavar="PATH", help="nnU-Net checkpoint of the same network to start from")
    add("-num_gpus", type=int, default=1, metavar="N", help="processes on this machine, each on its own GPU")
    add("--npz", action="store_true", help="save the probabilities of the final validation")
    add("--c", action="store_true", help="continue from the last checkpoint")
    add("--val", action="store_true", help="only validate a finished training")
    add("--val_best", action="store_true", help="validate checkpoint_best instead of checkpoint_final")
    add("--disable_checkpointing", action="store_true", help="write no checkpoints")
    add("-device", default="cuda", choices=("cuda", "cpu", "mps"), help="kind of device (default: %(default)s)")
    add("--max-hours", "--max_hours", type=float, metavar="H", help="save and end before this many hours are over")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one process of a training, or start several with -num_gpus, and return the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(arguments)
    if options.num_gpus > 1 and "WORLD_SIZE" not in os.environ:
        _start_processes(options.num_gpus, arguments)
    store: list[Any] = []
    try:
        run(options, store)
        return 0
    except InputError as error:
        _tell(str(error), store)
        return EXIT_BAD_INPUT
    except RuntimeError as error:
        if not _is_loss_of_a_peer(error):
            raise
        _tell(f"another process of this training has ended, so this one cannot go on ({_first_line(error)})", store)
        return 1


def run(options: argparse.Namespace, store: list[Any] | None = None) -> Path:
    """Train in this process.

    Args:
        options: what `build_parser` parses.
        store: gets the place where the processes of a training meet, if there are several.

    Returns:
        The folder of the fold, with its checkpoints.

    Raises:
        InputError: the options, the data or the weights cannot be used.
        TrainingPaused: a signal, or --max-hours; a `SystemExit`.
    """
    _check(options)
    with _process_group(options.device, [] if store is None else store):
        return _train(options)


def _start_processes(count: int, arguments: Sequence[str]) -> None:
    """Replace this process by torchrun."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *command, "-m", "bdfm_nnunet.train", *arguments])


def _check(options: argparse.Namespace) -> None:
    """Check everything that can be checked before anything is loaded."""
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        nnunet_folder(variable)
    world = int(os.environ.get("WORLD_SIZE", 1))
    if options.num_gpus not in (1, world):
        raise InputError(f"-num_gpus {options.num_gpus} contradicts the {world} processes started: leave it out")
    if options.fold != "all" and not options.fold.isdecimal():
        raise InputError(f"the fold is {options.fold!r}, expected a number or `all`")
    if options.max_hours is not None and options.max_hours <= 0:
        raise InputError(f"--max-hours is {options.max_hours}, expected a number above 0")
    for one, other in (("c", "val"), ("c", "pretrained_weights"), ("disable_checkpointing", "val_best")):
        if getattr(options, one) and getattr(options, other):
            raise InputError(f"--{one} and {'-' if other[0] == 'p' else '--'}{other} exclude each other: drop one")


# ----------------------------------------------------------------------------------------------------- processes


@contextmanager
def _process_group(device: str, store: list[Any]) -> Iterator[None]:
    """Join the processes that torchrun has started: gloo on the CPU, nccl on CUDA."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    import torch
    from torch import distributed

    from bdfm_nnunet.training.process_group import device_of_process

    meeting, rank, world = next(distributed.rendezvous("env://"))
    # torchrun may keep its store over restarts, with the addresses of those that are gone
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    meeting = distributed.PrefixStore(f"attempt{attempt}of{world}", meeting)
    store.append(meeting)
    if device == "cuda":
        torch.cuda.set_device(device_of_process(device))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", store=meeting, rank=rank, world_size=world)
    try:
        yield
    except SystemExit:  # a pause, on which all have agreed
        distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def _tell(sentence: str, store: Sequence[Any]) -> None:
    """Print an error; of the processes of a machine, only the first one with an error prints it."""
    try:
        first = not store or store[0].add(f"bdfm_errors_{socket.gethostname()}", 1) == 1
    except RuntimeError:
        first = True
    if first:
        print(f"bdfm: error: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


def _is_loss_of_a_peer(error: RuntimeError) -> bool:
    from torch import distributed

    words = ("connection closed by peer", "connection reset by peer", "broken pipe", "gloo", "nccl")
    is_distributed = isinstance(error, getattr(distributed, "DistError", ()))
    return is_distributed or any(word in str(error).lower() for word in words)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# ------------------------------------------------------------------------------------------------------ training


def _train(options: argparse.Namespace) -> Path:
    import torch

    from bdfm_nnunet.checkpoints.nnunet_loading import loading_as_data
    from bdfm_nnunet.data.plain_cases import as_data

    if options.device == "cpu":
        from bdfm_nnunet.allocator import keep_freed_memory

        keep_freed_memory()
    else:
        torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    trainer = _trainer(options)
    with loading_as_data():
        _load(trainer, options)
    if not trainer.was_initialized:
        trainer.initialize()
    trainer.dataset_class = as_data(trainer.dataset_class)  # of nnU-Net's own trainers too
    if not options.val:
        trainer.run_training()
    if options.val_best:
        with loading_as_data():
            trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_best.pth"))
    trainer.perform_actual_validation(options.npz)
    return Path(trainer.output_folder)


def _trainer(options: argparse.Namespace) -> Any:
    """Make a trainer from the arguments as nnU-Net does."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    from bdfm_nnunet.training.trainer import Trainer

    _check_files(options)
    os.environ["nnUNet_extTrainer"] = trainer_search_path()
    fold = options.fold if options.fold == "all" else int(options.fold)
    try:
        trainer = get_trainer_from_args(
            options.dataset_name_or_id, options.configuration, fold, options.tr, options.p,
            options.c or _was_restarted(), torch.device(options.device),
        )  # fmt: skip
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: plan the data set first (bdfm plan)") from error
    except (ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"nnU-Net cannot make this trainer: {_first_line(error)}") from error
    trainer.disable_checkpointing = options.disable_checkpointing
    ours = isinstance(trainer, Trainer)
    if not ours and (int(os.environ.get("WORLD_SIZE", 1)) > 1 or options.max_hours is not None):
        raise InputError(
            f"{options.tr} is not one of ours and knows neither several processes of torchrun nor --max-hours: "
            "train it with nnUNetv2_train"
        )
    if options.max_hours is not None:
        trainer.run.max_hours = options.max_hours
    return trainer


def _check_files(options: argparse.Namespace) -> None:
    """Check plans and dataset.json, for stock nnU-Net trainers too."""
    from bdfm_nnunet.networks.network_classes import check_network_classes

    check_name(options.p, "-p")
    given = options.dataset_name_or_id
    try:
        name = dataset_name(int(given)) if given.isdecimal() else check_name(given, "data set")
    except InputError:
        if not given.isdecimal():
            raise
        return  # there is none: nnU-Net says so
    folder = nnunet_folder("nnUNet_preprocessed") / name
    path = folder / f"{options.p}.json"
    if os.path.lexists(path):
        configuration = resolve_configuration(read_plans_file(path), options.configuration)
        check_network_classes(configuration, str(path))
    if os.path.lexists(folder / "dataset.json"):
        read_dataset_json(folder / "dataset.json")


def _load(trainer: Any, options: argparse.Namespace) -> None:
    """Load the start of the run: the last checkpoint, nothing, or weights."""
    from nnunetv2.run.run_training import maybe_load_checkpoint

    if options.val:
        if not (Path(trainer.output_folder) / _CHECKPOINTS[0]).is_file():
            raise InputError(
                f"{trainer.output_folder} holds no {_CHECKPOINTS[0]}: the training is not finished, use --c",
                entry="not-finished",
            )
        maybe_load_checkpoint(trainer, False, True)
        return
    path = _agreed(trainer, _checkpoint_to_continue)(trainer, options.c)
    if path is not None:
        trainer.load_checkpoint(str(path))
        return
    if options.c:
        trainer.print_to_log_file(f"WARNING: {trainer.output_folder} holds no checkpoint, so this is a new training.")
    if options.pretrained_weights is None:
        return
    if not trainer.was_initialized:
        trainer.initialize()
    try:
        maybe_load_checkpoint(trainer, False, False, options.pretrained_weights)
    except (AssertionError, AttributeError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{options.pretrained_weights} does not fit this network ({_first_line(error)}): make a checkpoint for it "
            "with `bdfm weights`"
        ) from error


def _agreed(trainer: Any, choose: Any) -> Any:
    """Call `choose` on rank 0 and return its answer on all processes."""
    peers = getattr(trainer, "processes", None)
    if peers is None or peers.count == 1:
        return choose
    return lambda *arguments: peers.gather(choose(*arguments) if peers.rank == 0 else None)[0]


def _checkpoint_to_continue(trainer: Any, asked: bool) -> Path | None:
    """Return the checkpoint to continue from, if any.

    A run continues with `--c`, and when torchrun has restarted all processes after one was lost. After a restart only
    checkpoints of the same run count: those younger than the marker that its first start has left.
    """
    folder = Path(trainer.output_folder)
    marker = folder / _MARKER
    if asked:
        return last_checkpoint(folder)
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return None
    known = marker.is_file() and run != "none" and read_json(marker)["run"] == run
    if known or (marker.is_file() and _was_restarted()):
        return last_checkpoint(folder, since=marker.stat().st_mtime)
    write_json(marker, {"run": run})
    return None


def _was_restarted() -> bool:
    """Return whether torchrun has counted a restart; machines that join or leave do not count."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def last_checkpoint(folder: Path, *, since: float = 0.0) -> Path | None:
    """Return the most advanced checkpoint, in nnU-Net's order, without final ones of earlier runs."""
    times = {name: (folder / name).stat().st_mtime for name in _CHECKPOINTS if (folder / name).is_file()}
    final, latest = _CHECKPOINTS[:2]
    if times.get(latest, 0) > times.get(final, float("inf")):
        del times[final]
    return next((folder / name for name, written in times.items() if written >= since), None)


if __name__ == "__main__":
    sys.exit(main())
