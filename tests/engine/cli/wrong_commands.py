"""Wrong commands of every mode, and what each must be told: one part of a line for each of its problems.

``{runs}`` stands for the folder that ``write_runs`` fills, ``{out}`` for one that nothing may be written to. Here are
mistakes that any mode can have: the form of a command, and its configuration.
"""

from typing import NamedTuple

DISTILL = ("distill", "--config=configs/demo/distill.yaml", "--run_dir={out}/run")
ADAPT = ("adapt", "--config=configs/demo/adapt.yaml", "--run_dir={out}/run")
FROM = "--adapt.source_run={runs}/distilled"


class Wrong(NamedTuple):
    """``told``: a part of each line of the answer, as many as there are problems."""

    command: tuple[str, ...]
    told: tuple[str, ...]


COMMON: dict[str, Wrong] = {
    # the form of a command
    "mode misspelt": Wrong(("distil", *DISTILL[1:]), ("unknown mode 'distil'; did you mean 'distill'?",)),
    "mode misspelt, and more": Wrong(
        ("evaluat", "--run={runs}/gone", "--nonsense"), ("did you mean 'evaluate'?", "--nonsense:", "--run: ")
    ),
    "help of a mode misspelt": Wrong(("distil", "--help"), ("did you mean 'distill'?",)),
    "mode unknown": Wrong(("fly",), ("unknown mode 'fly' (modes: distill, adapt,",)),
    "mode missing": Wrong(("--seed=1",), ("--seed: the mode is missing; write python train.py MODE",)),
    "mode last": Wrong(("--seed=1", *DISTILL[1:], "distill"), ("the mode comes first: python train.py distill",)),
    "unknown flag": Wrong((*DISTILL, "--nonsense"), ("command line: --nonsense: unknown key 'nonsense'",)),
    "near flag": Wrong((*DISTILL, "--teach.stpes=3"), ("--teach.stpes: ",)),
    "mode last, behind another mode's name": Wrong(
        ("--mode", "adapt", "benchmark", "--config=configs/demo/distill.yaml", "--steps=x"),
        (
            "command line: --mode: the mode comes first: python train.py benchmark --mode …",
            "command line: --steps: must be a whole number >= 1; got 'x'",
            "adapt.targets: missing; --mode=adapt needs at least one task",
        ),
    ),
    "mode behind a switch": Wrong(
        ("--overwrite", *DISTILL, "--seed=x"), ("the mode comes first: python train.py distill", "--seed: ")
    ),
    "flag without a value": Wrong(
        ("plan", "--config=configs/demo/distill.yaml", "--nodes"), ("--nodes: needs a value; write --nodes=VALUE",)
    ),
    "flag before a flag": Wrong(
        ("distill", "--config", "--seed=1"), ("--config: needs a value; write --config=VALUE",)
    ),
    "empty config": Wrong(("distill", "--config="), ("--config: is empty; name a YAML run configuration",)),
    "empty run": Wrong(("evaluate", "--run="), ("--run: is empty; name the run directory",)),
    "flag twice": Wrong((*DISTILL, "--seed=1", "--seed", "2"), ("--seed: duplicate flag, with '1' and '2'",)),
    "flag twice, two spellings": Wrong((*DISTILL, "--run-dir=x"), ("--run_dir: duplicate flag",)),
    "word": Wrong((*DISTILL, "fast"), ("'fast': not a flag; write --key=value",)),
    "file without a flag": Wrong(
        ("distill", "configs/demo/distill.yaml"),
        ("--config: missing", "not a flag; write --config=configs/demo/distill.yaml"),
    ),
    "key without dashes": Wrong((*DISTILL, "seed=1"), ("'seed=1': not a flag; write --seed=1",)),
    "key as a word": Wrong((*DISTILL, "overwrite"), ("'overwrite': not a flag; write --overwrite=VALUE",)),
    "switch with a word": Wrong(
        ("plan", "--config=configs/demo/distill.yaml", "--prepare", "yes", "--nodes=0", "--overwrite", "perhaps"),
        (
            "command line: --prepare: must be true or false; got 'yes'",
            "command line: --nodes: ",
            "command line: --overwrite: must be true or false; got 'perhaps'",
        ),
    ),
    "switch before a key without dashes": Wrong(
        (*DISTILL, "--overwrite", "seed=1"), ("'seed=1': not a flag; write --seed=1",)
    ),
    "switch before another mode's name": Wrong(
        (*DISTILL, "--overwrite", "adapt"), ("'adapt': not a flag; write --key=value",)
    ),
    "negation": Wrong((*DISTILL, "--nooverwrite"), ("--nooverwrite: unknown flag; write --overwrite=false",)),
    "separator": Wrong((*DISTILL, "--", "--seed=1"), ("'--' has no meaning here",)),
    "launcher's flag": Wrong(
        (*DISTILL, "--nproc_per_node=2"), ("--nproc_per_node: belongs to the launcher; write it before train.py",)
    ),
    "launcher's flags, dashes": Wrong(
        (*DISTILL, "--nproc-per-node", "2", "--standalone"),
        ("--nproc_per_node: belongs to the launcher", "--standalone: belongs to the launcher"),
    ),
    # a required flag that is missing hides no other problem
    "distill: empty config, and more": Wrong(
        ("distill", "--config=", "--teach.steps=many", "--nonsense"),
        ("--config: is empty", "--teach.steps: must be a whole number; got 'many'", "--nonsense: "),
    ),
    "adapt: no config, and more": Wrong(
        ("adapt", "--config", "--adapt.methods=foo"), ("--config: needs a value", "--adapt.methods: must be one of ")
    ),
    "study: empty config, and more": Wrong(
        ("study", "--config=", "--dry_run", "yes", "--seed=x", "--backbone"),
        (
            "--config: is empty; name a YAML protocol, such as configs/pocket/study.yaml",
            "--dry_run: must be true or false; got 'yes'",
            "--seed: ",
            "--backbone: needs a value",
        ),
    ),
    "benchmark: empty config, and more": Wrong(
        ("benchmark", "--config=", "--profile", "2", "--alternate", "maybe", "--mode=train", "--seed=x"),
        ("--config: ", "--steps: missing; ", "--profile: ", "--alternate: ", "--mode: must be one of", "--seed: "),
    ),
    "benchmark: no such file, and more": Wrong(
        ("benchmark", "--config=gone.yaml", "--steps=0", "--mode=adapt", "--invented=a", "--beside=foo"),
        ("gone.yaml: ", "--steps: ", "--invented: ", "--beside: "),
    ),
    "plan: no config, and more": Wrong(
        ("plan", "--gpu=h1000", "--nodes=x", "--mode=train", "--seed=x", "--sweep=foo"),
        ("--config: missing", "--gpu: ", "--nodes: ", "--mode: ", "--seed: ", "--sweep: "),
    ),
    "evaluate: no run, and more": Wrong(
        ("evaluate", "--data.max_length=9", "--evaluate.batch_size=0", "--nonsense"),
        (
            "--run: missing; name the run directory of a finished run",
            "--data.max_length: belongs to the run",
            "command line: --evaluate.batch_size: must be > 0; got 0",
            "--nonsense: ",
        ),
    ),
    "predict: two flags missing, and more": Wrong(
        ("predict", "--input={runs}/none", "--output={out}/a/b.jsonl", "--evaluate.batch_size=x"),
        ("--run: missing", "--task: missing", "--input: {runs}/none", "--output: {out}/a", "--evaluate.batch_size: "),
    ),
    "export: two flags missing, and more": Wrong(
        ("export", "--output={runs}"),
        ("--run: missing", "--format: missing; write peft, peft_collapsed or vllm", "--output: {runs} already exists"),
    ),
    "merge: no output, and more": Wrong(
        ("merge", "--runs={runs}/distilled,{runs}/stopped", "--sum=a=b,=c,d", "--sum_of=lora/full"),
        (
            "--output: missing; name a new folder",
            "is not an adaptation",
            "{runs}/stopped is not finished",
            "--sum: must be like NAME=0.5*task1+0.5*task2; got '=c'",
            "--sum: must be like NAME=0.5*task1+0.5*task2; got 'd'",
            "--sum_of: must be metaprompt/SHOTS or prompt_tuning/SHOTS; got 'lora/full'",
        ),
    ),
    "report: no runs, and more": Wrong(
        ("report", "--vocabulary", "perhaps", "--output={runs}/file.txt"),
        ("--runs: missing; name run directories", "--vocabulary: ", "--output: {runs}/file.txt is "),
    ),
    "tasks: no data root, and more": Wrong(
        ("tasks", "--overlap", "check", "--max_length=0", "--backbone=gone.yaml", "--cards={runs}/none"),
        (
            "--data_root: missing",
            "--max_length: ",
            "command line: --backbone: gone.yaml: ",
            "command line: --cards: folder {runs}/none does not exist",
        ),
    ),
    # values, from the command line and from a file
    "wrong type": Wrong((*DISTILL, "--teach.steps=many"), ("command line: --teach.steps: ",)),
    "wrong choice": Wrong(
        (*DISTILL, "--sharding=whole"),
        ("command line: --sharding: must be one of auto, replicated, zero3_hpz, zero3, zero3_offload; got 'whole'",),
    ),
    "out of bounds": Wrong(
        (*DISTILL, "--max_tokens_per_micro_batch=0"), ("command line: --max_tokens_per_micro_batch",)
    ),
    "between two keys": Wrong(
        (*DISTILL, "--prompt.rank=99"),
        ("command line: --prompt.rank: must be <= prompt.num_virtual_tokens (16); got 99",),
    ),
    "between a flag and the file": Wrong(
        (*DISTILL, "--distill.without=demo_qu"), ("command line: --distill.without: 'demo_qu'",)
    ),
    "file that is not there": Wrong(
        ("distill", "--config={runs}/gone.yaml", "--teach.steps=many"),
        ("{runs}/gone.yaml: ", "command line: --teach.steps: "),
    ),
    "everything in the file": Wrong(
        ("distill", "--config={runs}/wrong.yaml"),
        (
            "{runs}/wrong.yaml, line 2: backbone: ",
            "{runs}/wrong.yaml, line 3: unknown key 'sedd'",
            "{runs}/wrong.yaml, line 5: data.root: ",
            "{runs}/wrong.yaml, line 8: teach.steps: ",
            "{runs}/wrong.yaml, line 10: distill.sources: unknown task 'demo_qu'",
        ),
    ),
    "the same from both places": Wrong(
        ("distill", "--config={runs}/wrong.yaml", "--data.root={runs}/none", "--seed=x", "--nonsense"),
        (
            "--nonsense: ",
            "command line: --seed: ",
            "wrong.yaml, line 2: backbone: ",
            "unknown key 'sedd'",
            "command line: --data.root: {runs}/none",
            "line 8: teach.steps: ",
            "line 10: distill.sources: ",
        ),
    ),
    # what a configuration names
    "backbone, data, task, folder, signal": Wrong(
        (
            "distill",
            "--config=configs/demo/distill.yaml",
            "--backbone=gone.yaml",
            "--data.root={runs}/none",
            "--distill.sources=demo_qa,demo_qu",
            "--run_dir={runs}/file.txt",
        ),
        (
            "command line: --backbone: gone.yaml does not exist",
            "command line: --data.root: {runs}/none",
            "command line: --distill.sources: unknown task 'demo_qu'; did you mean 'demo_qa'?",
            "command line: --run_dir: {runs}/file.txt is a file",
        ),
    ),
    "released files are missing": Wrong(
        (*DISTILL, "--data.root={runs}", "--distill.sources=demo_qa"),
        ("task demo_qa, split train: not found in {runs}/demo_qa", "task demo_qa, split validation: not found"),
    ),
    "no sources": Wrong((*DISTILL, "--distill.sources="), ("distill.sources: missing",)),
    "no such signal": Wrong(
        (*DISTILL, "--preempt_signal=KILL"),
        ("command line: --preempt_signal: must be a signal that a process can catch, for example USR1; got 'KILL'",),
    ),
    "cards that are not there": Wrong((*DISTILL, "--data.cards={runs}/none"), ("command line: --data.cards: ",)),
    "teachers that are not there": Wrong(
        (*DISTILL, "--teach.run={runs}/adapted"), ("command line: --teach.run: {runs}/adapted holds no finished",)
    ),
    "run directory of another mode": Wrong(
        ("distill", "--config=configs/demo/distill.yaml", "--run_dir={runs}/adapted"),
        ("command line: --run_dir: {runs}/adapted holds a run of mode adapt",),
    ),
    "run directory of another configuration": Wrong(
        ("distill", "--config=configs/demo/distill.yaml", "--run_dir={runs}/distilled", "--distill.steps=7"),
        ("config.distill.steps: the checkpoint has 40, this run 7",),
    ),
    "DeepSpeed file": Wrong(
        (*DISTILL, "--deepspeed={runs}/ds.json", "--sharding=auto"), ("ds.json: optimizer: ", "zero_optimization.stage")
    ),
}
