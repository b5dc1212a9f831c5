"""The way from scans to scores in Python: `convert`, `plan`, `pretrain`, `finetune`, `predict`, `evaluate`.

They are what the `bdfm` commands call, by the same names and with the same defaults, and are importable from
`bdfm_nnunet` itself. nnU-Net reads its folders (`nnUNet_raw`, `nnUNet_preprocessed`, `nnUNet_results`) from the
environment when it is first imported: set them before the first call. Everything heavy is imported by the call that
needs it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import changed_environment, dataset_folders, nnunet_folder

if TYPE_CHECKING:
    from bdfm_nnunet.dataset_conversion import ConversionReport, Release
    from bdfm_nnunet.evaluation.scored_regions import Target

PLANS, CONFIGURATION = "BDFMPlans", "3d_fullres"
WEIGHTS = "BDFM_WEIGHTS"


def convert(
    release: "str | Release", source: str | os.PathLike[str], *, dataset_id: int, **settings: Any
) -> "ConversionReport":
    """Turn a download, or a folder of scans, into a data set in nnUNet_raw, as `bdfm convert` does.

    Args:
        release: its name (`bdfm releases` lists them; `folder` and `bids` are for data of your own), or an entry of
            your own.
        source: folder of the unpacked download.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        settings: further arguments of `dataset_conversion.convert_release` such as `unlabelled` or `workers`, of
            `convert_runs` for 4-D runs, or of `convert_dicom` for `dicom`.

    Returns:
        What became of every case.

    Raises:
        InputError: the release is not known, the source holds nothing of it, or the number is taken.

    Example:
        >>> import os
        >>> from bdfm_nnunet.data.demo import make_cohort
        >>> _ = make_cohort(Path("download"), cases=2, seed=1, spacing=6.0)
        >>> os.environ["nnUNet_raw"] = "raw"
        >>> report = convert("brats2023-gli", "download", dataset_id=501)
        >>> sorted(path.name for path in Path("raw/Dataset501_BraTS2023GLI/labelsTr").iterdir())
        ['BraTS-GLI-00000-000.nii.gz', 'BraTS-GLI-00001-000.nii.gz']
    """
    from bdfm_nnunet.dataset_conversion import convert

    return convert(release, source, dataset_id=dataset_id, **settings)


def plan(
    dataset_id: int,
    *,
    variant: str | None = None,
    base: str | None = None,
    settings: Mapping[str, Any] | None = None,
    plans_name: str = PLANS,
    **planning: Any,
) -> Path:
    """Plan a network for a data set and preprocess its images, or add a variant to its plans, as `bdfm plan` does.

    Args:
        dataset_id: number of the data set.
        variant: name of a configuration to add to existing plans; nothing is planned anew then.
        base: configuration that the variant starts from, by default the planned one.
        settings: of the variant, by the names that docs/settings.md lists, such as `{"training.epochs": 100}`.
        plans_name: name of the plans file.
        planning: further arguments of `plans.plan_dataset`, such as `network`, `gpu_memory` or `weights` (a file, or
            `last:901` for the last finished pre-training of data set 901).

    Returns:
        The plans file.

    Raises:
        InputError: a folder of nnU-Net is not set, the data set is missing or faulty, or a setting does not exist.

    Example:
        >>> import os
        >>> os.environ["nnUNet_preprocessed"] = "preprocessed"
        >>> plan(501, variant="short", network="swin")
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: network cannot go with variant: plan the data set first, ...
    """
    nnunet_folder("nnUNet_preprocessed")
    if variant is None:
        if settings or base is not None:
            raise InputError("settings and base need a variant: name the configuration that they make")
        from bdfm_nnunet.plans import plan_dataset

        return plan_dataset(dataset_id, plans_name=plans_name, **planning)
    if planning:
        given = next(iter(planning))
        raise InputError(f"{given} cannot go with variant: plan the data set first, then add the variant")
    from bdfm_nnunet.plans import add_variant

    return add_variant(dataset_id, plans_name=plans_name, variant=variant, base=base, settings=settings or {})


def pretrain(
    dataset_id: int,
    *,
    configuration: str = CONFIGURATION,
    fold: int | str = "all",
    trainer: str = "nnUNetTrainerBDFMPretrain",
    plans_name: str = PLANS,
    device: str | None = None,
    resume: bool = False,
    max_hours: float | None = None,
) -> Path:
    """Pre-train a planned network without labels, in this process, as `bdfm train` does.

    Args:
        dataset_id: number of the planned data set.
        configuration: configuration of its plans, or a variant.
        fold: fold of the splits, or "all".
        trainer: a pre-training trainer, such as nnUNetTrainerBDFMPretrain, nnUNetTrainerSimCLR or nnUNetTrainerFrepa.
        plans_name: name of the plans.
        device: "cuda", "cpu" or "mps"; by default the fastest there is.
        resume: go on from the last checkpoint of this training.
        max_hours: save and end before this many hours are over.

    Returns:
        The checkpoint, for `finetune` and for `plan(..., weights=...)`.

    Raises:
        InputError: the data set is not planned, or something in it cannot be used.
        SystemExit: the training was paused by a signal or by `max_hours`; `resume` goes on.
    """
    named = (dataset_id, configuration, fold, trainer, plans_name)
    return _train(*named, weights=None, device=device, resume=resume, max_hours=max_hours)


def finetune(
    dataset_id: int,
    *,
    weights: str | os.PathLike[str] | None,
    configuration: str = CONFIGURATION,
    fold: int | str = 0,
    trainer: str = "nnUNetTrainerBDFM",
    plans_name: str = PLANS,
    device: str | None = None,
    resume: bool = False,
    max_hours: float | None = None,
) -> Path:
    """Train a planned network on labels, from pre-trained weights, in this process, as `bdfm train` does.

    Args:
        dataset_id: number of the planned data set.
        weights: checkpoint to start from, of any project that docs/weights.md lists, or `last:901` for the last
            finished pre-training of data set 901; "none" trains from scratch, None takes what the plans name.
        configuration: configuration of its plans, or a variant.
        fold: fold of the splits, or "all".
        trainer: nnUNetTrainerBDFM for segmentation, or one of whole subjects.
        plans_name: name of the plans.
        device: "cuda", "cpu" or "mps"; by default the fastest there is.
        resume: go on from the last checkpoint of this training.
        max_hours: save and end before this many hours are over.

    Returns:
        The checkpoint; `predict` takes it as its model.

    Raises:
        InputError: the data set is not planned, the weights do not fit, or something in them cannot be used.
        SystemExit: the training was paused by a signal or by `max_hours`; `resume` goes on.
    """
    named = (dataset_id, configuration, fold, trainer, plans_name)
    start = None if weights is None else os.fspath(weights)
    return _train(*named, weights=start, device=device, resume=resume, max_hours=max_hours)


def _train(
    dataset_id: int,
    configuration: str,
    fold: int | str,
    trainer: str,
    plans_name: str,
    *,
    weights: str | None,
    device: str | None,
    resume: bool,
    max_hours: float | None,
) -> Path:
    from bdfm_nnunet.train import build_parser, run

    arguments = [str(dataset_id), configuration, str(fold), "-tr", trainer, "-p", plans_name]
    arguments += ["-device", _device(device), *(["--c"] if resume else [])]
    arguments += [] if max_hours is None else ["--max-hours", str(max_hours)]
    with changed_environment({} if weights is None else {WEIGHTS: weights}):
        return run(build_parser().parse_args(arguments)) / "checkpoint_final.pth"


def _device(name: str | None) -> str:
    from bdfm_nnunet.training.calibration import find_device

    return find_device(name).type


def predict(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str],
    folds: Sequence[int | str] | None = None,
    device: str | None = None,
    mirroring: bool = True,
    probabilities: bool = False,
    resume: bool = False,
) -> list[Path]:
    """Segment a folder of images, as `bdfm predict` does.

    Args:
        images: folder of files CASE_0000.nii.gz, CASE_0001.nii.gz ..., one per channel.
        out: folder of the segmentations CASE.nii.gz.
        model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results, of ours or of stock nnU-Net, or a checkpoint in
            one of its folds, as `finetune` returns it.
        folds: folds whose probabilities are averaged; by default that of the checkpoint, or all finished ones.
        device: "cuda", "cpu" or "mps"; by default the fastest there is.
        mirroring: average over mirrored copies, where the training mirrored.
        probabilities: write them too.
        resume: leave out the cases whose segmentation is there.

    Returns:
        The segmentations.

    Raises:
        InputError: the model or the images cannot be used; cases that can be are written all the same.
    """
    from bdfm_nnunet.commands.predict import predict

    folder, chosen, name = _model(Path(model), folds)
    arguments = ["-i", os.fspath(images), "-o", os.fspath(out), "-m", str(folder), "-f", *map(str, chosen)]
    arguments += ["-chk", name, "-device", _device(device)]
    switches = {"--disable_tta": not mirroring, "--save_probabilities": probabilities, "--continue_prediction": resume}
    predict([*arguments, *(switch for switch, given in switches.items() if given)])
    from bdfm_nnunet.nnunet_files import read_dataset_json

    return sorted(Path(out).glob(f"*{read_dataset_json(folder / 'dataset.json')['file_ending']}"))


def _model(path: Path, folds: Sequence[int | str] | None) -> tuple[Path, list[int | str], str]:
    """Return the folder of a training, its folds and the name of their checkpoints."""
    name = "checkpoint_final.pth"
    if path.is_file():
        fold = path.parent.name.partition("_")[2]
        return path.parents[1], list(folds) if folds is not None else [fold], path.name
    if folds is None:
        folds = sorted(found.parent.name.partition("_")[2] for found in path.glob(f"fold_*/{name}"))
        folds = [fold for fold in folds if fold != "all"] or folds
    if not folds:
        raise InputError(f"{path} holds no fold with a {name}: name the folder TRAINER__PLANS__CONFIGURATION of one")
    return path, list(folds), name


def evaluate(
    reference: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    *,
    release: str | None = None,
    dataset_id: int | None = None,
    dataset_json: str | os.PathLike[str] | None = None,
    source_labels: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Score predictions per region and case, with intervals, as `bdfm evaluate` does.

    Args:
        reference: folder of reference label maps.
        prediction: folder of predicted label maps of the same names.
        release: whose labels and regions are meant: those of a release, or
        dataset_id: those of a data set in nnU-Net's folders, or
        dataset_json: those of this file. Exactly one of the three is given.
        source_labels: the files hold the source's own labels, not nnU-Net's.
        settings: further arguments of `evaluation.evaluate_folders`, such as `metrics`, `out` or `workers`.

    Returns:
        The scores, as the JSON file holds them, see `evaluate_folders`.

    Raises:
        InputError: none or several of the three are given, or a file cannot be scored.

    Example:
        >>> scores = evaluate("labels", "predictions", release="brats2023-gli")
        >>> scores["cases"][1]["regions"]["whole_tumor"]["dice"]
        0.875
    """
    from bdfm_nnunet.evaluation import evaluate_folders

    target = scored_target(release=release, dataset_id=dataset_id, dataset_json=dataset_json)
    target = target.in_source_values() if source_labels else target
    return evaluate_folders(
        Path(reference), Path(prediction), regions=target.regions, release=target.name, ignore=target.ignore, **settings
    )


