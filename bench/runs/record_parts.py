"""The parts of a record: one pydantic model each, which validates, types and serialises it. Imports no torch.

Fields that are not named here are kept as they are: a part holds whatever the version of the suite that wrote it knew.
A field that a part lacks has its default when it is read, and stays missing when the part is written again.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from bench.runs.names import is_name


def _folder_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("no name of a file or folder")
    return text


FileName = Annotated[str, AfterValidator(_folder_name)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = float | None  # a loss or a score; infinite where it overflowed, NaN where it is not defined


class Part(BaseModel):
    """Strict types; unknown fields are kept; only the fields that were given are written."""

    model_config = ConfigDict(strict=True, extra="allow")

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}


class Named(Part):
    """The choice of one configuration group: its name, and whatever its file states."""

    name: str


class TaskConfig(Named):
    """conf/task."""

    max_length: Count | None = None


class ModelConfig(Named):
    """conf/model."""

    source: str | None = None


class RankConfig(Part):
    """conf/rank; a method without low-rank factors ignores it."""

    name: str | None = None
    r: Count | None = None
    lora_alpha: float | None = None


class TrainConfig(Part):
    """conf/train."""

    learning_rate: Number = None
    max_steps: Count = 0
    batch_size: Count = 0
    gradient_accumulation_steps: Count = 1
    precision: str | None = None


class MeasureConfig(Part):
    """The measures: alignment every so many steps, curvature of so many examples; None or 0 for never."""

    alignment_steps: Count | None = None
    curvature_rows: Count | None = None


class Config(Part):
    """The full configuration of a run; `model_dump` gives it as it was written.

    `learning_rate_source` says who published a learning rate that was not given.
    """

    method: Named
    system: Named = Named(name="none")
    task: TaskConfig
    model: ModelConfig
    seed: Count = 0
    study: str | None = None
    results_dir: str | None = None
    rank: RankConfig = RankConfig()
    train: TrainConfig = TrainConfig()
    measure: MeasureConfig = MeasureConfig()
    score: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    learning_rate_source: str | None = None


class Code(Part):
    """The suite's version, its git revision, and whether the work tree had changes."""

    version: str | None = None
    revision: str | None = None
    dirty: bool | None = None


class Hardware(Part):
    """What numbers were computed on; gpu is None without one."""

    cpu: str | None = None
    gpu: str | None = None
    num_threads: int | None = None


class Environment(Part):
    """Code, versions, hardware and settings; `fingerprint` hashes those that can move a number."""

    code: Code = Code()
    python: str | None = None
    versions: dict[str, str | None] = {}
    hardware: Hardware = Hardware()
    fingerprint: str = ""


class GgufFacts(Part):
    """The GGUF file that a model was unpacked from.

    Attributes:
        file: its name, without the folder.
        sha256: of its content.
        quantization: llama.cpp's name for the mixture of types, such as Q4_K_M.
        tensor_types: number of tensors of each type.
    """

    file: str = ""
    sha256: str | None = None
    quantization: str | None = None
    tensor_types: dict[str, Count] = {}


class ModelFacts(Part):
    """The pretrained model.

    Attributes:
        revision: a commit of the Hub or a hash of the files.
        drawn: names of the tensors that the checkpoint lacks, drawn by the seed: those of a head.
        label_logits: whether losses projected label tokens only on the vocabulary; None in a record from before that.
        packs: whether a row could hold several examples in a pass; None likewise.
        gguf: the GGUF file that it was unpacked from; None for any other model.
    """

    name: str = ""
    kind: str | None = None
    revision: str | None = None
    tokenizer_sha256: str | None = None
    num_parameters: Count = 0
    drawn: list[str] = []
    label_logits: bool | None = None
    packs: bool | None = None
    gguf: GgufFacts | None = None

    @property
    def is_classifier(self) -> bool:
        """Whether it has a classification head, of texts or of images."""
        return self.kind in ("encoder", "vision")


class DataFacts(Part):
    """The data.

    Attributes:
        num_dropped, num_truncated: training examples left out as too long, and cut to the limit.
        num_validation, num_validation_dropped: validation examples, and those left out as too long; None in a record
            from before they were counted.
        num_items: rows of the scored split by dataset, of which score.limit takes the first; empty as above.
        contaminated: scored items that occur in the training set, by dataset.
        incomplete: splits that are shorter than the official ones, in words.
        num_converted: images, grey ones or with a palette, that became RGB.
    """

    name: str = ""
    sha256: str | None = None
    num_train: Count = 0
    num_dropped: Count = 0
    num_truncated: Count = 0
    num_validation: Count | None = None
    num_validation_dropped: Count | None = None
    num_items: dict[str, Count] = {}
    contaminated: dict[str, Count] = {}
    incomplete: list[str] = []
    num_converted: Count = 0


class PhaseCost(Part):
    """Seconds and peak memory of one phase."""

    seconds: Seconds
    peak_bytes: Count | None = None


class CalibrationFacts(Part):
    """What calibration measured and cost; the cost is that of computing it, also where the cache was read.

    Attributes:
        loss: mean over the calibration samples; None for a method that needs no data.
        largest_error: relative, of the singular values of a randomised SVD; None where no SVD was taken.
        exact_layers: layers whose sketch was too rough, so that the full gradient was formed.
        seconds: by part: forward, backward (of activations), gradient (forming and adding), svd, storage (of
            accumulators between batches), dimensions (of hidden states).
        peak_bytes: the highest memory, as bench.process.phases counts it.
        place: where accumulators were kept between passes; None if one backward pass completed them.
        batch_size: samples a pass, after halving for want of memory; 1 where a covariance needs single samples.
    """

    read: bool = False
    loss: Number = None
    num_samples: Count = 0
    largest_error: Number = None
    exact_layers: list[str] = []
    total_seconds: Seconds = 0.0
    seconds: dict[str, Seconds] = {}
    peak_bytes: Count | None = None
    place: str | None = None
    batch_size: Count | None = None


