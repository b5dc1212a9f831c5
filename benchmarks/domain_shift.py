"""Images for the study of domain shift, drawn from label maps of whole heads, and its scores by contrast.

    python benchmarks/domain_shift.py draw LABELS
    bdfm plan -d 821 --network resenc -p BDFMResEncPlans
    python benchmarks/domain_shift.py narrow
    bdfm study docs/studies/domain_shift.toml -o studies/domain_shift
    python benchmarks/domain_shift.py table studies/domain_shift [--figure FILE.png]

LABELS holds at least 16 label maps with FreeSurfer's numbers. Of the first 12 heads, in the order of their names, data
set 821 gets one T1-like image each; of the last 4, data set 822 gets a T1-like, a T2-like and a FLAIR-like one of the
same anatomy. All have one channel, called mri: a network cannot know which sequence it sees. `narrow` writes plans with
a residual encoder of 8 to 64 channels and crops of 32 voxels an axis, which a processor trains in minutes.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from narrow_plans import narrow

from bdfm_nnunet.evaluation.crossed_bootstrap import CROSSED_INTERVAL, summarise_crossed
from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.synthesis.head_maps import find_maps
from bdfm_nnunet.synthesis.made_up_cohort import synthesise
from bdfm_nnunet.synthesis.synthesis_settings import SynthesisSettings
from bdfm_nnunet.synthesis.tissue_tables import read_tissues

TRAINED, CONTRASTS = "T1", ("T1", "T2", "FLAIR")
TRAINING, TEST = "Dataset821_HeadsT1", "Dataset822_HeadsShifted"
HEADS, TEST_HEADS = 12, 4
PLANS, NARROW = "BDFMResEncPlans", "NarrowPlans"
CLASSES = {
    **dict.fromkeys((2, 41), "white"),
    **dict.fromkeys((3, 42), "cortex"),
    **dict.fromkeys((10, 11, 12, 13, 49, 50, 51, 52), "deep"),
    **dict.fromkeys((4, 43), "ventricle"),
}


def draw(maps: Path, *, spacing: float) -> None:
    """Draw both data sets into nnUNet_raw."""
    found = [maps / path.name for path in find_maps(maps).values()]
    if len(found) < HEADS + TEST_HEADS:
        raise SystemExit(f"{maps} has {len(found)} label maps, {HEADS + TEST_HEADS} are needed")
    raw = nnunet_folder("nnUNet_raw")
    for folder in (TRAINING, TEST):
        if (raw / folder).exists():
            raise SystemExit(f"{raw / folder} is there already: remove it to draw it anew")
    for folder, heads, contrasts in (
        (TRAINING, found[:HEADS], (TRAINED,)),
        (TEST, found[-TEST_HEADS:], CONTRASTS),
    ):
        with tempfile.TemporaryDirectory(dir=raw) as scratch:
            _separate(_drawn(heads, contrasts, Path(scratch), spacing=spacing), raw / folder, contrasts)


def _drawn(heads: Sequence[Path], contrasts: Sequence[str], scratch: Path, *, spacing: float) -> Path:
    """Draw images with a channel for each contrast, and return their folder."""
    links = scratch / "maps"
    links.mkdir()
    for path in heads:
        (links / path.name).symlink_to(path.absolute())
    settings = SynthesisSettings(
        channels=tuple(contrasts),
        tissues=read_tissues("head"),
        contrasts="named",
        classes=CLASSES,
        skull_strip=True,
        spacing=spacing,
        thickest_slice=0.0,
    )
    before = os.environ["nnUNet_raw"]
    os.environ["nnUNet_raw"] = str(scratch)
    try:
        return synthesise(links, dataset_id=1, images=len(heads), settings=settings).folder
    finally:
        os.environ["nnUNet_raw"] = before


def _separate(drawn: Path, target: Path, contrasts: Sequence[str]) -> None:
    """Make every channel a case of its own."""
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(parents=True)
    for label in sorted((drawn / "labelsTr").glob("*.nii.gz")):
        case = label.name.removesuffix(".nii.gz")
        for number, contrast in enumerate(contrasts):
            shutil.copy(
                drawn / "imagesTr" / f"{case}_{number:04d}.nii.gz",
                target / "imagesTr" / f"{case}_{contrast}_0000.nii.gz",
            )
            shutil.copy(label, target / "labelsTr" / f"{case}_{contrast}.nii.gz")
    told = json.loads((drawn / "dataset.json").read_text(encoding="utf-8"))
    cases = len(list((target / "labelsTr").iterdir()))
    kept = {name: told[name] for name in ("labels", "file_ending", "overwrite_image_reader_writer")}
    write_json(target / "dataset.json", {"channel_names": {"0": "mri"}, **kept, "numTraining": cases})


def scores_by_contrast(study: Path) -> dict[str, dict[str, Any]]:
    """Return arm -> contrast -> Dice, (seeds, regions, images), in the same order for all arms."""
    entries = json.loads((study / "study.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(entry["arm"] for entry in entries):
        found[arm] = {}
        for contrast in CONTRASTS:
            mine = [e for e in entries if e["arm"] == arm and e["case"].endswith(f"_{contrast}")]
            axes = [sorted({e[name] for e in mine}) for name in ("seed", "region", "case")]
            table = np.full([len(each) for each in axes], np.nan)
            for e in mine:
                place = tuple(each.index(e[name]) for each, name in zip(axes, ("seed", "region", "case"), strict=True))
                table[place] = np.nan if e["dice"] is None else e["dice"]
            found[arm][contrast] = {"dice": table, "regions": axes[1], "heads": [c.rsplit("_", 2)[0] for c in axes[2]]}
    return found


def table(study: Path) -> str:
    """Return the mean Dice of every arm and contrast, and its difference from the first arm, as a table."""
    scores = scores_by_contrast(study)
    first = next(iter(scores))
    lines = ["| arm | " + " | ".join(CONTRASTS) + " |", "|---" * (len(CONTRASTS) + 1) + "|"]
    for arm, contrasts in scores.items():
        cells = []
        for contrast, each in contrasts.items():
            mean = np.nanmean(each["dice"], axis=1)
            cell = f"{np.nanmean(mean):.3f}"
            if arm != first:
                change = summarise_crossed(
                    mean - np.nanmean(scores[first][contrast]["dice"], axis=1), patients=each["heads"]
                )
                cell += f" ({change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}])"
            cells.append(cell)
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"In brackets the difference from {first}: {CROSSED_INTERVAL}."])


def figure(study: Path, path: Path) -> None:
    """Draw the mean Dice of every arm by contrast, a point for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scores = scores_by_contrast(study)
    drawn, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for number, (arm, contrasts) in enumerate(scores.items()):
        for place, contrast in enumerate(CONTRASTS):
            seeds = np.nanmean(contrasts[contrast]["dice"], axis=(1, 2))
            where = place + (number - (len(scores) - 1) / 2) * 0.15
            axes.bar(where, seeds.mean(), 0.13, color=f"C{number}", label=arm if not place else None)
            axes.scatter([where] * len(seeds), seeds, color="black", s=6, zorder=2)
    axes.set_xticks(range(len(CONTRASTS)), [f"{name}-like" for name in CONTRASTS])
    axes.set_ylabel("mean Dice of 4 structures")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=7, ncols=2)
    drawn.savefig(path, dpi=110)


def main() -> None:
    """Draw the images, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    add = commands.add_parser("draw")
    add.add_argument("maps", type=Path, metavar="LABELS")
    add.add_argument("--spacing", type=float, default=3.5, metavar="MM")
    commands.add_parser("narrow")
    add = commands.add_parser("table")
    add.add_argument("study", type=Path)
    add.add_argument("--figure", type=Path)
    chosen = parser.parse_args()
    if chosen.what == "draw":
        draw(chosen.maps, spacing=chosen.spacing)
        return
    if chosen.what == "narrow":
        narrow(TRAINING, PLANS, NARROW)
        return
    print(table(chosen.study))
    if chosen.figure:
        figure(chosen.study, chosen.figure)


if __name__ == "__main__":
    main()
