"""Preprocessing and export of cases beside the network, in a few workers.

On a CPU the workers are threads: they share the cores with the network anyway, and a new process spends seconds on
its imports. Beside an accelerator they are processes, as nnU-Net's are.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.data_iterators import PreprocessAdapter
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)

from bdfm_nnunet.files import unfinished
from bdfm_nnunet.prediction.checks import check_images, check_whole

Item = dict[str, Any]
"""A preprocessed case as nnU-Net's iterators give it: "data", "data_properties" and "ofile"."""


def workers(count: int, device: torch.device) -> Executor:
    """An executor of at least one worker."""
    if device.type == "cpu":
        return ThreadPoolExecutor(max(1, count))
    return ProcessPoolExecutor(max(1, count), mp_context=get_context("spawn"))


def preprocess_ahead(cases: Iterable[Sequence[Any]], pool: Executor, *, ahead: int) -> Iterator[Item]:
    """Preprocesses cases in order while those before are predicted.

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
    """Reads and preprocesses one case; the segmentation of a cascade's previous stage becomes channels.

    Returns:
        nnU-Net's item with "data" as an fp32 array.

    Raises:
        InputError: an image cannot be read or is not whole, or those of the case have several shapes.
    """
    preprocessor = configuration_manager.preprocessor_class(verbose=verbose)
    adapter = PreprocessAdapter(
        [files], [previous], preprocessor, [output], plans_manager, dataset_json, configuration_manager
    )
    images = [*files, previous] if previous else files
    check_whole(images)
    try:
        item: Item = next(adapter)
    except Exception:
        check_images(images, plans_manager.image_reader_writer_class)
        raise
    return {**item, "data": item["data"].float().contiguous().numpy()}


def export_case(
    logits: Any,
    properties: dict[str, Any],
    configuration_manager: Any,
    plans_manager: Any,
    dataset_json: dict[str, Any],
    output: str | None,
    save_probabilities: bool,
) -> Any:
    """Turns logits into a segmentation on the grid of the images, and writes it.

    The files are written under temporary names: `--continue_prediction` never takes a torn one for whole.

    Args:
        logits: (K, *spatial) as the network saw the case.
        properties: of the case, from its preprocessing.
        configuration_manager: of the model.
        plans_manager: of the model.
        dataset_json: of the model.
        output: path without ending, or None to return the result.
        save_probabilities: whether the probabilities are wanted too.
    """
    if output is None:
        labels = plans_manager.get_label_manager(dataset_json)
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, plans_manager, configuration_manager, labels, properties, save_probabilities
        )
    target = Path(output)
    temporary = unfinished(target)
    endings = (".npz", ".pkl", dataset_json["file_ending"])  # the segmentation last: with it the case counts as done
    try:
        export_prediction_from_logits(
            logits, properties, configuration_manager, plans_manager, dataset_json, str(temporary), save_probabilities
        )
        for path, ending in ((Path(f"{temporary}{ending}"), ending) for ending in endings):
            if path.exists():
                path.replace(f"{target}{ending}")
    finally:
        for ending in endings:
            Path(f"{temporary}{ending}").unlink(missing_ok=True)
    return None
