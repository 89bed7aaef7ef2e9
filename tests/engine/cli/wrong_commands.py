"""Wrong commands of every mode, and what each must be told: one part of a line for each of its problems.

``{runs}`` stands for the folder that ``write_runs`` fills, ``{out}`` for one that nothing may be written to.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from engine.benchmarking.cases import asked_of, request_of
from engine.config.loader import resolve, to_yaml
from engine.config.resume_check import compared

DISTILL = ("distill", "--config=configs/demo/distill.yaml", "--run_dir={out}/run")
ADAPT = ("adapt", "--config=configs/demo/adapt.yaml", "--run_dir={out}/run")
FROM = "--adapt.source_run={runs}/distilled"


class Wrong(NamedTuple):
    """``told``: a part of each line of the answer, as many as there are problems."""

    command: tuple[str, ...]
    told: tuple[str, ...]


TABLE: dict[str, Wrong] = {
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
    "adapt: no source": Wrong(
        (*ADAPT, "--adapt.source_run={runs}/none"), ("--adapt.source_run: {runs}/none does not",)
    ),
    "adapt: source is stopped": Wrong(
        (*ADAPT, "--adapt.source_run={runs}/teaching"),
        ("--adapt.source_run: {runs}/teaching is not finished: teach reached step 6 of 40",),
    ),
    "adapt: source is an adaptation": Wrong(
        (*ADAPT, "--adapt.source_run={runs}/adapted"), ("{runs}/adapted is not a distillation but a run of adapt",)
    ),
    "adapt: everything": Wrong(
        (
            *ADAPT,
            FROM,
            "--backbone=configs/tiny/gpt_oss.yaml",
            "--prompt.rank=2",
            "--adapt.init=task:demo_qu",
            "--adapt.targets=demo_relation",
        ),
        (
            "command line: --backbone: configs/tiny/gpt_oss.yaml is not the one that",
            "command line: --prompt.rank: 2, but the metaprompt of",
            "command line: --adapt.init: 'demo_qu' is not a source task",
            "command line: --adapt.targets: unknown task 'demo_relation'; did you mean 'demo_relations'?",
        ),
    ),
    # commands that read runs
    "evaluate: no run": Wrong(("evaluate", "--run={runs}/none"), ("--run: {runs}/none is not a run directory",)),
    "evaluate: no run, with wrong values": Wrong(
        ("evaluate", "--run={runs}/none", "--overwrite", "perhaps", "--evaluate.batch_size=0"),
        ("--run: {runs}/none is not a run directory", "--overwrite: must be true or false", "--evaluate.batch_size: "),
    ),
    "evaluate: unset variable, with wrong values": Wrong(
        ("evaluate", "--run=$NOT_SET/a", "--data.max_length=9", "--evaluate.batch_size=0"),
        ("--run: $NOT_SET/a: ", "--data.max_length: belongs to the run", "--evaluate.batch_size: "),
    ),
    "evaluate: stopped": Wrong(
        ("evaluate", "--run={runs}/stopped"),
        (
            "--run: {runs}/stopped is not finished: adapt reached step 10 of 20; continue it with: python train.py "
            "adapt --config={runs}/stopped/config.yaml",
        ),
    ),
    "evaluate: stopped as it taught": Wrong(
        ("evaluate", "--run={runs}/teaching"),
        (
            "is not finished: teach reached step 6 of 40; continue it with: python train.py distill "
            "--config={runs}/teaching/teachers/config.yaml",
        ),
    ),
    "evaluate: everything": Wrong(
        (
            "evaluate",
            "--run={runs}/distilled",
            "--tasks=demo_qu",
            "--data.max_length=9",
            "--evaluate.batch_size=0",
            "--data.root={runs}/none",
        ),
        (
            "--data.max_length: belongs to the run; evaluate can change ",
            "command line: --evaluate.batch_size: ",
            "command line: --tasks: 'demo_qu' is not in",
            "command line: --data.root: {runs}/none",
        ),
    ),
    "predict: everything": Wrong(
        ("predict", "--run={runs}/distilled", "--task=demo_qu", "--input={runs}/none", "--output={out}/a/b.jsonl"),
        ("--task: 'demo_qu' is not in", "--input: {runs}/none does not exist", "--output: {out}/a is not a folder"),
    ),
    "predict: over what is there": Wrong(
        (
            "predict",
            "--run={runs}/adapted",
            "--task=demo_relations",
            "--input={runs}",
            "--output={runs}/file.txt",
        ),
        ("--output: {runs}/file.txt already exists; name another, or give --overwrite=true to write over it",),
    ),
    "predict: into a folder of another task": Wrong(
        ("predict", "--run={runs}/adapted", "--task=demo_relations", "--input={runs}", "--output={out}/brat/"),
        ("--output: a folder of .ann files is for NER; demo_relations is re: name a .jsonl file",),
    ),
    "predict: nothing": Wrong(
        ("predict",), ("--run: missing", "--task: missing", "--input: missing", "--output: missing")
    ),
    "predict: no such row": Wrong(
        (
            "predict",
            "--run={runs}/adapted",
            "--task=demo_relations",
            "--method=lora",
            "--input={runs}",
            "--output={out}/b.jsonl",
        ),
        ("has no row lora * * of demo_relations",),
    ),
    "report: not evaluated": Wrong(
        ("report", "--runs={runs}/none,{runs}/distilled,{runs}/stopped", "--vocabulary=perhaps"),
        ("--vocabulary: ", "{runs}/none", "train.py evaluate --run {runs}/distilled", "adapt reached step 10 of 20"),
    ),
    "export: everything": Wrong(
        ("export", "--run={runs}/distilled", "--format=onnx", "--output={runs}", "--tasks=demo_qu"),
        (
            "--format: must be one of peft, peft_collapsed, vllm; got 'onnx'",
            "--output: {runs} already exists; name a new folder",
            "--tasks: 'demo_qu'",
        ),
    ),
    "export: stopped": Wrong(
        ("export", "--run={runs}/stopped", "--format=peft", "--output={out}/x"), ("adapt reached step 10 of 20",)
    ),
    "merge: everything": Wrong(
        ("merge", "--runs={runs}/adapted,{runs}/adapted,{runs}/distilled,{runs}/stopped", "--output={runs}"),
        (
            "--output: {runs} already exists; name a new folder",
            "--runs: duplicate run directory {runs}/adapted",
            "{runs}/distilled is not an adaptation but a run of",
            "{runs}/stopped is not finished",
        ),
    ),
    # the other modes
    "tasks: nothing": Wrong(("tasks",), ("tasks: must be followed by one of list | check; got nothing",)),
    "tasks: everything": Wrong(
        ("tasks", "check", "--data_root={runs}/none", "--tasks=pubmedq", "--max_length=0", "--overlap=maybe"),
        ("--tasks: ", "--data_root: {runs}/none", "--overlap: ", "--max_length: "),
    ),
    "study: everything": Wrong(
        (
            "study",
            "--config={runs}/whole_study.yaml",
            "--only=few,few_shot",
            "--backbone=gone.yaml",
            "--dry_run=perhaps",
        ),
        (
            "--dry_run: ",
            "--only: must be one of metaprompt, few_shot; got 'few'",
            "command line: --backbone: gone.yaml does not exist",
            "{runs}/wrong_data.yaml, line 2: data.root: ",
        ),
    ),
    "study: a name misspelt": Wrong(
        ("study", "--config={runs}/whole_study.yaml", "--only=few_shots"),
        ("--only: must be one of metaprompt, few_shot; got 'few_shots'; did you mean 'few_shot'?",),
    ),
    "study: wrong values with a wrong name": Wrong(
        ("study", "--config={runs}/whole_study.yaml", "--only=few", "--seed=x"),
        ("--seed: ", "--only: "),
    ),
    "study: the protocol": Wrong(
        ("study", "--config={runs}/study.yaml"),
        ("{runs}/study.yaml, line 1: unknown key 'run_dr'", "adapt: missing", "run_dir: missing"),
    ),
    "benchmark: everything": Wrong(
        (
            "benchmark",
            "--config=configs/demo/distill.yaml",
            "--mode=train",
            "--shardings=whole",
            "--steps=none",
            "--invented=many",
            "--sweep=seed",
            "--compare={runs}/none.json",
            "--backbone=gone.yaml",
        ),
        ("--mode: ", "--shardings: ", "--steps: ", "--invented: ", "--sweep: ", "--compare: ", "--backbone: "),
    ),
    "benchmark: no steps": Wrong(("benchmark", "--config=configs/demo/distill.yaml"), ("--steps: missing",)),
    "benchmark: flags that exclude one another": Wrong(
        (
            "benchmark",
            "--config=configs/demo/distill.yaml",
            "--steps=1",
            "--sharding=zero3",
            "--shardings=replicated",
            "--sweep=max_tokens_per_micro_batch=abc;sharding=zero3",
            "--compare_anyway=true",
            "--output=",
        ),
        (
            "command line: --output: is empty",
            "command line: --compare_anyway: has no effect without --compare",
            "command line: --shardings: sharding is in --shardings and --sharding; keep one",
            "command line: --sweep: sharding is in --sweep and --shardings; keep one",
            "command line: --max_tokens_per_micro_batch: must be a whole number; got 'abc'",
        ),
    ),
    "benchmark: each case of a sweep": Wrong(
        (
            "benchmark",
            "--config=configs/demo/distill.yaml",
            "--steps=1",
            "--sweep=data.root={runs}/gone,{runs}/file.txt;seed=1,2",
        ),
        (
            "command line: --sweep: data.root: {runs}/gone is not a folder",
            "command line: --sweep: data.root: {runs}/file.txt is not a folder",
        ),
    ),
    "benchmark: a variable that is not set": Wrong(
        ("benchmark", "--config=configs/demo/distill.yaml", "--steps=x", "--run_dir=$NOT_SET/a"),
        ("--steps: ", "command line: --run_dir: $NOT_SET/a: an environment variable in it is not set"),
    ),
    "benchmark: PEFT beside an adaptation": Wrong(
        ("benchmark", "--config=configs/demo/distill.yaml", "--steps=1", "--mode=adapt", "--beside=peft"),
        ("adapt.targets: missing", "--beside: PEFT has no step like that of adapt", "set --sharding=replicated"),
    ),
    "benchmark: another configuration than before": Wrong(
        (
            "benchmark",
            "--config=configs/demo/distill.yaml",
            "--steps=1",
            "--compare={runs}/benchmark.json",
            "--seed=7",
        ),
        ("command line: --compare: {runs}/benchmark.json: seed: 0 there, 7 here; measure with the same command",),
    ),
    "unset variables with other mistakes": Wrong(
        (*DISTILL, "--teach.adapters=$NOT_SET/a", "--distill.cap=0"),
        ("--teach.adapters: $NOT_SET/a", "--distill.cap: "),
    ),
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
        ("command line: --gpu_gb: must be <= 48, the memory of L40S 48 GB, PCIe only; got '1e9'",),
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


def write_runs(folder: Path) -> None:
    """Run directories by their text files alone, and files that are wrong."""
    folder.mkdir()
    (folder / "file.txt").write_text("a note\n")
    (folder / "ds.json").write_text(json.dumps({"optimizer": {}, "zero_optimization": {"stage": 2}}))
    _write_measurement(folder / "benchmark.json")
    (folder / "study.yaml").write_text("run_dr: x\ndistill: configs/demo/distill.yaml\n")
    (folder / "whole_study.yaml").write_text(
        f"run_dir: {folder}/study\ndistill: {folder}/wrong_data.yaml\nadapt: configs/demo/adapt.yaml\n"
        "distillations: {metaprompt: {}}\nadaptations: {few_shot: {source: metaprompt}}\n"
    )
    (folder / "wrong_data.yaml").write_text(
        f"data:\n  root: {folder}/absent\n  cards: [configs/demo/cards]\nbackbone: configs/tiny/llama.yaml\n"
        "distill: {sources: [demo_qa]}\n"
    )
    (folder / "wrong.yaml").write_text(
        f"run_dir: {folder}/new\nbackbone: gone.yaml\nsedd: 1\ndata:\n  root: {folder}/absent\n"
        "  cards: [configs/demo/cards]\nteach:\n  steps: many\ndistill:\n  sources: [demo_qu]\n"
    )
    distill, adapt = "configs/demo/distill.yaml", "configs/demo/adapt.yaml"
    sources = {"distill.steps": "40", "teach.steps": "40"}
    _write_run(folder / "distilled", distill, "distill", step=40, overrides=sources, completed=True)
    _write_run(folder / "adapted", adapt, "adapt", step=20, overrides={}, completed=True)
    _write_run(folder / "stopped", adapt, "adapt", step=10, overrides={})
    _write_run(folder / "teaching", distill, "teach", step=6, overrides=sources, part="teachers")


def _write_measurement(file: Path) -> None:
    """What ``benchmark`` would have written for the demo's configuration, as far as it is compared."""
    request = request_of("configs/demo/distill.yaml", {"steps": "1"}, {})
    identity = asked_of(request, request.cases[0], "tiny-llama-random")
    case = {"label": "", "identity": identity, "steps": {"seconds": [1.0], "probe": [1.0]}}
    content = {"cases": [case], "world_size": 1, "machine": {"cores": 1}, "versions": {"torch": "2"}}
    file.write_text(json.dumps(content))


