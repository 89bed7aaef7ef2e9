"""``plan``: memory, bytes and time of a job before it is submitted."""

from collections.abc import Callable
from typing import Any

from engine.config import RunConfig, read_switch
from engine.core import UserError

RATES = ("pcie_gbs", "nvlink_gbs", "network_gbs")
ASSUMED = ("sample_tokens", "answer_tokens", "task_examples")


def plan(config: RunConfig, flags: dict[str, str]) -> None:
    """Memory, bytes and, on a known kind of GPU, time of a configuration on a machine in words.

    Raises:
        UserError: all flags that cannot be understood.
    """
    from engine.distributed import GB
    from engine.planning import Asked, assumed_of, check_png, device_of, machine_of, plan as print_plan, read_sweep

    mode = flags.get("mode", "")
    problems = [] if mode in ("", "distill", "adapt") else [f"command line: --mode: {mode!r} is none of distill, adapt"]
    prepare = read_switch(flags.get("prepare", "false"), "command line: --prepare", problems)

    def read(reader: Callable[..., Any], *arguments: Any) -> Any:
        """What a reader makes of its flags; its problems join the others."""
        try:
            return reader(*arguments)
        except UserError as error:
            problems.extend(error.problems)
            return None

    device = read(device_of, flags.get("gpu", ""), {name: flags.get(name, "") for name in RATES})
    memory = f"{device.memory_bytes / GB:g}" if device else "80"
    defaults = {"nodes": "1", "gpus_per_node": "1", "gpu_gb": memory, "host_gb": "256"}
    machine = read(machine_of, *(flags.get(name, default) for name, default in defaults.items()))
    assumed = read(assumed_of, config, *(flags.get(name, "") for name in ASSUMED))
    sweep = read(read_sweep, flags.get("sweep", ""))
    read(check_png, flags.get("png", ""), sweep)
    if flags.get("sweep") and not flags.get("gpu"):
        problems.append("command line: --sweep: name the kind of GPU too (--gpu)")
    if problems:
        raise UserError(problems)
    asked = Asked(mode, prepare, device, assumed, sweep, flags.get("png", ""), flags.get("output", ""))
    print_plan(config, machine, asked)