def scored_target(
    *,
    release: str | None = None,
    dataset_id: int | None = None,
    dataset_json: str | os.PathLike[str] | None = None,
) -> "Target":
    """Return the labels and regions that are scored, said in exactly one of three ways.

    Args:
        release: a release that `bdfm releases` lists.
        dataset_id: a data set in nnU-Net's folders, by its dataset.json.
        dataset_json: any data set, by this file.

    Raises:
        InputError: none or several of them are given, or the data set cannot be scored.

    Example:
        >>> sorted(scored_target(release="brats2023-gli").regions)
        ['enhancing_tumor', 'tumor_core', 'whole_tumor']
    """
    if sum(value is not None for value in (release, dataset_id, dataset_json)) != 1:
        raise InputError(
            "whose labels and regions are meant is said once: with --release NAME, with -d ID, or with --dataset-json "
            "FILE",
            entry="whose-labels",
        )
    if release is None:
        return _target_of_dataset(dataset_json_of(dataset_id) if dataset_json is None else Path(dataset_json))
    from bdfm_nnunet.dataset_conversion import find_release
    from bdfm_nnunet.evaluation.scored_regions import Target

    found = find_release(release)
    if not found.evaluated_regions:
        raise InputError(
            f"{found.name} stands for data sets with labels of their own: name yours with -d ID or --dataset-json"
        )
    return Target(found.name, dict(found.evaluated_regions), source_values=found.inverse_label_map())


