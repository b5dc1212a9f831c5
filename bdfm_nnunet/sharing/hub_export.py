"""A folder for a model hub from a checkpoint: model.safetensors, config.json and README.md."""

import json
import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet import __version__
from bdfm_nnunet.checkpoints.adaptation_plan import ADAPTATION_PLAN, CITATIONS
from bdfm_nnunet.checkpoints.hub_folder import WEIGHT_FILES
from bdfm_nnunet.checkpoints.last_training import SUMMARY
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.files import new_folder, write_json
from bdfm_nnunet.results import RunResult, read_result
from bdfm_nnunet.sharing.model_card import model_card
from bdfm_nnunet.sharing.weight_description import Describer

logger = logging.getLogger(__name__)

MODEL, CONFIG, CARD = WEIGHT_FILES[0], "config.json", "README.md"
SUMMARIES = (SUMMARY, "training_summary.json")
_KEPT = ("trainer_name", "current_epoch", "inference_allowed_mirroring_axes", ADAPTATION_PLAN, CITATIONS)
"""Entries of a checkpoint that config.json has as they are."""


def export_weights(
    path: str | Path, out: str | Path, *, name: str | None = None, licence: str | None = None, cases: bool = True
) -> Path:
    """Write weights, all that is known of them, and a page about them into a new folder.

    `checkpoints.read_checkpoint` reads the folder as it reads the checkpoint: the same weights bit for bit, plans and
    exposure. Tensors with several names are written once. The state of the optimiser and paths of this machine are left
    out.

    Args:
        path: whatever `checkpoints.read_checkpoint` reads.
        out: the folder; it must not exist, or be empty.
        name: title of the page; by default that of `out`.
        licence: of the weights; by default the one that the file states.
        cases: whether to list the ids of the cases that were seen, by which `bdfm exposure` recognises them.

    Returns:
        The folder.

    Raises:
        InputError: the file cannot be used as weights or is of a project whose files lose something on the way, or the
            folder exists or cannot be written.
    """
    from safetensors.torch import save_file

    describer, out = Describer.of(path), Path(out)
    config = config_of(describer, licence=licence, cases=cases)
    with new_folder(out) as folder:
        save_file(distinct(describer.checkpoint.weights), folder / MODEL, metadata={"format": "pt"})
        write_json(folder / CONFIG, config)
        (folder / MODEL).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody else read it
        exported = Describer.of(folder)  # what readers of the folder will see
        _check_same(describer, exported)
        told = replace(exported.description(), path=str(out / MODEL))
        card = model_card(told, name=name or out.resolve().name, sha256=told.sha256, result=_result_of(describer))
        (folder / CARD).write_text(card, encoding="utf-8")
    logger.info("wrote %s, %s and %s to %s", MODEL, CONFIG, CARD, out)
    return out


