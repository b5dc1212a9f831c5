"""`bdfm releases`, `convert`, `cohort`, `splits` and `submit`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet import api
from bdfm_nnunet.commands.arguments import (
    EXIT_REFUSED,
    Add,
    SwitchOnce,
    command,
    count,
    dataset,
    each_once,
    label_names,
    names,
    options_given,
    pair,
    percentage,
    percentages,
    workers,
)
from bdfm_nnunet.commands.dicom_options import DICOM, OPTIONS, add_dicom_options, dicom_arguments
from bdfm_nnunet.commands.run_options import (
    FMRI_FOLDER,
    add_run_options,
    given_for_runs,
    own_run_entry,
    run_arguments,
)
from bdfm_nnunet.commands.scores import scored_set, scored_target
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.safe_names import printable

if TYPE_CHECKING:
    from bdfm_nnunet.dataset_conversion import Release

MOST_REASONS = 20


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    add = command(commands, "releases", releases, "list the data-set releases that can be converted")
    add("name", nargs="?", metavar="NAME", help="show this release in full")
    add("--json", action="store_true", help="print the table as JSON")

    _convert_options(command(commands, "convert", convert, "turn a downloaded release into an nnU-Net data set"))

    add = command(commands, "cohort", cohort, "merge converted data sets into one unlabelled pre-training data set")
    dataset(add)
    add("sources", nargs="+", metavar="SOURCE", help="number, name or folder of a converted data set")
    add(
        "--name", default="Cohort", metavar="NAME", help="the part of its name after DatasetXXX_ (default: %(default)s)"
    )
    add(
        "--channels",
        choices=("single", "all"),
        default="single",
        help="single: every modality becomes a case; all: cases keep their channels (default: %(default)s)",
    )
    add(
        "--allowed-by",
        metavar="RULES",
        help="leave out the cases that these rules on weights forbid (of `bdfm rules`, or a .json file)",
    )
    workers(add)

    _splits_options(command(commands, "splits", splits, "make or check cross-validation and label-fraction splits"))

    add = command(commands, "submit", submit, "pack predictions as the challenge wants them")
    add("predictions", type=Path, metavar="PREDICTIONS", help="folder of predicted label maps, CASE.nii.gz")
    scored_set(add)
    add("-o", "--out", required=True, type=Path, metavar="ZIP", help="the archive; a report lies beside it")
    add(
        "--images", type=Path, metavar="FOLDER", help="the challenge's images: their ids are required, their grids held"
    )
    workers(add)


# ----------------------------------------------------------------------------------------------------- releases


def releases(settings: argparse.Namespace) -> int:
    """List the releases that can be converted, or show one."""
    from bdfm_nnunet.dataset_conversion import RELEASES, find_release

    chosen = list(RELEASES.values()) if settings.name is None else [find_release(settings.name)]
    if settings.json:
        print(json.dumps([release.as_dict() for release in chosen], indent=2))
    elif settings.name is None:
        width = max(map(len, RELEASES))
        print("\n".join(f"{release.name:<{width}}  {release.title}" for release in chosen))
    else:
        print(chosen[0].describe())
    return 0


# ------------------------------------------------------------------------------------------------------ convert


def _convert_options(add: Add) -> None:
    add("release", metavar="RELEASE", help="name of the release, see `bdfm releases`")
    add("source", type=Path, metavar="SOURCE", help="the unpacked download; folders may be nested in any way")
    dataset(add)
    add("--unlabelled", action="store_true", help="for pre-training: brain masks as labels, cases need no segmentation")
    add("--channels", type=names, metavar="A,B", help="take these channels, in this order")
    add("--only", metavar="REGEX", help="take only the cases whose whole id matches")
    add(
        "--link", choices=("copy", "hard", "sym"), default="copy", help="how unchanged files are placed (default: copy)"
    )
    workers(add)
    add("--scheduler", metavar="ADDRESS", help="a Dask scheduler that runs the work instead of processes here")
    add("--dry-run", action="store_true", help="check every case and write the manifest alone")
    add("--manifest", type=Path, metavar="FILE", help="where --dry-run writes it (default: the current folder)")
    add(
        "--strict",
        action=SwitchOnce,
        default=True,
        help="end with exit code 3 if a case was refused; the good ones are written all the same",
    )
    add(
        "--entry",
        type=Path,
        metavar="FILE.json",
        help="a table entry of your own in place of the release's; `bdfm releases NAME --json` prints one to edit",
    )
    _own_data_options(add)
    add_run_options(add)
    add_dicom_options(add)


def _own_data_options(add: Add) -> None:
    add(
        "--image",
        action="append",
        default=[],
        type=pair,
        metavar="CHANNEL=PATTERN",
        help="for `folder` and `fmri-folder`: where the files of a channel lie, for instance t1='**/{case}/{case}_T1'",
    )
    add(
        "--label",
        metavar="PATTERN",
        help="label files: for `folder` where they lie, for `bids` what ends their names, such as label-lesion_mask",
    )
    add(
        "--labels",
        action="append",
        default=[],
        metavar="VALUE=NAME,...",
        help="for `folder` and `bids`: label values and what they mean, such as 1=lesion,2=oedema; may be repeated",
    )
    add("--patient", metavar="REGEX", help="for `folder`, `fmri-folder`: finds the patient in a case id (its group 1)")
    add(
        "--name",
        metavar="NAME",
        help="for data of your own: the part of the data set's name after DatasetXXX_; --unlabelled appends Unlabelled",
    )


def convert(settings: argparse.Namespace) -> int:
    """Convert a release to an nnU-Net data set."""
    from bdfm_nnunet.allocator import keep_freed_memory

    keep_freed_memory()  # five large buffers a case
    own = _own_entry(settings)
    report = api.convert(
        own or settings.release,
        settings.source,
        dataset_id=settings.dataset,
        **_arguments(settings, own),
        channels=None if own and settings.release == "bids" else settings.channels,
        only=settings.only,
        workers=settings.workers,
        scheduler=settings.scheduler,
        dry_run=settings.dry_run,
        manifest=settings.manifest,
    )
    print(report.summary())
    refused = report.refused
    for record in refused[:MOST_REASONS]:
        print(f"  refused {printable(record.case)}: {printable(record.reason)}")
    if len(refused) > MOST_REASONS:
        print(f"  ... and {len(refused) - MOST_REASONS} more, see the manifest")
    for note in report.notes:
        print(f"note: {printable(note)}")
    print(f"manifest: {report.manifest}")
    return EXIT_REFUSED if refused and settings.strict else 0


def _arguments(settings: argparse.Namespace, own: "Release | None") -> dict[str, Any]:
    """Return the arguments that volumes, runs or DICOM series have of their own."""
    if _is_of_runs(settings, own):
        return run_arguments(settings)
    volumes = {"unlabelled": settings.unlabelled, "link": settings.link}
    return dicom_arguments(settings) if settings.release == DICOM else volumes


def _is_of_runs(settings: argparse.Namespace, own: "Release | None") -> bool:
    """Return whether a release of 4-D runs is meant; otherwise options for them are refused."""
    if settings.release.startswith("fmri-") if own is None else own.runs is not None:
        return True
    if given := given_for_runs(settings):
        raise InputError(f"{given[0]} cannot be used here: it is for 4-D runs, `bdfm convert fmri-...`")
    return False


def _own_entry(settings: argparse.Namespace) -> "Release | None":
    """Return the table entry that the options describe; None if the release's own is meant."""
    options = {
        "--image": settings.image, "--label": settings.label, "--labels": settings.labels,
        "--patient": settings.patient, "--name": settings.name,
        "--mask": settings.mask, "--confounds": settings.confounds, "--space": settings.space,
        "--series": settings.series, "--key": settings.key, "--resample": settings.resample,
    }  # fmt: skip
    given = [option for option, value in options.items() if value is not None and value != []]
    _check_places(given, settings)
    if settings.entry is not None:
        from bdfm_nnunet.dataset_conversion import Release
        from bdfm_nnunet.files import read_json

        return Release.from_dict(read_json(settings.entry))
    if settings.release.startswith("fmri-") and given:
        return own_run_entry(settings)
    if settings.release == "folder" and given:
        from bdfm_nnunet.dataset_conversion.reading.folder_layout import folder_release

        images = each_once(settings.image, "--image", "channel")
        return folder_release(images, **_label_options(settings), patient=settings.patient)
    if settings.release == "bids" and (given or settings.channels):
        from bdfm_nnunet.dataset_conversion.reading.bids_layout import bids_release

        return bids_release(settings.channels or ["T1w"], **_label_options(settings))
    return None


