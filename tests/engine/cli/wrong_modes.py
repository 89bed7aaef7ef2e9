"""Wrong commands by mode, but for those of ``plan`` and of outputs."""

from tests.engine.cli.wrong_commands import ADAPT, DISTILL, FROM, Wrong

BY_MODE: dict[str, Wrong] = {
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
}