def distinct(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with one name for each tensor, the first, in memory of its own.

    Example:
        >>> import torch
        >>> one = torch.ones(2)
        >>> list(distinct({"encoder.weight": one, "decoder.encoder.weight": one, "bias": torch.ones(2)}))
        ['encoder.weight', 'bias']
    """
    found: dict[Any, str] = {}
    for name, value in weights.items():
        found.setdefault((value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else name, name)
    return {name: weights[name].contiguous().clone() for name in found.values()}


def config_of(describer: Describer, *, licence: str | None = None, cases: bool = True) -> dict[str, Any]:
    """Return the entries of a checkpoint beside its weights, in plain JSON types and without paths of this machine."""
    checkpoint, content = describer.checkpoint, describer.content
    config: dict[str, Any] = {"library_name": "bdfm_nnunet", "version": __version__}
    config |= {key: content[key] for key in _KEPT if content.get(key) is not None}
    if checkpoint.plans is not None:
        arguments = content.get("init_args", {})
        config["init_args"] = {
            "plans": without_paths(checkpoint.plans),
            "configuration": checkpoint.configuration,
            "fold": arguments.get("fold"),
            "dataset_json": without_files(arguments.get("dataset_json") or {}),
        }
    exposure = Exposure.of_checkpoint(checkpoint)
    if exposure.runs:
        config[EXPOSURE] = (exposure if cases else without_cases(exposure)).as_dict()
    if named := licence or checkpoint.licence:
        config["licence"] = named
    if CITATIONS not in config and describer.citations:
        config[CITATIONS] = describer.citations
    try:
        return dict(json.loads(json.dumps(config)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{checkpoint.path} has entries that no JSON file can hold ({error}): save it anew") from None


def _check_same(source: Describer, exported: Describer) -> None:
    """Refuse what would be read as something else, such as weights that only a container tells from others."""
    ours, theirs = exported.checkpoint, source.checkpoint
    orders = [
        (each.images, each.source_network.merging_order, each.source_network.legacy_attention,
         each.source_network.token_order) for each in (ours, theirs)
    ]  # fmt: skip
    weights = theirs.renamed.weights
    same = all(name in weights and torch.equal(value, weights[name]) for name, value in ours.renamed.weights.items())
    if not same or orders[0] != orders[1]:
        raise InputError(
            f"{theirs.path} is of the project {theirs.kind}, whose files say more of the weights by their packing: "
            "share that file itself"
        )


def without_paths(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return plans without the paths of the weights that a training started from.

    Example:
        >>> plans = {"configurations": {"c": {"finetuning": {"weights": "/home/me/a.pth", "min_match": 0.5}}}}
        >>> without_paths(plans)
        {'configurations': {'c': {'finetuning': {'min_match': 0.5}}}}
    """
    plain = deepcopy(dict(plans))
    configurations = plain.get("configurations", {})
    for configuration in configurations.values() if isinstance(configurations, dict) else ():
        if isinstance(configuration, dict):
            _drop(configuration.get("finetuning"), "weights", "weights_sha256")
            _drop(configuration.get("variant_settings"), "finetuning.weights")
    return plain


def without_files(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a dataset.json without its list of files.

    Example:
        >>> without_files({"labels": {"background": 0}, "dataset": {"p1": {"images": ["/home/me/p1.nii.gz"]}}})
        {'labels': {'background': 0}}
    """
    return {key: value for key, value in dataset.items() if key != "dataset"}


def _drop(table: Any, *names: str) -> None:
    for name in names if isinstance(table, dict) else ():
        table.pop(name, None)


def without_cases(exposure: Exposure) -> Exposure:
    """Return the runs without the ids, patients and digests of their cases, which a note counts.

    Example:
        >>> run = {"dataset": "Dataset501_Ward7", "train": {"case": ["p1", "p2"]}, "val": {"case": ["p3"]}}
        >>> without_cases(Exposure((run,))).runs
        ({'dataset': 'Dataset501_Ward7', 'note': '2 training and 1 validation cases, whose ids are not listed'},)
    """
    return Exposure(tuple(map(_counted, exposure.runs)), exposure.note)


def _counted(run: Mapping[str, Any]) -> dict[str, Any]:
    if "train" not in run and "val" not in run:
        return dict(run)
    train, val = (len(run.get(part, {}).get("case", ())) for part in ("train", "val"))
    told = f"{train} training and {val} validation cases, whose ids are not listed"
    rest = {key: value for key, value in run.items() if key not in ("train", "val", "note")}
    return rest | {"note": f"{told}; {run['note']}" if run.get("note") else told}


def _result_of(describer: Describer) -> RunResult | None:
    """Return the summary that the training left beside the checkpoint, if it is there and of the same trainer."""
    for name in SUMMARIES:
        file = describer.checkpoint.path.parent / name
        if file.is_file():
            try:
                result = read_result(file)
            except InputError as error:
                logger.warning("the page has no scores: %s", error)
                continue
            if result.trainer == describer.checkpoint.trainer:
                return result
    return None
