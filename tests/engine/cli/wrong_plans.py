"""Wrong commands of ``plan``, and outputs of any mode that cannot be written."""

from tests.engine.cli.wrong_commands import DISTILL, Wrong

PLANS_AND_OUTPUTS: dict[str, Wrong] = {
    "plan: nothing": Wrong(("plan",), ("--config: missing",)),
    "plan: machine, sharding and tasks": Wrong(
        (
            "plan",
            "--config=configs/demo/distill.yaml",
            "--nodes=0",
            "--gpu=h1000",
            "--sharding=whole",
            "--distill.sources=[nope]",
        ),
        (
            "command line: --sharding: must be one of auto, replicated, zero3_hpz, zero3, zero3_offload; got 'whole'",
            "command line: --distill.sources: unknown task 'nope'",
            "command line: --gpu: must be one of a100, h100, h200, l40s, or a YAML file",
            "command line: --nodes: must be a whole number >= 1; got '0'",
        ),
    ),
    "plan: a kind of GPU on CPU ranks": Wrong(
        ("plan", *DISTILL[1:], "--gpu=h100", "--gpus_per_node=0"),
        ("command line: --gpu: h100 is a GPU, but --gpus_per_node is 0; give a machine file that was calibrated",),
    ),
    "plan: memory that is no number": Wrong(
        ("plan", *DISTILL[1:], "--gpu=l40s", "--gpu_gb=inf", "--host_gb=nan"),
        ("--gpu_gb: must be a number >= 0.001; got 'inf'", "--host_gb: must be a number >= 0.001; got 'nan'"),
    ),
    "plan: more memory than the card has": Wrong(
        ("plan", *DISTILL[1:], "--gpu=l40s", "--gpu_gb=1e9"),
        ("command line: --gpu_gb: must be <= 51.5 (48 GiB), the memory of L40S 48 GB, PCIe only; got '1e9'",),
    ),
    "plan: empty backbone": Wrong(
        ("plan", *DISTILL[1:], "--backbone="), ("command line: --backbone: missing; name a backbone card",)
    ),
    "plan: a DeepSpeed file": Wrong(
        ("plan", *DISTILL[1:], "--deepspeed={runs}/ds.json", "--sharding=auto"),
        ("ds.json: optimizer: ", "zero_optimization.stage"),
    ),
    "plan: two variables and a number": Wrong(
        ("plan", *DISTILL[1:2], "--run_dir=$NOPE/a", "--output=$NOPE/b", "--gpus_per_node=x"),
        (
            "command line: --run_dir: $NOPE/a: an environment variable in it is not set",
            "command line: --output: $NOPE/b: an environment variable in it is not set",
            "--gpus_per_node: must be a whole number >= 0; got 'x'",
        ),
    ),
    "plan: samples beyond the backbone's positions, and no folder": Wrong(
        ("plan", *DISTILL[1:2], "--data.max_length=4000000", "--run_dir={runs}/file.txt/a"),
        ("--data.max_length: 4000000 + prompt.num_virtual_tokens 16 is above the backbone's 8192", "--run_dir: "),
    ),
    "distill: samples beyond the backbone's positions": Wrong(
        (*DISTILL, "--data.max_length=4000000"), ("command line: --data.max_length: 4000000 + prompt",)
    ),
    # a file in the way of what is written
    "plan: output below a file": Wrong(
        ("plan", *DISTILL[1:], "--output={runs}/file.txt/x.json"),
        ("command line: --output: {runs}/file.txt is a file; name a place inside a folder",),
    ),
    "plan: output is a folder": Wrong(
        ("plan", *DISTILL[1:], "--output={runs}"), ("command line: --output: {runs} is a folder; name a file",)
    ),
    "plan: output where no file can be": Wrong(
        ("plan", *DISTILL[1:], "--output=/proc/a.json"), ("--output: /proc/a.json: nothing can be written there",)
    ),
    "plan: picture below a file": Wrong(
        ("plan", *DISTILL[1:], "--gpu=h100", "--sweep=nodes=1,2", "--png={runs}/file.txt/x.png"),
        ("command line: --png: {runs}/file.txt is a file; name a place inside a folder",),
    ),
    "report: output below a file": Wrong(
        ("report", "--runs={runs}/gone", "--output={runs}/file.txt/x"),
        ("--runs: {runs}/gone has no results.json", "--output: {runs}/file.txt is a file; name a place inside"),
    ),
    "report: a variable that is not set": Wrong(
        ("report", "--runs={runs}/gone", "--output=$NOPE/x", "--bogus=1"),
        ("--bogus: unknown key", "--output: $NOPE/x: an environment variable", "--runs: {runs}/gone has no results"),
    ),
    "tasks check: output below a file": Wrong(
        ("tasks", "check", "--data_root={runs}", "--output={runs}/file.txt/x.json"),
        ("command line: --output: {runs}/file.txt is a file; name a place inside a folder",),
    ),
    "export: output below a file": Wrong(
        ("export", "--run={runs}/distilled", "--format=peft", "--output={runs}/file.txt/x"),
        ("command line: --output: {runs}/file.txt is a file; name a place inside a folder",),
    ),
    "predict: output below a file": Wrong(
        (
            *("predict", "--run={runs}/adapted", "--task=demo_relations", "--input={runs}/file.txt"),
            "--output={runs}/file.txt/x.jsonl",
        ),
        ("command line: --output: {runs}/file.txt is a file; name a place inside a folder",),
    ),
    "benchmark: output below a file": Wrong(
        ("benchmark", *DISTILL[1:], "--steps=1", "--output={runs}/file.txt/x"),
        ("command line: --output: {runs}/file.txt is a file; name a place inside a folder",),
    ),
    **{
        f"{mode}: a study file": Wrong(
            (mode, "--config=configs/llama31_8b/study.yaml", *more),
            ("this is a study file, which only the mode study takes; name its distill: file (configs/llama31_8b/",),
        )
        for mode, more in {"distill": (), "adapt": (), "plan": (), "benchmark": ("--steps=1",)}.items()
    },
}
