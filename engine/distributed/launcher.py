"""What a launcher tells a rank, checked against what SLURM says, and the flag that a launcher puts on the command line.

sbatch and srun hand on the whole environment of the shell that submits. A RANK that an earlier launcher left in that
shell reaches every task, and each task then waits for ranks that never come. No torch here: a wrong command ends before
it is imported.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.core import UserError

# what a torchrun agent sets for its workers; other TORCHELASTIC_* variables are a user's settings for torchrun
AGENT = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_ERROR_FILE",
)

GROUPS = ("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE")  # an agent's too, which SLURM cannot tell


@dataclass(frozen=True)
class Task:
    """This process's task of a SLURM job step. ``rank``: of ``count`` tasks. ``local_rank``: of its node's tasks."""

    rank: int
    count: int
    local_rank: int


def slurm_task(env: Mapping[str, str]) -> Task | None:
    """None: no job step (a login node, a batch script), or a step of one task, which may be a shell or a launcher."""
    # SLURM_NTASKS counts the job's tasks in the interactive shell of an salloc; that shell is a step of one task
    count = _number(env, "SLURM_STEP_NUM_TASKS") or _number(env, "SLURM_NTASKS") or 1
    if "SLURM_STEP_ID" not in env or count < 2:
        return None
    return Task(_number(env, "SLURM_PROCID") or 0, count, _number(env, "SLURM_LOCALID") or 0)


def launcher_rank(env: Mapping[str, str]) -> int:
    """The rank of this process among all; 0 alone. SLURM's number where RANK is not this job's."""
    task = slurm_task(env)
    if task is not None and "RANK" in stale_variables(env, started_with(env)):
        return task.rank
    for name in ("RANK", "SLURM_PROCID"):
        number = _number(env, name)
        if number is not None:
            return number
    return 0


def check_launcher(env: Mapping[str, str]) -> None:
    """Refuse variables of a launcher that are not this job's.

    Raises:
        UserError: variables that contradict SLURM, all names at once; RANK, WORLD_SIZE or LOCAL_RANK is no number.
    """
    started, task = started_with(env), slurm_task(env)
    stale = stale_variables(env, started)
    if stale and task is not None:
        raise UserError(_left_behind(env, started, task, stale))
    numbers = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    wrong = [name for name in numbers if name in env and _number(env, name) is None]
    if wrong:
        raise UserError(
            [f"{name}: must be a rank or a number of ranks; got {env[name]!r}; unset {name}" for name in wrong]
        )


def _left_behind(env: Mapping[str, str], started: Mapping[str, str] | None, task: Task, stale: Sequence[str]) -> str:
    """What is wrong with the ``stale`` variables, and how to be rid of all that came with them."""
    expected = _expected(env, task)
    listed = []
    for name in stale:
        shown = f"{name}={env[name]}" if name in expected else name
        listed.append(shown)
    found = f"task {task.rank} of {task.count}, {task.local_rank} on its node"
    left = []  # with those that happen to fit this task, and not the others
    for name in (*expected, *GROUPS, *AGENT):
        if name in stale or (name in env and (started is None or env[name] == started.get(name))):
            left.append(name)
    return (
        f"{', '.join(listed)}: not set by a launcher of this job (SLURM says {found}), but inherited from the shell "
        f"that submitted it. Before sbatch or srun: unset {' '.join(left)}"
    )


def stale_variables(env: Mapping[str, str], started: Mapping[str, str] | None) -> list[str]:
    """Launcher variables that contradict SLURM in a step of several tasks and that no launcher in the task has set.

    Args:
        started: the environment with which srun started the task's first process; None where it cannot be known.
    """
    task = slurm_task(env)
    if task is None:
        return []
    expected = _expected(env, task)
    wrong = []
    for name, allowed in expected.items():
        if name in env and _number(env, name) not in allowed:
            wrong.append(name)
    wrong += [name for name in AGENT if name in env]
    if started is None:
        if _of_launcher_per_task(env, task):
            return []
        return wrong
    set_inside = {name for name in wrong if env[name] != started.get(name)}
    # a launcher inside the task numbers its own ranks: torchrun, or one that starts several ranks a task
    if set_inside & {"RANK", "WORLD_SIZE", *AGENT}:
        return []
    return [name for name in wrong if name not in set_inside]


def started_with(env: Mapping[str, str]) -> Mapping[str, str] | None:
    """The environment with which SLURM started this task's first process; None where that cannot be known."""
    pid = env.get("SLURM_TASK_PID", "")
    if pid == str(os.getpid()):
        return env
    try:
        content = Path(f"/proc/{int(pid)}/environ").read_bytes().decode(errors="surrogateescape")
    except (OSError, ValueError):
        return None
    found = {}
    for part in content.split("\0"):
        name, equals, value = part.partition("=")
        if equals:
            found[name] = value
    for name in ("SLURM_TASK_PID", "SLURM_JOB_ID", "SLURM_STEP_ID"):
        if found.get(name) != env.get(name):
            return None  # in a container the number may be another process's
    return found


