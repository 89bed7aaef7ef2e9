"""The run configuration. Every key a YAML file or a ``--a.b=value`` flag may name stands here, with its default and
meaning.
"""

from dataclasses import dataclass, field
from typing import Literal

DECOMPOSED = ("metaprompt", "multitask_prompt")  # methods of an adaptation that start from a distillation
TRAINED = (*DECOMPOSED, "prompt_tuning", "lora")
UNTRAINED = ("instruction", "in_context")  # methods of an adaptation that are scored and need no training


@dataclass
class DataConfig:
    root: str = ""
    """Data root: one folder per corpus, as released. ``$NAME`` is taken from the environment."""
    cards: list[str] = field(default_factory=list)
    """Folders of further task cards; a card there replaces an embedded one of the same name."""
    cache: str = ".cache/tokens"
    """Tokenised examples (they hold note text: files 0600, folders 0700)."""
    max_length: int = 1024
    """Longest sample in tokens, prompt not counted. NER and RE documents are split to it; others are dropped,
    counted and reported.
    """
    max_train: int = 0
    """Use at most this many training examples per task, chosen by hash; 0 is all."""
    max_validation: int = 100
    """Use at most this many validation examples per task; 0 is all."""
    max_test: int = 0
    """Use at most this many test examples per task; 0 is all."""
    decontaminate_against: list[str] = field(default_factory=list)
    """Of a distillation: the tasks it will be adapted to. Their test documents are looked for in the sources' training
    documents (same id, same or nearly the same text); what is found is told, and stands in results and report of the
    adaptations.
    """
    drop_contaminated: bool = False
    """Leave what is found so out of the sources' training documents. Test documents are never left out."""


@dataclass
class PromptConfig:
    num_virtual_tokens: int = 100
    """L, virtual tokens."""
    rank: int = 1
    """R of a task's update."""
    init: Literal["vocabulary", "text", "instruction"] = "vocabulary"
    """Start of soft prompts: embeddings of sampled vocabulary entries, of ``init_text``, or of the task's written
    instruction (its card's). The metaprompt is all tasks': under ``instruction`` it starts from the vocabulary.
    """
    init_text: str = ""
    """Text to start from."""


@dataclass
class TeachConfig:
    steps: int = 300
    """Steps of each teacher's own optimizer rows."""
    batch_size: int = 8
    """Examples of each task in a step."""
    relative_lr: float = 0.3
    """Peak learning rate, in multiples of the RMS of the backbone's input embeddings."""
    warmup_steps: int = 10
    """In a row's own steps."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """After the warm-up."""
    max_grad_norm: float = 1.0
    """Largest gradient norm of a row; 0 is off."""
    eval_interval: int = 50
    """Steps between validations; each row keeps its best. 0 keeps the last step."""
    patience: int = 0
    """A row stops after this many validations without a better one; 0 never."""
    adapters: str = ""
    """A folder of PEFT prompt-tuning adapters, one of each source task's name: the teachers, in place of teaching
    them.
    """
    run: str = ""
    """Run directory of a distillation whose teachers are taken, in place of teaching the same ones again; it may
    have more source tasks.
    """


@dataclass
class DistillConfig:
    sources: list[str] = field(default_factory=list)
    """Source tasks."""
    without: list[str] = field(default_factory=list)
    """Of these leave out so many: what each is worth to the others."""
    steps: int = 600
    """Global steps."""
    batch_size: int = 32
    """Examples in a step, over all tasks."""
    sampler: Literal["uniform", "proportional", "capped"] = "uniform"
    """How tasks are drawn: alike, by their number of examples, or by min(examples, cap)."""
    cap: int = 10000
    """Of the sampler ``capped``."""
    task_subsets: bool = True
    """Per step draw a number of tasks from 2..K, then that many tasks (MPT)."""
    relative_lr_shared: float = 0.3
    """Peak learning rate of the metaprompt, in multiples of the RMS of the backbone's input embeddings."""
    lr_task: float = 0.1
    """Peak learning rate of the factors."""
    warmup_steps: int = 10
    """In a row's own steps."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """After the warm-up."""
    max_grad_norm: float = 1.0
    """Largest gradient norm, of the metaprompt and of each task's factors; 0 is off."""
    lambda_kl: float = 0.9
    """Weight of T^2 KL(teacher || student)."""
    lambda_hidden: float = 0.9
    """Weight of the MSE of last hidden states."""
    temperature: float = 1.0
    """T."""
    teacher_cache: str = "auto"
    """Keep what teachers say of each answer token on disk, beside data.cache: ``auto`` where samples are read again and
    there is room, ``off``, or the most GB it may take.
    """

    @property
    def tasks(self) -> list[str]:
        """The source tasks that are left."""
        return [task for task in self.sources if task not in self.without]


