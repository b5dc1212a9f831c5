"""`bdfm probe`: what a pre-training has learned of the images, without any further training.

Without the name of a probe it is that of subjects: `bdfm probe -d ID --features FILE --target NAME`.
"""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import (
    Add,
    command,
    count,
    dataset,
    each_once,
    names,
    percentages,
    take_each_once,
    whole,
)
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.safe_names import printable


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    purpose = "measure what a pre-training has learned of the images"
    parser = take_each_once(commands.add_parser("probe", help=purpose, description=purpose))
    parser.set_defaults(handler=subjects)
    _add_subjects(parser.add_argument)
    probes = parser.add_subparsers(title="probes beside that of a target", metavar="PROBE")
    _add_spectrum(command(probes, "spectrum", spectrum, "which frequencies a linear decoder recovers from each stage"))
    _add_reconstruction(command(probes, "reconstruction", reconstruction, "how well labelled regions are rebuilt"))
    add = command(probes, "unwanted", unwanted, "what features should not tell: identity, motion and site")
    dataset(add)
    add("--features", type=Path, required=True, metavar="FILE", help="features of its cases")
    add("--seed", type=whole, default=0, metavar="S", help="of folds and intervals (default: %(default)s)")
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the scores go, beside the screen")
    add = command(probes, "compare", compare, "which pre-training rebuilds regions better, by pairs of case and seed")
    add("--arm", action="append", nargs="+", required=True, metavar=("NAME", "FILE"),
        help="name and results of `bdfm probe reconstruction`, of several seeds and folds; the first arm is compared "
        "with")  # fmt: skip
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the comparison goes, beside the screen")


def _add_subjects(add: Add) -> None:
    dataset(add, required=False)
    add("--features", type=Path, metavar="FILE", help="features of its cases, from `bdfm features`")
    add("--target", metavar="NAME", help="target that they are to tell, see `bdfm targets`")
    add("--models", type=names, default=["linear", "knn", "forest"], metavar="A,B",
        help="of linear, knn, forest and svm; the first gives the verdict (default: linear,knn,forest)")  # fmt: skip
    add("--fractions", type=percentages, default=[1.0], metavar="P,P", help="per cent of the training cases, as 5,100")
    add("--seeds", type=count, default=5, metavar="N", help="draws of each fraction below 100 (default: %(default)s)")
    add("--baselines", type=_baselines, metavar="A,B",
        help="of untrained, covariance (untrained too), intensity, volume, labels, connectivity (of runs); or none "
        "(default: all)")  # fmt: skip
    add("--weights", type=Path, metavar="CKPT", help="network of the untrained encoder (default: that of the features)")
    add("-p", "--plans", metavar="NAME", help="plans for the baselines (default: those of the features)")
    add("-c", "--configuration", metavar="CONFIG", help="their configuration (default: that of the features)")
    add("--permute", action="store_true", help="give patients the targets of others, to see what chance gives")
    add("--seed", type=whole, default=0, metavar="S", help="of all draws (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the encoder runs (default: %(default)s)")
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the scores go, beside the screen")


_BASELINES = {"untrained": "untrained", "covariance": "untrained covariance", "intensity": "intensity statistics",
              "volume": "image volumes", "labels": "label volumes",
              "connectivity": "functional connectivity"}  # fmt: skip
"""Words of --baselines -> names in the results."""


def _baselines(text: str) -> list[str]:
    """Read words of baselines between commas, or `none`."""
    if text == "none":
        return []
    found = names(text)
    if unknown := [name for name in found if name not in _BASELINES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no baseline: choose among {', '.join(_BASELINES)}, none")
    return [_BASELINES[name] for name in found]


def _add_data(add: Add) -> None:
    dataset(add)
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="name of the plans (default: %(default)s)")
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the network runs (default: %(default)s)")


def _add_spectrum(add: Add) -> None:
    _add_data(add)
    add("--weights", type=Path, metavar="CKPT", help="checkpoint of the encoder (default: random weights)")
    add("--channels", choices=("single", "all"), default="single", help="of a case at once (default: %(default)s)")
    add("--crops", type=count, default=64, metavar="N", help="crops to fit on (default: %(default)s)")
    add("-f", "--fold", type=whole, default=0, metavar="F", help="fold whose cases are held out (default: %(default)s)")
    add("--shells", type=count, default=8, metavar="N", help="radial shells (default: %(default)s)")
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the shares go, beside the screen")


