"""``plan``: memory, bytes and time of a job before it is submitted."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import SOURCES, RunConfig, expand, expand_or_tell, read_config, read_switch, value_at
from engine.core import UserError

if TYPE_CHECKING:  # checks come before torch is loaded
    from engine.distributed import DeviceKind, Machine, Writes
    from engine.planning import Asked

RATES = ("pcie_gbs", "nvlink_gbs", "network_gbs")
ASSUMED = ("sample_tokens", "answer_tokens", "task_examples")
MODES = ("distill", "adapt")


def plan(config_file: str, overrides: Mapping[str, str], flags: Mapping[str, str]) -> None:
    """Memory, bytes and, on a known kind of GPU, time of a configuration on a machine in words.

    Args:
        overrides: keys of the run configuration as typed. flags: those of this mode.

    Raises:
        UserError: all that a run would be refused with, and all flags that cannot be understood, at once.
        DoesNotFit: the plan is printed, and the configuration does not fit the machine.
    """
    config, machine, asked, problems = _request(config_file, overrides, flags)
    if problems:
        raise UserError(problems)
    assert config is not None
    from engine.planning import plan as print_plan  # imports torch

    print_plan(config, machine, asked)


def plan_problems(config_file: str, overrides: Mapping[str, str], flags: Mapping[str, str]) -> list[str]:
    """All that ``plan`` refuses, found without torch."""
    return _request(config_file, overrides, flags)[-1]


def _request(
    config_file: str, overrides: Mapping[str, str], flags: Mapping[str, str]
) -> tuple[RunConfig | None, Any, "Asked", list[str]]:
    """The configuration, the machine, what to print of it, and every problem."""
    config, problems = read_config(config_file, overrides)
    mode = flags.get("mode", "")
    if mode not in ("", *MODES):
        problems.append(f"command line: --mode: must be one of {', '.join(MODES)}; got {mode!r}")
        mode = ""
    if config is not None:
        problems += _refusals(config, mode)
    machine, asked = _asked(flags, config or RunConfig(), problems)
    return config, machine, asked, problems


def _read(problems: list[str], reader: Callable[..., Any], *arguments: Any) -> Any:
    """What a reader makes of its arguments; its problems join the others."""
    try:
        return reader(*arguments)
    except UserError as error:
        problems.extend(error.problems)
        return None


def _asked(flags: Mapping[str, str], config: RunConfig, problems: list[str]) -> tuple[Any, "Asked"]:
    """The machine, and what to print of it; what is wrong with the flags goes to ``problems``."""
    from engine.distributed import GB
    from engine.planning import Asked, assumed_of, check_png, device_of, machine_of, read_sweep

    prepare = read_switch(flags.get("prepare", "false"), "command line: --prepare", problems)
    device = _read(problems, device_of, flags.get("gpu", ""), {name: flags.get(name, "") for name in RATES})
    memory = f"{device.memory_bytes / GB:g}" if device else "80"
    defaults = {"nodes": "1", "gpus_per_node": "1", "gpu_gb": memory, "host_gb": "256"}
    machine = _read(problems, machine_of, *(flags.get(name, default) for name, default in defaults.items()))
    assumed = _read(problems, assumed_of, config, *(flags.get(name, "") for name in ASSUMED))
    sweep = _read(problems, read_sweep, flags.get("sweep", ""))
    _read(problems, check_png, flags.get("png", ""), sweep)
    problems += _kind_problems(flags, device, machine)
    file = expand_or_tell(flags.get("output", ""), "command line: --output", problems)
    if flags.get("output") and file is not None and file.is_dir():
        problems.append(f"command line: --output: {file} is a folder; name a file")
    if flags.get("sweep") and not flags.get("gpu"):
        problems.append("command line: --sweep: name the kind of GPU too (--gpu)")
    mode = flags.get("mode", "")
    return machine, Asked(
        mode=mode,
        prepare=prepare,
        device=device,
        assumed=assumed,
        sweep=sweep,
        png=flags.get("png", ""),
        output=flags.get("output", ""),
        unchecked=tuple(_unchecked(config, mode)) if not problems else (),
    )


def _kind_problems(flags: Mapping[str, str], device: "DeviceKind | None", machine: "Machine | None") -> Iterator[str]:
    """A kind of GPU that is not what the machine has."""
    from engine.distributed import GB

    if device is None or machine is None:
        return
    if machine.device == "cpu" and device.matches:  # a calibration of CPU ranks matches no GPU's name
        yield (
            f"command line: --gpu: {flags['gpu']} is a GPU, but --gpus_per_node is 0; give a machine file that was "
            "calibrated on CPU ranks (docs/how_to/planning.md#your-own-machine)"
        )
    gigabytes = device.memory_bytes / GB
    most = gigabytes * 2**30 / GB  # a maker's GB may be 2^30 bytes, and free memory is then more than 80 of 10^9
    if "gpu_gb" in flags and machine.device == "cuda" and machine.device_bytes > most * GB:
        limit = f"{most:.1f} ({gigabytes:g} GiB)"
        yield f"command line: --gpu_gb: must be <= {limit}, the memory of {device.name}; got {flags['gpu_gb']!r}"


def _refusals(config: RunConfig, mode: str) -> list[str]:
    """What a run is refused with that needs neither torch nor a corpus: its tasks, keys and backbone card."""
    from engine.data import load_cards, unknown_task
    from engine.distributed import preflight_problems, read_deepspeed
    from engine.recipes.checks import backbone_problems

    problems = list(_missing_keys(config, mode))
    cards = None
    if all(map(_exists, config.data.cards)):  # else its tasks are not known here yet
        cards = _read(problems, load_cards, config.data)
    named = {
        "distill.sources": config.distill.tasks if mode != "adapt" else [],
        "data.decontaminate_against": config.data.decontaminate_against if mode != "adapt" else [],
        "adapt.targets": config.adapt.targets if mode != "distill" else [],
    }
    for key, tasks in named.items():
        if cards is not None:
            problems += [f"{key}: {unknown_task(task, cards)}" for task in tasks if task not in cards]
    problems += backbone_problems(config)
    if config.deepspeed and Path(config.deepspeed).is_file():
        _read(problems, read_deepspeed, config.deepspeed)
    writes: Writes = ("run_dir", "data.cache") if config.run_dir else ("data.cache",)
    return problems + preflight_problems(config, checkpoint_bytes=0, writes=writes)


def _missing_keys(config: RunConfig, mode: str) -> Iterator[str]:
    if mode == "distill" and not config.distill.tasks:
        yield "distill.sources: missing; name at least one task"
    if mode == "adapt" and not config.adapt.targets:
        yield "adapt.targets: missing; name at least one task"
    if not mode and not config.distill.tasks and not config.adapt.targets:
        yield "distill.sources: missing, and adapt.targets too; name at least one task"
    if mode != "distill" and config.adapt.targets:
        for method, key in SOURCES.items():
            if method in config.adapt.methods and not value_at(config, key):
                yield f"{key}: missing; name the run directory of the distillation that {method} starts from"


def _unchecked(config: RunConfig, mode: str) -> Iterator[str]:
    """What is not on this machine yet: a plan is made before corpora are copied and distillations are run."""
    folders = []
    if mode != "adapt" and config.distill.tasks:
        folders.append(("teach.run", config.teach.run))
    if mode != "distill" and config.adapt.targets:
        for method, key in SOURCES.items():
            if method in config.adapt.methods:
                folders.append((key, value_at(config, key)))
    folders += [("data.cards", folder) for folder in config.data.cards]
    folders.append(("data.root", config.data.root))
    for key, folder in folders:
        inside = "latest" if key in SOURCES.values() else ""  # a run's last checkpoint
        if folder and not _exists(f"{folder}/{inside}"):
            yield f"{key} ({folder})"
    if not config.data.root:
        yield "data.root (not set)"


def _exists(folder: str) -> bool:
    try:
        return expand(folder).is_dir()
    except UserError:  # an environment variable that only the cluster sets
        return False
