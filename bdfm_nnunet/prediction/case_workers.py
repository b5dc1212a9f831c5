"""Preprocessing and export of cases beside the network, in a few workers.

On a CPU the workers are threads: they share the cores with the network anyway, and a new process spends seconds on
its imports. Beside an accelerator they are processes, as nnU-Net's are.
"""

import errno
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.data_iterators import PreprocessAdapter
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.postprocessing import RuleSet, apply_file
from bdfm_nnunet.files import cannot_write, unfinished
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.images.image_faults import Damaged
from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.prediction.missing_channels import without_missing

_CHECK = "check the plans of the model and the images of the case"
Item = dict[str, Any]
"""A preprocessed case as nnU-Net's iterators give it: "data", "data_properties" and "ofile"."""


def workers(count: int, device: torch.device, *, only_threads: bool = False) -> Executor:
    """Return an executor of at least one worker."""
    if device.type == "cpu" or only_threads:
        return ThreadPoolExecutor(max(1, count))
    return ProcessPoolExecutor(max(1, count), mp_context=get_context("spawn"))


def preprocess_ahead(cases: Iterable[Sequence[Any]], pool: Executor, *, ahead: int) -> Iterator[Item]:
    """Preprocess cases in order while those before are predicted.

    Args:
        cases: arguments of `preprocess_case`.
        pool: where it runs.
        ahead: cases that are in work or ready at any time.
    """
    waiting: deque[Any] = deque()
    for case in cases:
        waiting.append(pool.submit(preprocess_case, *case))
        if len(waiting) > ahead:
            yield _with_tensor(waiting.popleft().result())
    while waiting:
        yield _with_tensor(waiting.popleft().result())


def _with_tensor(item: Item) -> Item:
    return {**item, "data": torch.from_numpy(item["data"])}


def preprocess_case(
    files: list[str],
    previous: str | None,
    output: str | None,
    plans_manager: Any,
    configuration_manager: Any,
    dataset_json: dict[str, Any],
    verbose: bool,
) -> Item:
    """Read and preprocess one case; the segmentation of a cascade's previous stage becomes channels.

    Channels that the case lacks are 0.

    Returns:
        nnU-Net's item with "data" as an fp32 array.

    Raises:
        InputError: nnU-Net cannot preprocess it.
    """
    preprocessor = configuration_manager.preprocessor_class(verbose=verbose)
    adapter = PreprocessAdapter(
        [files], [previous], preprocessor, [output], plans_manager, dataset_json, configuration_manager
    )
    try:
        item: Item = next(adapter)
    except Exception as error:  # nnU-Net's readers and resampling, on plans of anybody
        raise InputError(f"{files[0]} and its like cannot be preprocessed ({_reason(error)}): {_CHECK}") from error
    data = item["data"].float().contiguous().numpy()
    return {**item, "data": without_missing(data, files, dataset_json["file_ending"])}


def export_case(
    logits: Any,
    properties: dict[str, Any],
    configuration_manager: Any,
    plans_manager: Any,
    dataset_json: dict[str, Any],
    output: str | None,
    save_probabilities: bool,
    rules: RuleSet | None = None,
    *,
    again: str = "run the command again with --continue_prediction",
) -> Any:
    """Turn logits into a segmentation on the grid of the images, and write it.

    The files are written under temporary names: `--continue_prediction` never takes a torn one for whole.

    Args:
        logits: (K, *spatial) as the network saw the case.
        properties: of the case, from its preprocessing.
        configuration_manager: of the model.
        plans_manager: of the model.
        dataset_json: of the model.
        output: path without ending, or None to return the result.
        save_probabilities: whether the probabilities are wanted too.
        rules: are applied to the segmentation before it takes its name.
        again: how the sentence ends where the files cannot be written.

    Raises:
        InputError: the files cannot be written; none is there then.
    """
    if output is None:
        labels = plans_manager.get_label_manager(dataset_json)
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, plans_manager, configuration_manager, labels, properties, save_probabilities
        )
    with whole_case(Path(output), plans_manager, dataset_json, rules=rules, again=again) as temporary:
        export_prediction_from_logits(
            logits, properties, configuration_manager, plans_manager, dataset_json, temporary, save_probabilities
        )
    return None


@contextmanager
def whole_case(
    target: Path,
    plans_manager: Any,
    dataset_json: dict[str, Any],
    *,
    rules: RuleSet | None = None,
    again: str = "run the command again with --continue_prediction",
) -> Iterator[str]:
    """Yield a path without ending for the files of a case, which get their names at the end, or none of them does.

    Args:
        target: path without ending that the files get.
        plans_manager: of the model.
        dataset_json: of the model.
        rules: are applied to the segmentation before it takes its name.
        again: how the sentence ends where the files cannot be written.

    Raises:
        InputError: the files cannot be written.
    """
    image_ending = dataset_json["file_ending"]
    endings = (".npz", ".pkl", ".json", image_ending)  # the last is that with which the case counts as done
    try:
        with _whole_files(target, endings) as temporary:
            yield temporary
            written = Path(f"{temporary}{image_ending}")
            _check_written(written, plans_manager)
            if rules is not None:
                apply_file(written, rules=rules, out=written.parent)
    except OSError as error:
        raise cannot_write(target, error, again=again) from error
    except (RuntimeError, MemoryError) as error:  # how SimpleITK reports a full disk
        raise InputError(
            f"cannot write {target}{image_ending} ({_reason(error)}): free some space and memory, then {again}"
        ) from error


@contextmanager
def _whole_files(target: Path, endings: Sequence[str]) -> Iterator[str]:
    """Yield a temporary path without ending, whose files replace those of `target` at the end, the last ending last."""
    temporary = unfinished(target)
    try:
        yield str(temporary)
        for ending in endings:
            if Path(f"{temporary}{ending}").exists():
                Path(f"{temporary}{ending}").replace(f"{target}{ending}")
    finally:
        for ending in endings:
            Path(f"{temporary}{ending}").unlink(missing_ok=True)


def _check_written(path: Path, plans_manager: Any) -> None:
    """Check that a segmentation is whole on the disk: on a full disk SimpleITK's writer may end early in silence."""
    if not path.name.endswith(NIFTI):
        return
    by_nibabel = plans_manager.plans.get("image_reader_writer") != "SimpleITKIO"
    try:
        read_volume(path, path.name, by_nibabel=by_nibabel, flat=True)
    except Damaged as fault:
        raise OSError(errno.ENOSPC, f"the file {fault.what}", str(path)) from None


def _reason(error: BaseException) -> str:
    return (str(error).strip().rpartition("\n")[2].strip() or type(error).__name__)[:300]