def dataset_json_of(dataset_id: int | None) -> Path:
    """Return the dataset.json of a data set in nnU-Net's folders; where there is none, where it would be."""
    paths = [folder / "dataset.json" for folder in dataset_folders(int(dataset_id or 0))]
    return next((path for path in paths if path.exists()), paths[0])


def _target_of_dataset(path: Path) -> "Target":
    from bdfm_nnunet.evaluation.scored_regions import target_of_dataset
    from bdfm_nnunet.nnunet_files import read_dataset_json
    from bdfm_nnunet.patients import OPEN_RELEASES

    content = read_dataset_json(path)
    release = content.get("release")
    name = release if isinstance(release, str) and release not in OPEN_RELEASES else content.get("name")
    values = _source_values(path.parent)
    return target_of_dataset(content, name=str(name or path.parent.name), path=str(path), source_values=values)


def _source_values(folder: Path) -> dict[int, int]:
    """Map label values to those of the source's files, from the manifest of `bdfm convert` if there is one."""
    from bdfm_nnunet.files import read_json
    from bdfm_nnunet.patients import MANIFEST

    if not (folder / MANIFEST).is_file():
        return {}
    inverse = read_json(folder / MANIFEST, {"inverse_labels?": {str: int}}).get("inverse_labels", {})
    return {int(value): there for value, there in inverse.items() if value.isdecimal()}