@dataclass
class AdaptConfig:
    source_run: str = ""
    """Run directory of the distillation."""
    targets: list[str] = field(default_factory=list)
    """Target tasks."""
    multitask_run: str = ""
    """Of method multitask_prompt: run directory of a distillation without teachers (``distill.lambda_kl`` and
    ``lambda_hidden`` 0).
    """
    methods: list[Literal["metaprompt", "prompt_tuning", "multitask_prompt", "lora", "instruction", "in_context"]] = (
        field(default_factory=lambda: ["metaprompt", "prompt_tuning"])
    )
    """What to hold against one another on each target: ``multitask_prompt`` is a metaprompt that was trained without
    teachers, ``lora`` low-rank updates of every linear layer. Two train nothing: ``instruction``, the card's written
    instruction (at shots 0), and ``in_context``, the instruction and solved examples: of every number in ``shots`` and
    every seed, the very few-shot set that is trained on.
    """
    transfer: list[str] = field(default_factory=list)
    """Source tasks: the metaprompt is adapted from the factors of each one alone too, as ``metaprompt@task:NAME``
    (a transfer matrix).
    """
    shots: list[str] = field(default_factory=lambda: ["full"])
    """Training set sizes: ``full``, or a number of examples; ``0`` is zero-shot (of prompt tuning: its untrained
    start). Few-shot sets are fixed by seed, nested, and stratified by label where answers are labels.
    """
    seeds: list[int] = field(default_factory=lambda: [0])
    """Each draws its own few-shot set, data order and start."""
    steps: int = 150
    """Steps of each row."""
    batch_size: int = 8
    """Examples of each row in a step."""
    init: str = "auto"
    """Factors' start: mean_factors, mean_product, ones, task:NAME; auto is mean_factors for rank 1, mean_product
    above.
    """
    train: Literal["factors", "all"] = "factors"
    """Train U and V, or P* too (one copy per row)."""
    relative_lr_shared: float = 0.3
    """Peak learning rate of P* under ``train: all``, in multiples of the RMS of the backbone's input embeddings."""
    lr_task: float = 0.1
    """Peak learning rate of the factors."""
    relative_lr_prompt: float = 0.3
    """Peak learning rate of prompt tuning, in multiples of the RMS of the backbone's input embeddings."""
    lr_lora: float = 1e-3
    """Peak learning rate of LoRA."""
    lora_rank: int = 16
    """r of LoRA; its alpha is r."""
    warmup_steps: int = 10
    """In a row's own steps."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """After the warm-up."""
    max_grad_norm: float = 1.0
    """Largest gradient norm of a row; 0 is off."""
    eval_interval: int = 50
    """Steps between validations of full-data rows, which keep their best. 0 keeps the last step."""
    patience: int = 0
    """A row stops after this many validations without a better one; 0 never."""
    few_shot_validation: bool = False
    """Let few-shot rows choose their best step on the validation split too."""


@dataclass
class LrSweepConfig:
    """Learning rates that are tried on validation data before training for good: of an adaptation's methods, and of a
    distillation's teachers. All of them train in one pass. The best mean score of the tasks is taken; equal scores are
    told apart by cross-entropy.
    """

    metaprompt: list[float] = field(default_factory=list)
    """Peak learning rates of the factors. Empty: adapt.lr_task is used."""
    multitask_prompt: list[float] = field(default_factory=list)
    """Likewise."""
    relative_lr_shared: list[float] = field(default_factory=list)
    """Of P* under ``adapt.train: all``, each with every rate of the factors. Empty: it keeps its ratio to them
    (adapt.relative_lr_shared to adapt.lr_task)."""
    relative_lr_prompt: list[float] = field(default_factory=list)
    """Of prompt tuning. Empty: adapt.relative_lr_prompt is used."""
    relative_lr_teach: list[float] = field(default_factory=list)
    """Of the teachers of a distillation. Empty: teach.relative_lr is used."""
    lora: list[float] = field(default_factory=list)
    """Empty: adapt.lr_lora is used."""
    shots: list[str] = field(default_factory=list)
    """Training set sizes to choose a rate for; the others take that of the nearest. Empty: all of adapt.shots."""
    seed: int = 100
    """Draws their few-shot sets, data order and starts; none of adapt.seeds."""

    def any(self) -> bool:
        """Whether an adaptation has anything to choose from."""
        return bool(
            self.metaprompt or self.multitask_prompt or self.relative_lr_shared or self.relative_lr_prompt or self.lora
        )


@dataclass
class EvaluateConfig:
    max_new_tokens: int = 64
    """Longest generated answer."""
    batch_size: int = 32
    """Sequences generated at once on a rank; decides memory and speed, never the result."""
    max_context: int = 8192
    """Longest context of in_context in tokens: instruction, solved examples, input and the room for its answer. Never
    more than the backbone's positions. A row of which no context holds an example gets no score.
    """
    split: Literal["test", "validation"] = "test"
    """What to score on. ``validation``, for choosing settings, leaves results.json alone: see
    results_validation.json.
    """
    likelihood: Literal["sum", "mean"] = "sum"
    """Compare options by the log-likelihood of their tokens, end token included, or by its mean per token
    (length-normalised).
    """
    resamples: int = 1000
    """Bootstrap resamples of the documents for the intervals in results; 0 is off."""
    instruction: bool = False
    """Score each task's written instruction too, in place of a prompt; nothing is trained for it. Of any run,
    whatever its adapt.methods.
    """
    server: str = ""
    """Have a vLLM server (``vllm serve MODEL --enable-prompt-embeds``), such as http://localhost:8000, generate the
    answers; choices are compared here. What is sent are embeddings of the notes' tokens, which can be turned back into
    text.
    """
    server_model: str = ""
    """The model's name there; default: the card's ``path``."""
    server_remote: bool = False
    """Let ``server`` be another machine."""


@dataclass
class LogConfig:
    interval: int = 10
    """Steps between log lines."""
    tensorboard: bool = True
    """Write event files."""


@dataclass
class CheckpointConfig:
    interval: int = 100
    """Steps between checkpoints; the last step is always kept."""
    keep: int = 2
    """How many of the newest to keep."""


@dataclass
class RunConfig:
    run_dir: str = ""
    """Everything a run writes goes here."""
    backbone: str = ""
    """Path of a backbone card."""
    sharding: Literal["auto", "replicated", "zero3_hpz", "zero3", "zero3_offload"] = "auto"
    """Where the frozen backbone lives: whole on each device; in ZeRO-3 shards on devices, a second set within each
    node, or one set; in shards on hosts. ``auto`` takes the fastest that is predicted to fit.
    """
    deepspeed: str = ""
    """A DeepSpeed JSON of your own (ZeRO and precision only), in place of a sharding's file in ds_configs/."""
    seed: int = 0
    """Of starts, data order and subsets."""
    max_tokens_per_micro_batch: int = 4096
    """Tokens of a micro-batch, prompts and padding counted; decides memory, never the result."""
    batching: Literal["packed", "padded"] = "packed"
    """``packed``: each prompt once per micro-batch, no padding, head and losses on answer tokens only. ``plain``: one
    padded row per sample, whole logits; the same result, slower, for checks and for families that packed rows do not
    know.
    """
    activation_checkpointing: Literal["auto", "none", "all", "all_offloaded"] = "auto"
    """Layers whose activations are computed again in the backward pass; ``all_offloaded`` keeps the layers' inputs in
    host memory besides, for samples of tens of thousands of tokens; ``auto``: as little as fits.
    """
    fused: Literal["auto", "off"] = "auto"
    """On a GPU, norms, SwiGLU and rotary positions are one kernel each, what lies between products of gpt-oss's
    experts three; ``off``: as in transformers.
    """
    deterministic: bool = False
    """On a GPU, compute the same bits in every run on the same kind of card with the same versions, ranks and
    sharding; what it costs: docs/fast_path.md. An operator that cannot do so ends the run. CPUs do so anyway.
    """
    dummy_weights: bool = False
    """Draw the backbone's weights from its card's seed, full shapes, in place of reading files: to measure speed
    without them.
    """
    preempt_signal: str = "USR1"
    """Beside SIGTERM: at the next step save, and leave with exit code 75. So do files SAVE (and go on) and STOP in
    run_dir.
    """
    max_nonfinite_steps: int = 50
    """End the run when a row's gradient was not finite in so many steps running (each such step leaves the row as
    it was); 0 never.
    """
    hang_minutes: float = 30.0
    """A rank that makes no progress for so long ends the job and says where it was."""
    overwrite: bool = False
    """Ignore checkpoints in run_dir and start again."""
    accept_changes: bool = False
    """Go on from a checkpoint of another configuration, data or backbone (same tasks, same shapes). Said aloud, and
    kept in checkpoints and results.
    """
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    lr_sweep: LrSweepConfig = field(default_factory=LrSweepConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


# where a run happens and how it is cut up, not what it computes: may change between a checkpoint and its resumption
# (dummy weights are another backbone, which its own hash tells)
FREE_ON_RESUME = (
    "run_dir",
    "sharding",
    "deepspeed",
    "max_tokens_per_micro_batch",
    "batching",
    "activation_checkpointing",
    "fused",
    "deterministic",
    "dummy_weights",
    "preempt_signal",
    "max_nonfinite_steps",
    "hang_minutes",
    "overwrite",
    "accept_changes",
    "data.root",
    "data.cache",
    "teach.adapters",
    "teach.run",
    "distill.teacher_cache",
    "log",
    "checkpoint",
    "evaluate",
)
