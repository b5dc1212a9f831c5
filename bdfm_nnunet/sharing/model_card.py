"""The page about weights, in the form that model hubs show (README.md)."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from bdfm_nnunet.checkpoints.citations import title_of
from bdfm_nnunet.results import RunResult
from bdfm_nnunet.sharing.weight_description import WeightDescription, told_network, told_plans

LICENCES = {
    "cc by 4.0": "cc-by-4.0", "cc by-sa 4.0": "cc-by-sa-4.0", "cc by-nc 4.0": "cc-by-nc-4.0", "cc0": "cc0-1.0",
    "cc by-nc-sa 4.0": "cc-by-nc-sa-4.0", "mit": "mit", "apache-2.0": "apache-2.0", "gpl-3.0": "gpl-3.0",
}  # fmt: skip
"""Licences by the names that hubs have for them."""
_NO_SCORES = ("lrs", "seconds", "mean_fg_dice")


def model_card(weights: WeightDescription, *, name: str, sha256: str, result: RunResult | None = None) -> str:
    """Return the page in Markdown.

    Args:
        weights: the content of the folder.
        name: title.
        sha256: of model.safetensors.
        result: what the training has measured, if that is known.
    """
    sections = [
        _head(weights, name),
        ["## What it is", "", *_facts(weights, sha256)],
        ["## Data", "", *_data(weights)],
        ["## Challenges", "", *_rules(weights)],
        ["## Scores", "", *_scores(result)],
        ["## Use", "", *_use(weights)],
        ["## Cite", "", *[f"- {_line(text)}" for text in weights.citations or ["not stated"]]],
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _head(weights: WeightDescription, name: str) -> list[str]:
    known = LICENCES.get(weights.licence.lower(), "other")
    tags = ["brain-mri", "mri", "nnunet", "3d", *(title_of(method).lower() for method in weights.methods)]
    head = ["---", "library_name: bdfm_nnunet", f"license: {known}"]
    if known == "other":
        head.append(f"license_name: {json.dumps(_line(weights.licence) or 'not stated')}")
    return [*head, f"tags: {json.dumps(tags)}", "---", "", f"# {_line(name)}"]


def _facts(weights: WeightDescription, sha256: str) -> list[str]:
    epochs = "" if weights.epochs is None else f", {weights.epochs} epochs"
    rows = [
        ("network", told_network(weights.network)),
        ("method", f"{', '.join(map(title_of, weights.methods)) or weights.project}{epochs}"),
        ("trainer", weights.trainer or "not named"),
        ("settings", ", ".join(f"{key} {value}" for key, value in weights.settings.items()) or "defaults"),
        ("plans and images", told_plans(weights.plans) if weights.plans else "none in the file"),
        ("licence", weights.licence or "not stated; the licences of the data below may bind you"),
        ("model.safetensors", f"sha256 {sha256}"),
    ]
    return _table(("", ""), rows)


def _data(weights: WeightDescription) -> list[str]:
    rows = []
    for run in weights.seen["runs"]:
        releases = {**run.get("releases", {}), **{each: {} for each in run.get("whole", {})}}
        counted = f"{run['train']} / {run.get('val', 0)}" if "train" in run else "?"
        for number, (release, entry) in enumerate((releases or {"unknown": {}}).items()):
            rows.append((
                run.get("dataset", "?") if number == 0 else "", release, counted if number == 0 else "",
                entry.get("licence") or "not stated", ", ".join(entry.get("overlaps", ())) or "none known",
            ))  # fmt: skip
    header = ("data set", "release", "cases (training / validation)", "licence", "shares scans with")
    told = [f"- {_line(gap)}" for gap in weights.gaps]
    return [*(_table(header, rows) if rows else []), *(["", "Not known:", "", *told] if told else [])]


def _rules(weights: WeightDescription) -> list[str]:
    rows = [(each["title"], each["rule"], each["answer"], each["why"]) for each in weights.rules]
    return [
        "What is known of the rules, applied to the record of the training data. Ask the organisers.",
        "",
        *_table(("challenge", "allows", "these weights", "because"), rows),
    ]


def _scores(result: RunResult | None) -> list[str]:
    rows = []
    for region, measures in ((result.scores or {}).get("summary", {}) if result else {}).items():
        for measure, value in measures.items():
            rows.append((f"{region}, {measure}", _number(value.get("mean"))))
    for curve, values in ((result.curves or {}) if result else {}).items():
        if values and not curve.startswith(_NO_SCORES):
            rows.append((f"{curve}, last epoch", _number(values[-1])))
    return (
        _table(("of the training's own validation", ""), rows) if rows else ["None were found beside the checkpoint."]
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) and math.isfinite(value) else "-"


def _use(weights: WeightDescription) -> list[str]:
    commands = [
        "bdfm info FOLDER                        # all of this, from the files",
        "bdfm exposure FOLDER -d ID              # which cases of your data set it has seen",
        "bdfm plan -d ID --weights FOLDER        # plans that match it; bdfm train then starts from it",
        "BDFM_WEIGHTS=FOLDER bdfm train ID 3d_fullres 0 -tr nnUNetTrainerBDFM -p ANY_PLANS",
    ]
    python = ["from bdfm_nnunet.checkpoints import load_pretrained", "", 'report = load_pretrained(network, "FOLDER")']
    fits = ", ".join(weights.fits) or "none of them"
    return [
        f"With the package bdfm_nnunet; networks of `bdfm plan` that it fits: {fits}.",
        "", "```", *commands, "```", "", "```python", *python, "```", "",
        "Other tools read the weights with `safetensors.torch.load_file`; a tensor that nnU-Net's networks hold under "
        "several names has one.",
    ]  # fmt: skip


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_cell(value) for value in line) + " |" for line in lines]


def _cell(value: Any) -> str:
    return _line(str(value)).replace("|", "\\|")


def _line(text: str) -> str:
    """Return a text on one line and without HTML, for what other people have written."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(shown.replace("<", "&lt;").split())
