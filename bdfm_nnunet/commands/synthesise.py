"""`bdfm synthesise`."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import Add, command, count, dataset, each_once, label_names, names, whole, workers
from bdfm_nnunet.safe_names import printable

_SAME = (
    "lesions", "cavities", "label_lesions", "skull_strip", "spacing", "warp", "bias", "noise", "thickest_slice", "seed",
)  # fmt: skip
"""Options that are settings of the same name."""


def add_commands(commands: Any) -> None:
    """Add the parser."""
    add = command(commands, "synthesise", synthesise, "draw images from label maps: any contrast, lesions, scanners")
    add("maps", type=Path, metavar="LABELS", help="folder of label maps, NIfTI; each counts as a patient")
    dataset(add)
    add("-n", "--images", required=True, type=count, metavar="N", help="number of images to draw")
    add(
        "--name", default="MadeUp", metavar="NAME", help="the part of its name after DatasetXXX_ (default: %(default)s)"
    )
    add("--channels", type=names, default=["mri"], metavar="A,B", help="channels of each image (default: mri)")
    add("--tissues", metavar="TABLE", help="what the labels are: `head` for FreeSurfer's numbers, or a JSON file")
    add(
        "--contrasts",
        choices=("named", "free"),
        help="named: about the contrast that a channel is called after (t1, t1c, t2, flair); free: any contrast "
        "(default: named with --tissues and such names)",
    )
    add(
        "--labels",
        action="append",
        default=[],
        metavar="VALUE=CLASS,...",
        help="labels to learn, several may share a class; may be repeated (default: brain or head, for pre-training)",
    )
    add("--lesions", type=float, default=0.0, metavar="SHARE", help="share of the images with tumours (default: 0)")
    add(
        "--cavities",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of them with a resection cavity (default: 0)",
    )
    add("--label-lesions", action="store_true", help="learn necrosis, oedema, enhancing tumour and cavities too")
    _image_options(add)
    add("--seed", type=whole, default=0, metavar="N", help="seed of everything random (default: %(default)s)")
    workers(add)
    add("--scheduler", metavar="ADDRESS", help="a Dask scheduler that runs the work instead of processes here")


def _image_options(add: Add) -> None:
    add("--skull-strip", action="store_true", help="leave the brain alone")
    add("--spacing", type=float, default=0.0, metavar="MM", help="of the images (default: that of the maps)")
    add("--warp", type=float, default=3.0, metavar="MM", help="strength of random deformations (default: %(default)g)")
    add("--bias", type=float, default=0.2, metavar="S", help="strength of the bias field (default: %(default)g)")
    add(
        "--noise",
        type=float,
        default=0.05,
        metavar="S",
        help="largest noise beside white matter (default: %(default)g)",
    )
    add(
        "--thickest-slice",
        type=float,
        default=4.0,
        metavar="MM",
        help="half of the channels look as if acquired in slices up to that thick; 0: none (default: %(default)g)",
    )


def synthesise(settings: argparse.Namespace) -> int:
    """Draw images from label maps."""
    from bdfm_nnunet.synthesis.made_up_cohort import synthesise as draw
    from bdfm_nnunet.synthesis.synthesis_settings import SynthesisSettings, has_contrasts
    from bdfm_nnunet.synthesis.tissue_tables import read_tissues

    tissues = read_tissues(settings.tissues) if settings.tissues else {}
    named: Any = "named" if tissues and has_contrasts(settings.channels) else "free"
    classes = each_once([each for text in settings.labels for each in label_names(text)], "--labels", "label")
    report = draw(
        settings.maps,
        dataset_id=settings.dataset,
        images=settings.images,
        name=settings.name,
        workers=settings.workers,
        scheduler=settings.scheduler,
        settings=SynthesisSettings(
            channels=tuple(settings.channels),
            tissues=tissues,
            contrasts=settings.contrasts or named,
            classes=classes,
            **{name: getattr(settings, name) for name in _SAME},
        ),
    )
    patients = len({record.patient for record in report.records})
    print(f"{report.folder.name}: {len(report.records)} images of {patients} label maps")
    for note in report.notes:
        print(f"note: {printable(note)}")
    print(f"manifest: {report.manifest}")
    return 0
