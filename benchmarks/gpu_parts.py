"""What ``benchmarks.gpu`` runs: each part's command, seconds and memory."""

from dataclasses import dataclass

STEPS = [
    "--activation_checkpointing=none",
    "--distill.batch_size=128",
    "--max_tokens_per_micro_batch=16384",
    "--invented",
    "90,10",
]
RESIDENT = ["--sharding=replicated", "--steps", "4", "--warmup", "2", "--sweep", "distill.teacher_cache=auto,off"]
OFFLOADED = ["--sharding=zero3_offload", "--steps", "2", "--warmup", "1", "--distill.teacher_cache=off"]
SMALL = [
    "--sharding=replicated",
    "--distill.batch_size=8",
    "--max_tokens_per_micro_batch=1024",
    "--invented",
    "20,5,8",
    "--steps",
    "1",
    "--warmup",
    "1",
    "--prompt.num_virtual_tokens=8",
    "--sweep",
    "distill.teacher_cache=auto,off",
]
PEFT_NEEDS = 100e9  # bytes of a device, for its micro-batch of 16,384 tokens of Llama 8B; 80 GB were too few


@dataclass(frozen=True)
class Part:
    """command: after the interpreter. seconds: that it takes on an H100; at twice that it is ended. gb: free on the
    device that it needs.

    steps: it is ``train.py benchmark``; result: the name, before the device, of a file that the command writes.
    """

    name: str
    command: tuple[str, ...]
    seconds: int
    gb: float
    steps: bool = False
    result: str = ""


def _steps(name: str, backbone: str, seconds: int, gb: float, more: list[str]) -> Part:
    files = ["--config", f"configs/{backbone}/distill.yaml", f"--backbone=configs/{backbone}/shape.yaml"]
    return Part(name, ("train.py", "benchmark", *files, *STEPS, *more), seconds, gb, steps=True)


def _small(name: str, backbone: str) -> Part:
    files = ["--config", "configs/pocket/distill.yaml", f"--backbone=configs/tiny/{backbone}.yaml"]
    return Part(name, ("train.py", "benchmark", *files, *SMALL), 60, 0, steps=True)


def _component(module: str, *arguments: str, seconds: int, gb: float = 8, name: str = "") -> Part:
    return Part(name or module, ("-m", f"benchmarks.{module}", *arguments), seconds, gb, result=module)


def parts(small: bool, memory: float) -> list[Part]:
    """In the order in which they run: what the time must hold comes first.

    memory: bytes of the device. PEFT's padded micro-batch of 16,384 tokens of Llama 8B does not fit into 80 GB.
    """
    command = ("-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider")
    tests = Part("tests", command, 70, 0 if small else 8)
    if small:
        return [
            tests,
            _component("ceilings", "--repeats", "2", seconds=30, gb=0),
            _small("llama", "llama"),
            _small("gpt-oss", "gpt_oss"),
            _component(
                "vs_peft",
                "--shape",
                "pocket",
                "--regimes",
                "short",
                "--stages",
                "teach",
                "--pairs",
                "1",
                "--no_memory",
                seconds=90,
                gb=0,
            ),
        ]
    beside = [
        "--regimes",
        "short",
        "--stages",
        "teach",
        "--pairs",
        "3",
        "--no_memory",
        "--samples",
        "128",
        "--tasks",
        "8",
    ]
    tokens = "16384" if memory > PEFT_NEEDS else "8192"
    llama, gpt_oss = (
        ["--shape", "llama_8b", "--max_tokens_per_micro_batch", tokens],
        ["--shape", "gpt_oss_20b", "--max_tokens_per_micro_batch", "8192", "--methods", "peft,packed"],
    )
    return [
        tests,
        _component("ceilings", seconds=20, gb=16),
        _steps("llama", "llama31_8b", 60, 72, RESIDENT),
        _steps("gpt-oss", "gpt_oss_20b", 60, 50, RESIDENT),
        _component("vs_peft", *beside, *llama, seconds=55, gb=60),
        _component("vs_peft", *beside, *gpt_oss, seconds=55, gb=60, name="vs_peft-gpt-oss"),
        _steps("llama-offloaded", "llama31_8b", 60, 66, OFFLOADED),
        _component("attention", "--repeats", "8", seconds=25),
        _component("loss", "--repeats", "5", seconds=25, gb=20),
        _component("projection", "--repeats", "20", seconds=35),
    ]
