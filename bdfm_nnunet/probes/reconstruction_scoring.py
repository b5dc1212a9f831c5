"""Scores of labelled regions as a masked pre-training rebuilds them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdfm_nnunet.data.batch_streams import generator_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.score_summary import INTERVAL, none_for_nan, summaries_of, summarise_change
from bdfm_nnunet.exposure import Exposure, compare
from bdfm_nnunet.nnunet_files import channels_of
from bdfm_nnunet.patients import groups
from bdfm_nnunet.probes.labelled_cases import HEALTHY, LabelledCase, LabelledCases, check_images, labelled_cases
from bdfm_nnunet.probes.masked_model import MaskedModel, load_masked_model
from bdfm_nnunet.probes.region_scores import MEASURES, region_scores
from bdfm_nnunet.probes.whole_rebuilding import Output, Rebuilt, rebuild_whole
from bdfm_nnunet.results import RunResult, versions_of

KIND = "reconstruction"
FILL = "mean_fill"
"""Ending of the scores of filling with the mean of what is visible."""
DEFINITION = (
    "every block of a window of the training's size is hidden in one of several masks at the training's ratio and "
    "taken from the reconstruction under it; scores on the voxels of a region, means over channels and draws of masks"
)


@dataclass(frozen=True, kw_only=True)
class ReconstructionProbe:
    """What is scored, and how.

    Attributes:
        weights: checkpoint of a masked pre-training, or `last:ID`.
        dataset_id: number of a labelled, preprocessed data set.
        plans: name of its plans, with spacing and normalisation of the pre-training.
        configuration: one of their configurations.
        labels: names of the labels or regions that are scored; empty for all.
        channels: names of the channels; empty for all.
        fold: score the validation cases of this fold alone; None for all cases.
        cases: ids of the cases; empty for all.
        draws: how often masks are drawn that hide everything once.
        output: image of the "pixel" or the "frequency" decoder.
        seed: of the masks.
        device: where the network runs.
    """

    weights: str | Path
    dataset_id: int
    plans: str = "BDFMPlans"
    configuration: str = "3d_fullres"
    labels: Sequence[str] = ()
    channels: Sequence[str] = ()
    fold: int | None = None
    cases: Sequence[str] = ()
    draws: int = 4
    output: Output = "pixel"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError(f"draws is {self.draws}, expected 1 or more")


class Scoring:
    """A probe with its network and its cases.

    Args:
        probe: what is scored.

    Attributes:
        model: the pre-training.
        found: the cases.
        channels: numbers of their channels that are scored.
        regions: name -> label values.

    Raises:
        InputError: as `probe_reconstruction`.
    """

    def __init__(self, probe: ReconstructionProbe) -> None:
        self.probe = probe
        self.model: MaskedModel = load_masked_model(probe.weights)
        self.found: LabelledCases = labelled_cases(
            probe.dataset_id, probe.plans, probe.configuration, fold=probe.fold, cases=probe.cases
        )
        self.channels = self.found.channel_numbers(probe.channels)
        self.regions = self.found.regions(probe.labels)
        check_images(self.model, self.found, self.channels)
        if probe.output not in self.model.objective.terms:
            raise InputError(
                f"{self.model.checkpoint.path} has no image of a {probe.output} decoder: choose "
                f"{' or '.join(self.model.objective.terms)}"
            )
        self.model.objective.to(probe.device)

    def rebuilt(self, case: LabelledCase, draw: int) -> Rebuilt:
        """Rebuild a case from what the masks of a draw leave visible, which do not depend on the other cases."""
        generator = generator_of(self.probe.seed, draw, *case.name.encode())
        return rebuild_whole(
            self.model,
            case.image,
            case.labels >= 0,
            generator=generator,
            output=self.probe.output,
            device=self.probe.device,
        )

    def row(self, case: LabelledCase) -> dict[str, Any]:
        """Return the scores of a case, means over the draws, and the volumes of its regions."""
        masks = masks_of(case.labels, self.regions)
        drawn = [self._scores(case, masks, draw) for draw in range(self.probe.draws)]
        voxel, row = float(np.prod(self.found.spacing)), {}
        for name, mask in masks.items():
            means = {key: float(np.mean([each[name][key] for each in drawn])) for key in drawn[0][name]}
            row[name] = means | {"volume_mm3": voxel * int(mask.sum())}
        return {"case": case.name, "regions": row}

    def _scores(self, case: LabelledCase, masks: Mapping[str, Tensor], draw: int) -> dict[str, dict[str, float]]:
        rebuilt, spacing = self.rebuilt(case, draw), self.found.spacing
        network = region_scores(rebuilt.image, case.image, masks, spacing=spacing)
        filled = region_scores(rebuilt.filled, case.image, masks, spacing=spacing)
        return {name: network[name] | {f"{key}_{FILL}": value for key, value in filled[name].items()} for name in masks}

    def result(self, rows: Sequence[dict[str, Any]]) -> RunResult:
        """Return the result of the rows of all cases."""
        names = [*self.regions, HEALTHY]
        scores = {
            "metrics": KIND,
            "definition": DEFINITION,
            "regions": list(self.regions),
            "interval": INTERVAL,
            "seed": 0,
            "summary": summaries_of(rows, names, 0),
            "cases": rows,
        }
        extra = {
            "against_healthy": {name: _change(rows, (HEALTHY, ""), (name, "")) for name in self.regions},
            "against_mean_fill": {name: _change(rows, (name, f"_{FILL}"), (name, "")) for name in names},
        }
        return RunResult(
            kind=KIND,
            trainer=self.model.checkpoint.trainer,
            settings=self._settings(),
            scores=none_for_nan(scores),
            versions=versions_of("torch", "nnunetv2"),
            extra=none_for_nan(extra) | self._known(rows),
        )

    def _settings(self) -> dict[str, Any]:
        listed = channels_of(self.found.dataset)
        return asdict(self.probe) | {
            "weights": self.model.checkpoint.path.name,
            "dataset": self.found.folder.name,
            "channels": [listed[number] for number in self.channels],
            "labels": list(self.regions),
            "cases": list(self.found.cases),
            "pretraining": asdict(self.model.objective.settings),
        }

    def _known(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what is known of the checkpoint and of the patients."""
        checkpoint, listed = self.model.checkpoint, self.found.listed
        patients = groups(listed.rows, listed.scope)
        exposure, cases = Exposure.of_checkpoint(checkpoint), dict.fromkeys(self.found.cases, "test")
        return {
            "weights": {"name": checkpoint.path.name, "sha256": checkpoint.sha256, "project": checkpoint.kind},
            "seed_of_training": self.model.seed,
            "patients": {row["case"]: patients.get(row["case"], row["case"]) for row in rows},
            "seen": compare(exposure, listed, cases, checkpoint=checkpoint.path.name).warning(),
        }


def masks_of(labels: Tensor, regions: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the voxels of each region, and of "healthy", which bears no label, boolean (*spatial) each.

    Args:
        labels: (*spatial), below 0 outside the image.
        regions: name -> label values.

    Example:
        >>> masks = masks_of(torch.tensor([-1, 0, 0, 2, 3]), {"lesion": (2,)})
        >>> masks["lesion"].tolist(), masks["healthy"].tolist()
        ([False, False, False, True, False], [False, True, True, False, False])
    """
    found = {name: torch.isin(labels, torch.tensor(list(values))) for name, values in regions.items()}
    return found | {HEALTHY: labels == 0}


def _change(rows: Sequence[Mapping[str, Any]], before: tuple[str, str], after: tuple[str, str]) -> dict[str, Any]:
    """Return the differences of the means of each measure between two (region, ending of the names)."""
    values = {
        measure: [[row["regions"][name][measure + ending] for row in rows] for name, ending in (before, after)]
        for measure in MEASURES
    }
    return {measure: summarise_change(*pair).as_dict() for measure, pair in values.items()}
