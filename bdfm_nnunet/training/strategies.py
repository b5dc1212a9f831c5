"""The strategy of a training: its stages one after the other, each with its trained parameters and its optimiser."""

import gc
from dataclasses import fields
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from bdfm_nnunet.checkpoints import LoadReport
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import encoder_of, image_kernels, unwrap
from bdfm_nnunet.networks.low_rank import add_low_rank, kernels_of, load_low_rank_state, low_rank_state
from bdfm_nnunet.networks.mamba_stages import add_prompts
from bdfm_nnunet.settings import StrategySettings
from bdfm_nnunet.training.gradients import distributed_network
from bdfm_nnunet.training.optimizers import Habits, WarmupSchedule, build_optimizer, parameter_groups
from bdfm_nnunet.training.stages import Stage, stages_of
from bdfm_nnunet.training.trained_parts import LoadedParts, moving, rated_parts


class Strategy:
    """What trains when.

    It sets `requires_grad` of the trainer's parameters, its optimiser, its schedule and, where several processes train,
    joins their networks anew at the border of two stages. Modules in which nothing trains run in evaluation mode:
    statistics of their norms stay as they are, and no path is dropped in them.

    A checkpoint holds the number of the stage that wrote it, what was loaded, and kernels and factors of low-rank
    additions, whose product alone is among the network's weights. So a run goes on in the stage that it was in, and
    comes to the next one as it would have.

    Args:
        trainer: has `task`, `training`, `network`, `num_epochs`, `device` and `print_to_log_file`, and gets `optimizer`
            and `lr_scheduler`.

    Attributes:
        loaded: what the training got from elsewhere.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.loaded = LoadedParts()
        self._number = 0
        self._fixed: set[int] = set()
        self._joined: set[int] = set()

    @property
    def settings(self) -> StrategySettings:
        """The strategy that the plans name."""
        return cast(StrategySettings, self.trainer.task.finetuning)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the training."""
        trainer = self.trainer
        asked = trainer.training.warmup_epochs
        warmup = min(trainer.num_epochs / 20, 50) if asked is None else asked
        return stages_of(self.settings, epochs=trainer.num_epochs, warmup=warmup)

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self.stages[self._number]

    @property
    def clip(self) -> float:
        """The largest norm of the gradients."""
        return float(self.trainer.training.gradient_clip or Habits.of(self.trainer.network).clip)

    # --- what happens when --------------------------------------------------------------------------------------

    def begin(self) -> tuple[Optimizer, WarmupSchedule]:
        """Return optimiser and schedule of a network that was just built, before anything is loaded."""
        self._fixed = {id(each) for each in unwrap(self.trainer.network).parameters() if not each.requires_grad}
        self._select()
        self._joined = self._training()
        return self._optimizer()

    def take(self, report: LoadReport | None) -> None:
        """Note what was loaded; None: all weights, by nnU-Net's own `-pretrained_weights`."""
        if report is None:
            self.loaded = LoadedParts(weights=True, stem=True)
        else:
            self.loaded = LoadedParts.of(report, self.trainer.network)

    def start(self) -> None:
        """Begin the first stage of a new training, now that the first weights are there."""
        self._add()
        self._enter(0)
        if not self.loaded.weights and self.stages[-1].moves != "all":
            self.trainer.print_to_log_file(
                f"The encoder has random weights, and finetuning.strategy={self.settings.strategy} holds most of them: "
                "this is the untrained control of a fine-tuning."
            )

    def reach(self, epoch: int) -> None:
        """Go into the stage of an epoch that is about to begin."""
        while epoch >= self.stage.end and self._number + 1 < len(self.stages):
            self._enter(self._number + 1)

    def hold_still(self) -> None:
        """Put what does not train into evaluation mode, after the network was put into training mode."""
        if self.stage.moves != "all":
            _hold_still(unwrap(self.trainer.network))

    # --- checkpoints --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside weights and optimiser; nothing for one stage without weights."""
        if len(self.stages) == 1 and self.loaded == LoadedParts() and self.stage.moves != "additions":
            return {}
        low_rank = low_rank_state(unwrap(self.trainer.network))
        return {"stage": self._number, "loaded": self.loaded.as_dict(), **({"low_rank": low_rank} if low_rank else {})}

    def recall(self, state: Any) -> None:
        """Go back to the stage of a checkpoint, before its weights and its optimiser are loaded.

        Raises:
            ValueError: it is of another strategy.
        """
        state = state or {}
        number, loaded = state.get("stage", 0), state.get("loaded", {})
        if not isinstance(number, int) or not 0 <= number < len(self.stages):
            raise ValueError(f"stage {number} of {len(self.stages)}")
        names = {field.name for field in fields(LoadedParts)}
        self.loaded = LoadedParts(**{name: bool(value) for name, value in loaded.items() if name in names})
        self._add()
        self._enter(number)

    def recall_low_rank(self, state: Any) -> None:
        """Take over kernels and factors, after the weights of the checkpoint were loaded.

        Raises:
            ValueError: they are of another strategy.
        """
        load_low_rank_state(unwrap(self.trainer.network), (state or {}).get("low_rank", {}))

    # --- a stage ------------------------------------------------------------------------------------------------

    def _enter(self, number: int) -> None:
        trainer, before = self.trainer, self.trainer.optimizer
        went_on = number == self._number + 1
        self._number = number
        self._select()
        trainer.optimizer, trainer.lr_scheduler = self._optimizer()
        if went_on and not self.stage.fresh:
            trainer.optimizer.state.update(before.state)
        self._join_again()
        self._tell()

    def _select(self) -> None:
        """Let those parameters train that the stage moves, apart from those that the network keeps fixed itself."""
        network = unwrap(self.trainer.network)
        chosen = moving(network, self.stage.moves, self.loaded) - self._fixed
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
            parameter.grad = None

    def _optimizer(self) -> tuple[Optimizer, WarmupSchedule]:
        trainer, stage = self.trainer, self.stage
        kind = trainer.optimizer_kind
        trainer.initial_lr = trainer.training.initial_lr or trainer.task.peak_rate(kind)
        decay = trainer.training.weight_decay
        trainer.weight_decay = trainer.task.weight_decays[kind] if decay is None else decay
        rate = trainer.initial_lr * self._factor
        parts = rated_parts(trainer.network, self.settings, rate=rate, loaded=self.loaded)
        groups = parameter_groups(parts, weight_decay=trainer.weight_decay)
        optimizer = build_optimizer(kind, groups, betas=Habits.of(trainer.network).betas)
        return optimizer, WarmupSchedule(optimizer, stage.epochs, stage.warmup, trainer.task.decay, start=stage.start)

    @property
    def _factor(self) -> float:
        """The peak rate of the present stage, relative to the training's."""
        settings, last = self.settings, self._number + 1 == len(self.stages)
        if last:
            return 1.0
        if settings.decoder_lr_factor is not None or settings.strategy != "sawtooth":
            return settings.decoder_lr_factor or 1.0
        return Habits.of(self.trainer.network).first_tooth

    def _training(self) -> set[int]:
        return {id(each) for each in unwrap(self.trainer.network).parameters() if each.requires_grad}

    def _join_again(self) -> None:
        """Join the networks of several processes anew where others train than those that they were joined for."""
        trainer, training = self.trainer, self._training()
        if isinstance(trainer.network, DistributedDataParallel) and training != self._joined:
            network, trainer.network = trainer.network.module, None
            gc.collect()  # the old one listens to the gradients for as long as it lives
            trainer.network = distributed_network(network, trainer.device)
        self._joined = training

    def _add(self) -> None:
        """Add what the strategy trains beside the weights that were loaded."""
        self._add_low_rank()
        if self.settings.strategy.startswith("prompts"):
            encoder = encoder_of(unwrap(self.trainer.network)).module
            try:
                add_prompts(encoder, self.settings.prompts, generator=self._generator())
            except ValueError as error:
                raise InputError(f"finetuning.strategy={self.settings.strategy} cannot be: {error}") from None

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.trainer.training.seed)

    def _add_low_rank(self) -> None:
        settings, network = self.settings, unwrap(self.trainer.network)
        if settings.strategy != "lora":
            return
        encoder = encoder_of(network).module
        try:
            names = kernels_of(encoder, settings.lora_targets, besides=image_kernels(encoder))
        except ValueError as error:
            raise InputError(f"finetuning.lora_targets fits nothing: {error}") from None
        layers = [encoder.get_submodule(name) for name in names]
        add_low_rank(network, layers, rank=settings.lora_rank, alpha=settings.lora_alpha, generator=self._generator())

    def _tell(self) -> None:
        for line in self.table():
            self.trainer.print_to_log_file(line, add_timestamp=False)

    def table(self) -> list[str]:
        """Return the present groups of parameters as lines of a table."""
        trainer, stage = self.trainer, self.stage
        parameters = list(unwrap(trainer.network).parameters())
        still = [each for each in parameters if not each.requires_grad]
        rows = [("group", "tensors", "parameters", "peak rate", "weight decay")]
        for group in trainer.optimizer.param_groups:
            count = sum(each.numel() for each in group["params"])
            rate, decay = f"{group['peak_lr']:.3g}", f"{group['weight_decay']:.3g}"
            rows.append((group["name"], str(len(group["params"])), f"{count:,}", rate, decay))
        if still:
            rows.append(("(still)", str(len(still)), f"{sum(each.numel() for each in still):,}", "-", "-"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        trained = sum(each.numel() for each in parameters if each.requires_grad)
        every = sum(each.numel() for each in parameters)
        title = (
            f"Stage {self._number + 1} of {len(self.stages)}, epochs {stage.start} to {stage.end - 1}: {stage.name}; "
            f"{type(trainer.optimizer).__name__}, rate rising for {stage.warmup:g} epochs; "
            f"{trained:,} of {every:,} parameters train ({trained / every:.2%})"
        )
        return [title, *("  " + "  ".join(cell.ljust(n) for cell, n in zip(row, widths)).rstrip() for row in rows)]


def _hold_still(module: nn.Module) -> None:
    """Put those modules into evaluation mode that have parameters or buffers of which none trains."""
    parameters = list(module.parameters())
    has_state = parameters or next(module.buffers(), None) is not None
    if has_state and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _hold_still(child)