def without_local_rank(arguments: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Without the ``--local_rank=N`` that the deepspeed launcher puts before the mode; LOCAL_RANK says the same.

    Raises:
        UserError: N is no number, or not LOCAL_RANK.
    """
    if not arguments:
        return []
    name, equals, value = arguments[0].partition("=")
    if name not in ("--local_rank", "--local-rank"):
        return list(arguments)
    rest = list(arguments[1:])
    if not equals and rest:
        value = rest.pop(0)
    if not re.fullmatch(r"[0-9]+", value):
        raise UserError(
            f"command line: {name}: must be a rank; got {value!r}; a launcher writes {name}=N before the mode"
        )
    if "LOCAL_RANK" in env and _number(env, "LOCAL_RANK") != int(value):
        raise UserError(f"command line: {name}={value}: differs from LOCAL_RANK={env['LOCAL_RANK']}; leave {name} out")
    return rest


def _number(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name, "")
    if not re.fullmatch(r"[0-9]+", value):
        return None
    return int(value)


def _expected(env: Mapping[str, str], task: Task) -> dict[str, set[int | None]]:
    """What each variable may be in a task that is one rank, where SLURM can tell."""
    out: dict[str, set[int | None]] = {"RANK": {task.rank}, "WORLD_SIZE": {task.count}, "LOCAL_RANK": {task.local_rank}}
    if len(env.get("CUDA_VISIBLE_DEVICES", "").split(",")) == 1 and env.get("CUDA_VISIBLE_DEVICES"):
        out["LOCAL_RANK"].add(0)  # a task that sees its own GPU only
    out["ROLE_RANK"] = {task.rank}
    if "SLURM_NODEID" in env:
        out["NODE_RANK"] = out["GROUP_RANK"] = {_number(env, "SLURM_NODEID")}
    per_node = re.fullmatch(r"([0-9]+)(\(x[0-9]+\))?", env.get("SLURM_STEP_TASKS_PER_NODE", ""))  # 2(x4); not 2,1
    if per_node:
        out["LOCAL_WORLD_SIZE"] = {int(per_node[1])}
    return out


def _of_launcher_per_task(env: Mapping[str, str], task: Task) -> bool:
    """Whether the numbers add up to a launcher in each task: several ranks a task, or torchrun's agents as groups."""
    rank, world, local = _number(env, "RANK"), _number(env, "WORLD_SIZE"), _number(env, "LOCAL_RANK")
    if rank is None or world is None:
        return False
    each, rest = divmod(world, task.count)
    if each > 1 and not rest and rank // each == task.rank:
        return True
    group, groups = _number(env, "GROUP_RANK"), _number(env, "GROUP_WORLD_SIZE")
    size = _number(env, "LOCAL_WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" not in env or None in (group, groups, size, local):
        return False
    return groups == task.count and rank == group * size + local  # type: ignore[operator]