PLACES = {
    "--image": ("folder", FMRI_FOLDER),
    "--patient": ("folder", FMRI_FOLDER),
    "--name": ("folder", "bids", DICOM, FMRI_FOLDER),
    **dict.fromkeys(OPTIONS, (DICOM,)),
    **dict.fromkeys(("--label", "--labels"), ("folder", "bids")),
    **dict.fromkeys(("--mask", "--confounds"), (FMRI_FOLDER,)),
    "--space": ("fmri-fmriprep", "fmri-ucla", "fmri-tcp"),
}
"""Options that describe data of a user's own, and the names they go with."""


def _check_places(given: Sequence[str], settings: argparse.Namespace) -> None:
    for option in given:
        if settings.entry is not None:
            raise InputError(f"{option} cannot be used beside --entry: write into that file what it says")
        if settings.release not in PLACES[option]:
            of_runs = settings.release.startswith("fmri-")
            kin = [name for name in PLACES[option] if name.startswith("fmri-") == of_runs] or PLACES[option]
            raise InputError(
                f"{option} cannot be used here: it is for `bdfm convert {' or '.join(kin)}`, and the files "
                f"of {settings.release} are known"
            )


def _label_options(settings: argparse.Namespace) -> dict[str, Any]:
    labels = each_once([named for text in settings.labels for named in label_names(text)], "--labels", "label")
    named = {} if settings.name is None else {"name": settings.name}
    return {"label": settings.label, "labels": labels or None, **named}


