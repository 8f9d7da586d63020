"""transformers.Trainer set up for the suite: our order of examples, our rows, and a stop at the first bad loss."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput

from bench.model.loss import mean_loss, num_label_tokens, projects_labels
from bench.model.pieces import Cutter
from bench.process import ranks, rng
from bench.tasks import PreparedTask
from bench.tasks.examples import Example, Picture, collate
from bench.train import losses, saved_state, sharding
from bench.train.journal import Journal
from bench.train.settings import DivergedError, Train
from bench.train.systems import SystemHooks


def arguments(settings: Train, seed: int, scratch: str, **sharding: Any) -> TrainingArguments:
    """transformers' TrainingArguments: examples in the given order, one log row a step, no checkpoints of its own.

    Args:
        settings: budget, batch, schedule, optimiser.
        seed: the run's; dropout draws from a stream derived from it.
        scratch: folder for checkpoints.
        sharding: FSDP's arguments, from the layout.

    Raises:
        ValueError: the batch cannot be divided among the ranks.
    """
    share, rest = divmod(settings.batch_size, ranks.size())  # the batch as a whole is that of one rank
    if rest or not share:
        raise ValueError(
            f"train.batch_size={settings.batch_size} cannot be shared out evenly over {ranks.size()} processes"
        )
    apart = ("batch_size", "learning_rate", "eval_steps", "precision", "parallel", "curvature_constant")
    return TrainingArguments(
        **{name: value for name, value in asdict(settings).items() if name not in apart},  # of the same names
        output_dir=scratch,
        per_device_train_batch_size=share,
        per_device_eval_batch_size=share,
        learning_rate=settings.peak,
        use_cpu=not torch.cuda.is_available(),
        bf16=settings.precision == "bf16",
        train_sampling_strategy="sequential",
        eval_strategy="steps" if settings.eval_steps else "no",
        eval_steps=settings.eval_steps or None,
        prediction_loss_only=True,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        # The rows of two processes are others, and so must be what dropout leaves of them.
        seed=rng.derive(seed, f"dropout/{ranks.rank()}" if ranks.rank() else "dropout") % 2**32,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **sharding,
    )


class BenchTrainer(Trainer):
    """The library's Trainer over examples in a given order."""

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        examples: Sequence[Example | Picture],
        task: PreparedTask,
        journal: Journal,
        loraplus_lr_ratio: float | None,
        hooks: SystemHooks,
    ) -> None:
        self._loraplus_lr_ratio, self._hooks = loraplus_lr_ratio, hooks
        super().__init__(
            model=model,
            args=args,
            train_dataset=examples,
            eval_dataset=task.eval_examples,
            data_collator=lambda batch: collate(batch, task.pad_token_id),
            callbacks=[hooks, journal],
        )
        self._journal = journal
        self.remove_callback(PrinterCallback)
        self._normalised_by_model = losses.normalises(model) and not projects_labels(model)
        self.model_accepts_loss_kwargs |= not self._normalised_by_model  # what compute_loss is to be told
        self._cutter = Cutter(model, "bf16" if args.bf16 else "fp32")

    def create_accelerator_and_postprocess(self) -> None:
        """As transformers, but a sharded model is also sharded on CPUs, and keeps its precision."""
        sharding.keep_precision(self.args)
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled |= sharding.shard_on_cpu(self.args)

    def compute_loss_context_manager(self) -> ExitStack:
        """As transformers, with autocast also for a sharded model, where accelerate leaves it out."""
        stack = super().compute_loss_context_manager()
        if self.is_fsdp_enabled:
            stack.enter_context(self.accelerator.autocast())
        return stack

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """AdamW, or PEFT's optimiser for LoRA+, which gives B and DoRA's magnitude their own learning rate."""
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

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As transformers, without the tensors that the run's system keeps from decaying."""
        undecayed = self._hooks.system.undecayed
        names = super().get_decay_parameter_names(model)
        return [name for name in names if undecayed.isdisjoint(name.split("."))]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The part of a batch in the mean loss over all label tokens of its optimiser step."""
        if self._normalised_by_model:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mean = mean_loss(cast(nn.Module, self.model), inputs, call=model)
        return losses.share_of_mean(mean, inputs["labels"], num_items_in_batch)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The mean over label tokens; transformers averages means of batches, and repeats examples to fill a rank's."""
        model, examples = cast(nn.Module, self.model), cast(list[Example], self.eval_dataset)
        model.eval()

        def loss(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
            batch = self._prepare_inputs(cast(Any, self.data_collator)(examples))
            pieces = self._cutter.pieces(batch) if ranks.size() == 1 else [batch]  # ranks may have unequally many rows
            with self.compute_loss_context_manager():
                means = torch.stack([mean_loss(model, piece) for piece in pieces])
            counted = torch.stack([num_label_tokens(piece["labels"]).sum() for piece in pieces])
            return (means * counted).sum() / counted.sum(), counted.sum()

        found = losses.eval_loss(examples, self.args.eval_batch_size * ranks.size(), loss)
        sharding.reshard(model)
        return EvalLoopOutput(cast(Any, None), None, {"eval_loss": found}, len(examples))

    def evaluate_checkpoint(self, path: Path) -> None:
        """Computes the eval loss of a checkpoint's parameters."""
        self._load_from_checkpoint(str(path))
        self.evaluate()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the trained parameters, and what the system remembers."""
        folder = Path(output_dir or cast(str, self.args.output_dir))
        saved_state.save_parameters(cast(nn.Module, self.model), folder)
        self._hooks.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        saved_state.load_parameters(cast(nn.Module, self.model), Path(resume_from_checkpoint))
        self._hooks.load(Path(resume_from_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if ranks.size() == 1:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        saved_state.save_moments(cast(nn.Module, self.model), cast(Any, self.optimizer).optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(cast(Any, self.lr_scheduler).state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if ranks.size() == 1 or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        saved_state.load_moments(cast(nn.Module, self.model), cast(Any, self.optimizer).optimizer, Path(checkpoint))
        cast(Any, self.lr_scheduler).load_state_dict(torch.load(Path(checkpoint, SCHEDULER_NAME), weights_only=True))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As transformers, with the batch in pieces of rows of about one length, whose gradients are summed.

        Raises:
            DivergedError: the loss is NaN or infinite on some rank; nothing has been updated.
        """
        pieces = [inputs] if num_items_in_batch is None else self._pieces(inputs)
        losses_of_pieces = []
        for number, piece in enumerate(pieces, 1):
            together = number < len(pieces) and not self.is_fsdp_enabled  # DDP exchanges gradients after the last
            with self.accelerator.no_sync(model) if together else nullcontext():
                losses_of_pieces.append(super().training_step(model, piece, num_items_in_batch))
        loss = torch.stack(losses_of_pieces).sum()
        diverged = ranks.all_reduce_sum(loss.clone())  # not finite as soon as one process' is not
        if not torch.isfinite(diverged):
            raise DivergedError(loss.item(), self.state.global_step + 1)
        if self.accelerator.sync_gradients:  # after the last batch of the step
            self._hooks.add_penalty()
        return loss

    def _pieces(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """The pieces of a batch: equally many on every rank, because ranks exchange weights or gradients in each."""
        pieces = self._cutter.pieces(batch)
        fewest = ranks.largest(len(pieces))
        return pieces if len(pieces) == fewest else self._cutter.pieces(batch, fewest)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes and seals a checkpoint; one that cannot be written is warned about, and the run goes on."""
        checkpoints, step = self._journal.checkpoints, self.state.global_step
        if checkpoints is None:
            return
        try:
            super()._save_checkpoint(model, trial)
            ranks.barrier()
            if ranks.rank() == 0:
                checkpoints.seal(step, self._journal.state())
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, in the words of each library
            if ranks.size() > 1:
                raise
            checkpoints.discard(step)
            warnings.warn(f"no checkpoint of step {step}: {error}; the run goes on", stacklevel=2)
