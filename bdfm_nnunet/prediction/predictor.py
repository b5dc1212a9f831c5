"""nnU-Net's predictor with a faster engine.

It predicts what nnU-Net's does, for any network: the same windows, weights, mirroring, folds and files. See
docs/prediction.md for what is done differently.
"""

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference import predict_from_raw_data as nnunet
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import Tensor
from torch._dynamo import OptimizedModule
from torch._dynamo.exc import TorchDynamoException
from tqdm import tqdm

from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.postprocessing import RuleSet
from bdfm_nnunet.files import cannot_write, sweep, write_atomically
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.nnunet_files import labels_of
from bdfm_nnunet.prediction import case_workers
from bdfm_nnunet.prediction.argument_checks import check_model
from bdfm_nnunet.prediction.case_images import check_cases, find_cases
from bdfm_nnunet.prediction.case_quality import QualityJudge, read_scale, signs_of
from bdfm_nnunet.prediction.images_wanted import ImagesWanted
from bdfm_nnunet.prediction.inference_precision import autocast_type, keep_logits_exact, to_channels_last
from bdfm_nnunet.prediction.known_inputs import KnownInputs
from bdfm_nnunet.prediction.missing_channels import tell_missing
from bdfm_nnunet.prediction.model_folder import read_model
from bdfm_nnunet.prediction.sliding_windows import (
    Batches,
    Window,
    group_alike,
    join_windows,
    mean_over_mirrorings,
    mirrorings,
)
from bdfm_nnunet.thread_count import named_threads

logger = logging.getLogger(__name__)

