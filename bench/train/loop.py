"""transformers.Trainer set up for the suite: our order of examples, our rows, and a stop at the first bad loss."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bench import parallel, rng
from bench.tasks.examples import Example, collate
from bench.train.settings import DivergedError, Row, Train, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.measure import AlignmentProbe
    from bench.measure import Row as AlignmentRow
    from bench.tasks import PreparedTask


def arguments(settings: Train, seed: int, scratch: str) -> TrainingArguments:
    """The Trainer's own arguments; examples come in the order they are given."""
    return TrainingArguments(
        output_dir=scratch,
        max_steps=settings.max_steps,
        per_device_train_batch_size=_share(settings.batch_size),
        per_device_eval_batch_size=_share(settings.batch_size),
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate or 0.0,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        use_cpu=not torch.cuda.is_available(),
        bf16=settings.precision == "bf16",
        train_sampling_strategy="sequential",
        eval_strategy="steps" if settings.held_out_steps else "no",
        eval_steps=settings.held_out_steps or None,
        prediction_loss_only=True,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=rng.derive(seed, "dropout") % 2**32,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def _share(batch_size: int) -> int:
    """Examples of a batch that one process sees; what is trained on does not depend on how many there are."""
    share, rest = divmod(batch_size, parallel.size())
    if rest or not share:
        raise ValueError(f"train.batch_size={batch_size} cannot be shared out evenly over {parallel.size()} processes")
    return share


class Journal(TrainerCallback):
    """Turns the Trainer's logs into one row a step, asks the probe when it is due, and draws the bar."""

    def __init__(
        self,
        tokens_a_step: list[int],
        probe: AlignmentProbe,
        write: Callable[[Row, list[AlignmentRow]], None],
    ) -> None:
        self.curve: list[Row] = []
        self._tokens = list(itertools.accumulate(tokens_a_step))
        self._probe, self._write = probe, write
        self._alignment: list[AlignmentRow] = []
        self._written = 0
        total = len(tokens_a_step)
        self._bar = tqdm(total=total, desc="train", unit="step", leave=False, disable=parallel.rank() > 0)
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time since the first step began, without the alignment measures."""
        return time.perf_counter() - self._start - self._probe.seconds

    def begin(self, model: PreTrainedModel) -> None:
        """Measures the model before the first step, then starts the clock."""
        if self._probe.due(0):
            self._write({}, self._probe.measure(model, 0))
        self._start = time.perf_counter() - self._probe.seconds

    def finish(self) -> Training:
        """Hands on the last row and closes the bar."""
        seconds = self.seconds
        self._flush()
        self.close()
        return Training(self.curve, seconds, self._tokens[-1], self.curve[-1]["held_out_loss"])

    def close(self) -> None:
        """Ends the bar, also of a run that failed."""
        self._bar.close()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The row of the step before is complete now."""
        self._flush()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After an optimiser step, before its loss is logged."""
        if self._probe.due(state.global_step):
            self._alignment = self._probe.measure(kwargs["model"], state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One row when the step's loss is known; the held-out loss joins the row of its step."""
        logs = kwargs["logs"]
        if "eval_loss" in logs:
            self.curve[-1]["held_out_loss"] = logs["eval_loss"]
        if "loss" not in logs:
            return
        row: Row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "tokens": self._tokens[state.global_step - 1],
            "seconds": round(self.seconds, 4),
        }
        self.curve.append(row)
        self._bar.set_postfix(loss=f"{row['loss']:.3f}", lr=f"{row['learning_rate']:.1e}", refresh=False)
        self._bar.update()

    def _flush(self) -> None:
        if self.curve and (self._alignment or len(self.curve) > self._written):
            self._write(self.curve[-1], self._alignment)
            self._written, self._alignment = len(self.curve), []


class BenchTrainer(Trainer):
    """The library's Trainer over examples in a given order."""

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        examples: list[Example],
        task: PreparedTask,
        journal: Journal,
        loraplus_lr_ratio: float | None,
    ) -> None:
        self._loraplus_lr_ratio = loraplus_lr_ratio
        super().__init__(
            model=model,
            args=args,
            train_dataset=examples,
            eval_dataset=task.held_out,
            data_collator=lambda batch: collate(batch, task.pad_token_id),
            callbacks=[journal],
        )
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The library's, or PEFT's for LoRA+, which gives B and DoRA's magnitude a learning rate of their own."""
        if self._loraplus_lr_ratio is None:
            return super().create_optimizer(model)
        optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args)
        self.optimizer = create_loraplus_optimizer(
            cast(PeftModel, self.model),
            optimizer_class,
            **settings,
            loraplus_lr_ratio=self._loraplus_lr_ratio,
            loraplus_weight_decay=self.args.weight_decay,
        )
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The library's step; refuses a loss that is not finite before the optimiser sees it."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        diverged = parallel.total(loss.detach().clone())  # not finite as soon as one process' is not
        if not torch.isfinite(diverged):
            raise DivergedError(loss.item(), self.state.global_step + 1)
        return loss