def _write_run(
    folder: Path,
    file: str,
    stage: str,
    step: int,
    overrides: dict[str, str],
    part: str = "",
    completed: bool = False,
) -> None:
    config = resolve(file, {**overrides, "run_dir": str(folder)})
    inside = folder / part
    checkpoint = inside / "checkpoints" / f"step_{step:08d}"
    checkpoint.mkdir(parents=True)
    (inside / "config.yaml").write_text(to_yaml(config))
    tasks = config.adapt.targets if stage == "adapt" else config.distill.sources
    method = "teacher" if stage == "teach" else "metaprompt"
    state: dict[str, Any] = {
        "stage": stage,
        "step": step,
        "rows": [{"task": task, "method": method, "shots": "full", "seed": 0} for task in tasks],
        "hashes": {"config": compared(config, ["data", "prompt", stage]), "backbone": backbone_hash(config.backbone)},
    }
    (checkpoint / "state.json").write_text(json.dumps(state))
    (inside / "latest").symlink_to(Path("checkpoints") / checkpoint.name)
    if completed:
        (folder / "COMPLETED").touch()


def backbone_hash(card: str) -> str:
    """As a run's checkpoint holds it."""
    from backbones import load_backbone_card
    from backbones.loading import backbone_fingerprint

    return backbone_fingerprint(load_backbone_card(card))