MOST_WINDOWS = 4
MEMORY_SHARE = 0.8
_QUEUED_EXPORTS = 2  # beyond one a worker, as in nnU-Net


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that nnU-Net's command does not have.

    Attributes:
        precision: one of `PRECISIONS`, see `autocast_type`.
        windows: windows in one pass through the network, mirrored copies counted; by default one on a CPU, and on CUDA
            as many as fit, up to `MOST_WINDOWS`.
        compile: compile the network first, and go on without where that fails.
        rules: are applied to each segmentation before it takes its name; probabilities stay what they are.
        strict_input: refuse all cases where one departs from the training cases, or where those are not known.
    """

    precision: str = "auto"
    windows: int | None = None
    compile: bool = False
    rules: RuleSet | None = None
    strict_input: bool = False


class Predictor(nnunet.nnUNetPredictor):
    """nnU-Net's predictor; it takes the same arguments, and `options`."""

    network: Any
    build: Callable[[], Any]

    def __init__(self, *args: Any, options: Options | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.options = options or Options()
        self.autocast_type = autocast_type(self.options.precision, self.device.type)
        self.limit = self.options.windows or (None if self.device.type == "cuda" else 1)
        self.windows_seen = self.windows_computed = 0
        self.only_threads = self.some_suffice = False
        self.export: Callable[..., Any] = case_workers.export_case
        self.inputs, self.quality = KnownInputs(strict=self.options.strict_input), QualityJudge()
        self.checking_workers = min(8, nnunet.default_num_processes)
        self.threads = named_threads() or torch.get_num_threads()
        if self.device.type == "cpu":
            keep_freed_memory()

    # --- the model ----------------------------------------------------------------------------------------------

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Sequence[int | str] | int | str | None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load the model, after everything in its folder was checked.

        Raises:
            InputError: the folder is no model's, a fold has no such checkpoint, or something in them cannot be used.
        """
        folder = Path(model_training_output_dir)
        if use_folds is None:
            use_folds = self.auto_detect_available_folds(model_training_output_dir, checkpoint_name)
        folds = [use_folds] if isinstance(use_folds, int | str) else list(use_folds)
        check_model(folder, folds, checkpoint_name)
        model = read_model(folder, folds, checkpoint_name)
        self._check_rules(folder, model.dataset)
        self.build = model.build
        self.some_suffice = model.some_suffice
        self.inputs.read(folder, model.dataset)
        self.quality = QualityJudge(read_scale(folder))
        self.manual_initialization(
            model.network, model.plans, model.configuration, model.weights, model.dataset, model.trainer,
            model.mirroring,
        )  # fmt: skip

    def _check_rules(self, folder: Path, dataset: Mapping[str, Any]) -> None:
        """Check that the rules fit the files of the model and know every label that it gives."""
        if self.options.rules is None:
            return
        if dataset["file_ending"] not in NIFTI:
            raise InputError(
                f"--postprocess is for NIfTI files, the model in {folder} writes {dataset['file_ending']}: leave it out"
            )
        unknown = labels_of(dataset) - {0, *self.options.rules.labels}
        if unknown:
            raise InputError(
                f"the rules of --postprocess know the labels {sorted(self.options.rules.labels)} but {folder} gives "
                f"{min(unknown)} too: tune rules on predictions of this model"
            )

    def manual_initialization(self, *args: Any, **settings: Any) -> None:
        """Take a model that is loaded already; its network is changed in place."""
        super().manual_initialization(*args, **settings)
        self.prepare_network()

    def put_away(self) -> None:
        """Drop the network, so that another model's has its memory; `take_out` builds it again."""
        self.network = None
        nnunet.empty_cache(self.device)

    def take_out(self) -> None:
        """Build the network of a model that was initialised from its folder, where it was put away."""
        if self.network is None:
            self.network = self.build()
            self.prepare_network()

    @property
    def images_wanted(self) -> ImagesWanted:
        """The images that the model reads."""
        return ImagesWanted.of(
            self.plans_manager, self.configuration_manager, self.dataset_json, some_suffice=self.some_suffice
        )

    def prepare_network(self) -> None:
        """Make the network ready for the chosen type, and compile it if asked to."""
        compiled = isinstance(self.network, OptimizedModule)
        network = self.network._orig_mod if compiled else self.network
        if self.device.type == "cpu" and self.autocast_type is not None:
            to_channels_last(network, len(self.configuration_manager.patch_size))
            keep_logits_exact(network)
        self.network = torch.compile(network) if self.options.compile and not compiled else self.network

    # --- one case -----------------------------------------------------------------------------------------------

    def _internal_predict_sliding_window_return_logits(
        self, data: Tensor, slicers: Sequence[Window], do_on_device: bool = True
    ) -> Tensor:
        torch.set_num_threads(self.threads)  # nnU-Net has just set eight or fewer, and restores what was before
        with torch.inference_mode(), self._autocast():
            volume = data.to(self.device if do_on_device else "cpu")
            groups = group_alike(volume, slicers)
            self.windows_seen += len(slicers)
            self.windows_computed += len(groups)
            logger.info("%d windows, %d of them to compute", len(slicers), len(groups))
            if self.limit is None:
                self.limit = self._windows_that_fit(volume[slicers[0]])
            copies = mirrorings(self.allowed_mirroring_axes if self.use_mirroring else None)
            batches = Batches(self._run_network, self.limit)
            with tqdm(total=len(slicers), disable=not self.allow_tqdm) as bar:
                logits = join_windows(
                    volume,
                    groups,
                    partial(mean_over_mirrorings, batches, copies=copies),
                    weight=self._weight(volume.device),
                    classes=self.label_manager.num_segmentation_heads,
                    together=max(1, self.limit // len(copies)),
                    device=self.device,
                    progress=bar,
                )
            self.limit = batches.limit
            if (folds := len(self.list_of_parameters)) > 1:  # one after the other
                self.quality.add_member(logits, of=folds, regions=self.label_manager.has_regions)
            return logits

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast_type is None:
            # nnU-Net has entered fp16 on CUDA; torch knows no disabled one on MPS
            return torch.autocast("cuda", enabled=False) if self.device.type == "cuda" else nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_type)

    def _weight(self, device: torch.device) -> Tensor | int:
        if not self.use_gaussian:
            return 1
        patch_size = tuple(self.configuration_manager.patch_size)
        weight: Tensor = compute_gaussian(patch_size, sigma_scale=1 / 8, value_scaling_factor=10, device=device)
        return weight

    def _run_network(self, images: Tensor) -> Tensor:
        """Run one pass, compiled where that works.

        Raises:
            InputError: the network does not take patches of this size, or gives something else than logits of them.
        """
        try:
            return self._checked(self.network(images), images)
        except torch.OutOfMemoryError:
            raise
        except TorchDynamoException as error:
            if not isinstance(self.network, OptimizedModule):
                raise
            reason = str(error).strip().partition("\n")[0]
            logger.warning("torch.compile cannot compile this network here (%s): going on without it", reason)
            self.network = self.network._orig_mod
            return self._run_network(images)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise self._unusable(images, reason) from error

    def _checked(self, logits: Tensor, images: Tensor) -> Tensor:
        wanted = (len(images), self.label_manager.num_segmentation_heads, *images.shape[2:])
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            raise ValueError(f"it gives {tuple(getattr(logits, 'shape', ()))}, expected {wanted}")
        return logits

    def _unusable(self, images: Tensor, reason: str) -> InputError:
        patch = " x ".join(map(str, images.shape[2:]))
        return InputError(
            f"the network of the plans cannot be run on patches of {patch} voxels ({reason}): check patch_size and "
            "strides in plans.json, or use a machine with more memory"
        )

    def _windows_that_fit(self, window: Tensor) -> int:
        """Return how many windows the device's free memory holds, from what one needs."""
        images = window[None].to(self.device)
        self._run_network(images)
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._run_network(images)
        torch.cuda.synchronize(self.device)
        needed = torch.cuda.max_memory_allocated(self.device) - before
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return windows_that_fit(free, needed)

    # --- many cases ---------------------------------------------------------------------------------------------

    @wraps(nnunet.nnUNetPredictor.predict_from_files)  # nnU-Net looks at the signature
    def predict_from_files(self, *args: Any, **settings: Any) -> Any:
        """Predict cases as nnU-Net does, after all of their images were checked.

        Raises:
            InputError: an image cannot be used, and then nothing is predicted; or the results cannot be written.
        """
        stock = nnunet.save_json
        nnunet.save_json = _save_json
        try:
            return super().predict_from_files(*args, **settings)
        except OSError as error:
            raise cannot_write(Path(error.filename or "the output folder"), error) from error
        finally:
            nnunet.save_json = stock

    def predict_from_files_sequential(
        self,
        list_of_lists_or_source_folder: str | list[list[str]],
        output_folder_or_list_of_truncated_output_files: str | list[str] | None,
        save_probabilities: bool = False,
        overwrite: bool = True,
        folder_with_segs_from_prev_stage: str | None = None,
    ) -> Any:
        """Predict files without any further process."""
        self.only_threads = True
        predict: Callable[..., Any] = self.predict_from_files
        return predict(
            list_of_lists_or_source_folder,
            output_folder_or_list_of_truncated_output_files,
            save_probabilities,
            overwrite,
            num_processes_preprocessing=0,
            num_processes_segmentation_export=0,
            folder_with_segs_from_prev_stage=folder_with_segs_from_prev_stage,
        )

    def _manage_input_and_output_lists(
        self, list_of_lists_or_source_folder: str | list[list[str]], *args: Any, **settings: Any
    ) -> Any:
        wanted = self.images_wanted
        cases = find_cases(list_of_lists_or_source_folder, wanted)
        chosen = super()._manage_input_and_output_lists(cases, *args, **settings)
        files, outputs, previous = chosen
        for output in outputs or ():
            sweep(Path(output).parent)
            break
        tell_missing(files, wanted)
        fingerprint, before = self.inputs.fingerprint, previous or [None] * len(files)
        found = check_cases(files, before, wanted, workers=self.checking_workers, fingerprint=fingerprint)
        self.inputs.tell(dict(zip(map(os.path.basename, outputs or ()), found)))
        return chosen

    def _internal_get_data_iterator_from_lists_of_filenames(
        self,
        input_list_of_lists: list[list[str]],
        seg_from_prev_stage_files: list[str | None] | None,
        output_filenames_truncated: list[str] | None,
        num_processes: int,
    ) -> Iterator[case_workers.Item]:
        nothing = [None] * len(input_list_of_lists)
        model = (self.plans_manager, self.configuration_manager, self.dataset_json, self.verbose_preprocessing)
        previous, outputs = seg_from_prev_stage_files or nothing, output_filenames_truncated or nothing
        cases = [(*case, *model) for case in zip(input_list_of_lists, previous, outputs, strict=True)]
        count = min(num_processes, len(cases))
        with case_workers.workers(count, self.device, only_threads=self.only_threads) as pool:
            yield from case_workers.preprocess_ahead(cases, pool, ahead=max(1, count))

    def predict_from_data_iterator(
        self,
        data_iterator: Iterable[case_workers.Item],
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = nnunet.default_num_processes,
    ) -> list[Any]:
        """Predict the cases of an iterator, exporting each one beside the next.

        Args:
            data_iterator: gives items with "data", "ofile" and "data_properties".
            save_probabilities: whether the probabilities are wanted too.
            num_processes_segmentation_export: workers.

        Returns:
            Per case None, or the result where "ofile" is None.
        """
        results: list[Any] = []
        waiting: deque[Any] = deque()
        model = (self.configuration_manager, self.plans_manager, self.dataset_json)
        export = num_processes_segmentation_export
        with case_workers.workers(export, self.device, only_threads=self.only_threads) as pool:
            for item in data_iterator:
                name = os.path.basename(item["ofile"]) if item["ofile"] else f"image of shape {item['data'].shape}"
                logger.info("predicting %s", name)
                data = _loaded(item["data"])
                logits = self.predict_logits_from_preprocessed_data(data).cpu().numpy()
                if item["ofile"] and self.export is case_workers.export_case:
                    known = self.inputs.status(os.path.basename(item["ofile"]))
                    spacing, regions = self.configuration_manager.spacing, self.label_manager.has_regions
                    self.quality.judge(item["ofile"], signs_of(logits, regions=regions, spacing=spacing), inputs=known)
                case = (logits, item["data_properties"], *model, item["ofile"], save_probabilities, self.options.rules)
                waiting.append(pool.submit(self.export, *case))
                if len(waiting) > num_processes_segmentation_export + _QUEUED_EXPORTS:  # logits fill the memory
                    results.append(waiting.popleft().result())
            results += [export.result() for export in waiting]
        compute_gaussian.cache_clear()
        nnunet.empty_cache(self.device)
        return results


def _save_json(content: Any, file: str, indent: int = 4, sort_keys: bool = True) -> None:
    """Write a file whole or not at all; it takes the place of nnU-Net's function of that name."""
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps(content, sort_keys=sort_keys, indent=indent), encoding="utf-8")


def windows_that_fit(free: int, needed: int) -> int:
    """Return windows for one pass, from 1 to `MOST_WINDOWS`, given the free memory and what one window needs."""
    return max(1, min(MOST_WINDOWS, int(MEMORY_SHARE * free / max(needed, 1))))


def _loaded(data: Tensor | str) -> Tensor:
    """Return the data; nnU-Net's iterators may give a file to read and remove."""
    if not isinstance(data, str):
        return data
    array = np.load(data)
    os.remove(data)
    return torch.from_numpy(array)