# ------------------------------------------------------------------------------------------------------- cohort


def cohort(settings: argparse.Namespace) -> int:
    """Merge converted data sets into one for pre-training."""
    from bdfm_nnunet.dataset_conversion.cohort import make_cohort_dataset

    report = make_cohort_dataset(
        settings.dataset,
        settings.sources,
        name=settings.name,
        channels=settings.channels,
        allowed_by=settings.allowed_by,
        workers=settings.workers,
    )
    print(report.summary())
    return 0


# ------------------------------------------------------------------------------------------------------- splits


def _splits_options(add: Add) -> None:
    dataset(add)
    add("--folds", type=count, default=5, metavar="K", help="number of folds (default: %(default)s)")
    add(
        "--fractions",
        type=percentages,
        default=[1.0],
        metavar="P,Q",
        help="label fractions in percent, for instance 1,5,10,20,50,100; each makes K folds more (default: 100)",
    )
    add("--seed", type=int, default=12345, metavar="N", help="seed (default: %(default)s)")
    add("--sites", type=Path, metavar="TABLE.csv", help="sites of cases or patients: two columns, id and site")
    add("--patients", metavar="REGEX", help="finds the patient in a case id (its group 1), without a manifest")
    add(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="stratify by this target of `bdfm targets`, too; cases without any are in no fold; may be repeated",
    )
    add(
        "--external",
        action="append",
        default=[],
        metavar="SITE",
        help="keep the patients of this site (or GROUPING=VALUE of `bdfm targets --group`) out of all folds, as a test "
        "set outside the distribution; may be repeated",
    )
    add("--test", type=percentage, default=0.0, metavar="P", help="keep P %% of the patients out, too, as a test set")
    add("--overwrite", action="store_true", help="replace other splits; folds trained on them are then worthless")
    add("--check", action="store_true", help="check the splits that are there; exit code 3 where a patient leaks")


def _check_alone(settings: argparse.Namespace) -> None:
    """Refuse options that change splits beside --check, which only reads them."""
    others = options_given(settings, ("folds", "fractions", "seed", "sites", "test"))
    others += [f"--{name}" for name in ("target", "external") if getattr(settings, name)]
    others += ["--overwrite"] if settings.overwrite else []
    if others:
        raise InputError(f"--check only looks at the splits that are there: leave out {' and '.join(others)}")


def splits(settings: argparse.Namespace) -> int:
    """Make or check splits_final.json."""
    from bdfm_nnunet.dataset_conversion.split_checks import check_splits
    from bdfm_nnunet.dataset_conversion.splits import make_splits

    if settings.check:
        _check_alone(settings)
        check = check_splits(settings.dataset, patients=settings.patients)
        print(check.summary())
        return EXIT_REFUSED if check.faults else 0
    report = make_splits(
        settings.dataset,
        folds=settings.folds,
        fractions=settings.fractions,
        seed=settings.seed,
        sites=settings.sites,
        patients=settings.patients,
        targets=settings.target,
        external=settings.external,
        test=settings.test,
        overwrite=settings.overwrite,
    )
    print(report.summary())
    return 0


# --------------------------------------------------------------------------------------------------- submission


def submit(settings: argparse.Namespace) -> int:
    """Pack predictions for a challenge."""
    from bdfm_nnunet.dataset_conversion.submission import make_submission

    report = make_submission(
        settings.predictions,
        release=_form(settings),
        out=settings.out,
        images=settings.images,
        workers=settings.workers,
    )
    print(report.summary())
    return 0


def _form(settings: argparse.Namespace) -> "Release":
    """Return the release of the challenge; for a user's own data set, plain names and the source's label values."""
    from bdfm_nnunet.dataset_conversion import Release, find_release

    target = scored_target(settings)
    if settings.release is not None:
        return find_release(settings.release)
    if settings.images is None:
        raise InputError(f"{target.name} has no grid of its own: name the folder of its images with --images")
    values = {value for region in target.regions.values() for value in region} - {0}
    sources = {target.source_values.get(value, value): value for value in values}
    return Release(
        name=target.name, title=target.name, dataset_name=target.name, case_pattern=".+", patient_pattern="",
        channels={}, labels={source: str(source) for source in sources}, label_map=sources,
        submission_name="{case}.nii.gz",
    )  # fmt: skip