def _add_reconstruction(add: Add) -> None:
    add("weights", metavar="CKPT", help="checkpoint of a masked pre-training, or last:ID")
    _add_data(add)
    add("--labels", type=names, default=[], metavar="A,B", help="labels or regions of dataset.json (default: all)")
    add("--channels", type=names, default=[], metavar="A,B", help="channels, in this order (default: all)")
    add("-f", "--fold", type=whole, metavar="F", help="score the validation cases of this fold (default: all cases)")
    add("--cases", type=names, default=[], metavar="A,B", help="score these cases alone")
    add("--draws", type=count, default=4, metavar="N", help="draws of masks (default: %(default)s)")
    add("--output", choices=("pixel", "frequency"), default="pixel", help="of which decoder (default: %(default)s)")
    add("--seed", type=whole, default=0, metavar="S", help="of the masks (default: %(default)s)")
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the scores go, with two pictures beside them")


def subjects(settings: argparse.Namespace) -> int:
    """Print the scores of models on frozen features and what they mean, and write them."""
    wanted = {"-d ID": settings.dataset, "--features FILE": settings.features, "--target NAME": settings.target}
    if missing := [option for option, value in wanted.items() if value is None]:
        raise InputError(
            f"without {' and '.join(missing)} nothing is probed: give `bdfm probe -d ID --features FILE --target "
            "NAME`, or name another probe, spectrum, reconstruction, unwanted or compare"
        )
    from bdfm_nnunet.probes.probe_verdict import table
    from bdfm_nnunet.probes.subject_probe import SubjectProbe, probe_subjects

    chosen = {} if settings.baselines is None else {"baselines": settings.baselines}
    probe = SubjectProbe(
        dataset_id=settings.dataset,
        features=settings.features,
        target=settings.target,
        models=settings.models,
        fractions=settings.fractions,
        seeds=settings.seeds,
        weights=settings.weights,
        plans=settings.plans,
        configuration=settings.configuration,
        permute=settings.permute,
        seed=settings.seed,
        device=settings.device,
        **chosen,
    )
    found = probe_subjects(probe, out=settings.out).extra
    print(table(found))
    for line in (found["verdict"], found["seen"], *found["notes"]):
        print(printable(line))
    return 0


def spectrum(settings: argparse.Namespace) -> int:
    """Print the shares, and write them."""
    nnunet_folder("nnUNet_preprocessed")
    from bdfm_nnunet.studies.embedding_probe import Probe, probe_spectrum, table

    probe = Probe(
        settings.dataset,
        settings.plans,
        settings.configuration,
        weights=settings.weights,
        channels=settings.channels,
        crops=settings.crops,
        fold=settings.fold,
        shells=settings.shells,
        device=settings.device,
    )
    print(table(probe_spectrum(probe, out=settings.out)))
    return 0


def reconstruction(settings: argparse.Namespace) -> int:
    """Print the scores, and write them."""
    nnunet_folder("nnUNet_preprocessed")
    from bdfm_nnunet.probes.reconstruction_pictures import table
    from bdfm_nnunet.probes.reconstruction_probe import probe_reconstruction
    from bdfm_nnunet.probes.reconstruction_scoring import ReconstructionProbe

    probe = ReconstructionProbe(
        weights=settings.weights,
        dataset_id=settings.dataset,
        plans=settings.plans,
        configuration=settings.configuration,
        labels=settings.labels,
        channels=settings.channels,
        fold=settings.fold,
        cases=settings.cases,
        draws=settings.draws,
        output=settings.output,
        seed=settings.seed,
        device=settings.device,
    )
    result = probe_reconstruction(probe, out=settings.out)
    print(table(result))
    if result.extra["seen"]:
        print(result.extra["seen"])
    return 0


def unwanted(settings: argparse.Namespace) -> int:
    """Print a sentence on identity, motion and site each, and write the scores."""
    from bdfm_nnunet.probes.unwanted_probe import UnwantedProbe, probe_unwanted

    probe = UnwantedProbe(dataset_id=settings.dataset, features=settings.features, seed=settings.seed)
    found = probe_unwanted(probe, out=settings.out).extra
    for line in (*(each["verdict"] for each in found["unwanted"].values()), *found["notes"]):
        print(printable(line))
    return 0


def compare(settings: argparse.Namespace) -> int:
    """Print the comparison, and write it."""
    from bdfm_nnunet.probes.arm_comparison import compare_arms
    from bdfm_nnunet.probes.reconstruction_pictures import comparison_table
    from bdfm_nnunet.results import write_result

    arms = each_once(((arm[0], [Path(file) for file in arm[1:]]) for arm in settings.arm), "--arm", "the arm")
    result = compare_arms(arms)
    if settings.out is not None:
        write_result(settings.out, result)
    print(comparison_table(result))
    return 0
