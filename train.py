"""Distil a metaprompt from many clinical tasks into a frozen LLM, adapt it to others, evaluate it.

python train.py distill  --config configs/demo/distill.yaml
torchrun --nproc_per_node 2 train.py adapt --config configs/demo/adapt.yaml --adapt.steps=50
python train.py evaluate --run runs/demo/adapt
python train.py study    --config configs/pocket/study.yaml
python train.py report   --runs runs/demo/distill,runs/demo/adapt
python train.py merge    --runs runs/demo/adapt,runs/demo/later --output runs/demo/both
python train.py tasks    list | check --data_root DIR
python train.py benchmark --config configs/demo/distill.yaml --steps 20 --invented 200,20
"""

import os
import sys

from engine.cli import MODES, read_command, run_mode, without_launcher_flag
from engine.core import protect
from engine.distributed import ends_at_once


def main(arguments: list[str]) -> None:
    """Run the command; Ctrl-C ends it with one line and exit code 130, where training does not take it."""
    with ends_at_once():
        enter(without_launcher_flag(arguments))


def enter(arguments: list[str]) -> None:
    """Check the command strictly, then let Fire call the mode with everything after it, as typed."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(
            __doc__
            + "\nModes (each has --help):\n"
            + "\n".join(f"  {name:10} {mode.help}" for name, mode in MODES.items())
        )
        raise SystemExit(0 if arguments else 2)
    command = read_command(arguments)
    if command is None:
        return
    import fire
    from fire.decorators import SetParseFn

    name, typed = command

    def mode(*words: str, **flags: str) -> None:
        run_mode(name, words, flags)

    # Fire would turn 2024_01 into 202401 and 1e10 into a float: everything arrives as text
    fire.Fire({name: SetParseFn(str)(mode)}, command=[name, *typed.for_fire()], name="train.py")


def console() -> None:
    """The installed command, `clinical-metaprompt`."""
    protect()
    try:
        try:
            main(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has left, as in `train.py plan --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush of the interpreter
        sys.exit(1)


if __name__ == "__main__":
    console()