class LayerReport(Part):
    """One target layer at step 0.

    Attributes:
        name: path in the pretrained model.
        r: 0 if the method gave it no adapter, None for a method without adapters.
        weight_norm: Frobenius norm of the pretrained W, as the others are of the factors; None without a factor.
        drift: ‖ΔW₀‖/‖W‖, the relative change of the effective weight.
    """

    name: str
    r: Count | None = None
    weight_norm: float
    lora_A_norm: Number = None
    lora_B_norm: Number = None
    lora_R_norm: Number = None
    drift: float


class InitializationFacts(Part):
    """The adapters before the first step.

    Attributes:
        num_trainable: parameters that train, without those of a classification head, which are `num_head`.
        num_left_out: parameters that no adapter reaches, because they are in no linear layer, such as the experts of a
            mixture; 0 for a method without adapters.
        logit_change: largest absolute change of a logit, pretrained to adapted, on the first calibration samples; 0
            without samples.
        calibration: None for a method that needs none.
        calibration_ids: indices of the training examples that calibration used.
    """

    num_trainable: Count = 0
    num_head: Count = 0
    num_left_out: Count = 0
    logit_change: Number = None
    calibration: CalibrationFacts | None = None
    calibration_ids: list[Count] = []
    layers: list[LayerReport] = []


class CurvatureFacts(Part):
    """The loss's largest eigenvalues at step 0 in the trained tensors (bench.train.hessian); None: not measured.

    Attributes:
        plain: of the Hessian H, in nats a token.
        preconditioned: of D^-1/2 H D^-1/2 with D = |g| + rms(g), as Adam's first step scales the gradient g.
        residuals: relative, of each of the two, where Lanczos' method ended.
        num_products: products with H that each of the two took.
        num_rows: training examples of the batch.
        dtype: of the frozen weights, as the model computed.
        reason: why nothing was measured; None where it was.
    """

    plain: Number = None
    preconditioned: Number = None
    residuals: dict[str, float] = {}
    num_products: dict[str, Count] = {}
    num_rows: Count = 0
    dtype: str | None = None
    reason: str | None = None


class TrainingFacts(Part):
    """Training.

    Attributes:
        num_tokens: label and prompt tokens seen, padding not counted.
        seconds: wall time of the loop without the alignment measures.
        loss, eval_loss: after the last step, nats a token.
        loss_rose: whether training ended above where it began (bench.train.journal); None where that is not known.
        precision: fp32, or that autocast rounded to bfloat16 what it multiplied; trained tensors are float32 in both.
    """

    num_steps: Count = 0
    num_tokens: Count = 0
    seconds: Seconds = 0.0
    loss: Number = None
    eval_loss: Number = Field(default=None, validation_alias=AliasChoices("eval_loss", "held_out_loss"))
    loss_rose: bool | None = None
    precision: str | None = None


class Score(Part):
    """One metric of one scored dataset.

    Attributes:
        metric: with lm-eval's filter behind a comma, where it has one.
        stderr: over items; None where it is not known.
        num_examples: items scored.
        higher_is_better: as the task's definition says.
        majority: the metric of answering all of these items with the most frequent of their gold classes; None where
            answers are no fixed classes, or the metric is none of acc, f1 and mcc.
    """

    task: str
    metric: str
    value: Number = None
    stderr: Number = None
    num_examples: Count = 0
    higher_is_better: bool = True
    majority: Number = None


class RetentionFacts(Part):
    """The loss on held-out text of the kind that the model was pretrained on.

    Attributes:
        text: what it is, without the folder.
        num_tokens: of the text.
        loss_before, loss_after: of the pretrained and of the trained model, nats per token.
    """

    text: str = ""
    num_tokens: Count = 0
    loss_before: Number = None
    loss_after: Number = None

    @property
    def forgetting(self) -> float | None:
        """By how much the loss rose, nats per token; None where it is not known."""
        if self.loss_before is None or self.loss_after is None:
            return None
        return self.loss_after - self.loss_before


class ScoringFacts(Part):
    """How items were scored.

    Attributes:
        batch_size: prompts at a time, after halving for want of memory; of likelihoods only where contexts are not
            shared.
        precision: fp32 for that of the model's weights; bf16 for autocast over them.
        shared_context: whether each context was computed once with all its choices; None where nothing asks for the
            likelihood of a causal model, and in a record from before there was a choice.
        batch_tokens: tokens at a time where contexts were shared, after halving for want of memory.
        num_split: contexts that were computed more than once, because their choices exceed batch_tokens.
        truncated: scored items longer than the model takes, by dataset.
        merged: num_items scored again with the adapter merged into the weights, and num_differing of them answered
            differently; None where nothing can be merged.
    """

    backend: str | None = None
    batch_size: Count | None = None
    precision: str | None = None
    shared_context: bool | None = None
    batch_tokens: Count | None = None
    num_split: Count | None = None
    truncated: dict[str, Count] = {}
    merged: dict[str, Count] | None = None


class ErrorFacts(Part):
    """Why a run failed or stopped, and at which step where that is known."""

    type: str = "Error"
    message: str = "unknown"
    step: Count | None = None
    traceback: str | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" + ("" if self.step is None else f" (step {self.step})")


class FileFacts(Part):
    """One file beside the record."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Count
