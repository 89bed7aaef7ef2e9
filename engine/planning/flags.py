"""Flags of ``plan`` as typed, checked: lengths to count with, a kind of device, a machine, a sweep. torch is not needed
for it.
"""

from dataclasses import dataclass, replace

from engine.config import RunConfig, expand_or_tell, new_key
from engine.core import UserError, nearest_existing
from engine.distributed import GB, DeviceKind, Machine, read_kind
from engine.planning.sample_lengths import Assumed

LINKS = {"pcie_gbs": "pcie", "nvlink_gbs": "intra", "network_gbs": "network"}  # flag -> key of a DeviceKind
SWEPT = ("nodes", "gpus_per_node", "max_tokens_per_micro_batch")


@dataclass(frozen=True)
class Sweep:
    """key: of SWEPT. values: ascending."""

    key: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """Of one plan. mode: distill or adapt, to check what that needs too, or empty. prepare: tokenise its corpora and
    compile what is compiled once, so that a job does not hold its nodes for that. device: None for memory and bytes
    alone. sweep, png: settings to try one after another, and where to draw them. unchecked: what a run needs and this
    machine does not have yet.
    """

    mode: str = ""
    prepare: bool = False
    device: DeviceKind | None = None
    assumed: Assumed | None = None
    sweep: Sweep | None = None
    png: str = ""
    output: str = ""
    unchecked: tuple[str, ...] = ()


def assumed_of(config: RunConfig, sample_tokens: str = "", answer_tokens: str = "", examples: str = "") -> Assumed:
    """Lengths to count with where no corpus can be read; by default a quarter of the longest sample, a sixteenth of
    that the answer.

    Raises:
        UserError: every flag that is no whole number above zero, and lengths that do not go together.
    """
    longest = config.data.max_length
    problems: list[str] = []
    sample = _whole("sample_tokens", sample_tokens, max(2, longest // 4), problems)
    answer = _whole("answer_tokens", answer_tokens, max(1, sample // 16), problems)
    n_examples = _whole("task_examples", examples, 10_000, problems)
    if not problems and sample > longest:
        problems.append(f"command line: --sample_tokens: must be <= data.max_length, {longest}; got {sample}")
    if not problems and answer >= sample:
        problems.append(f"command line: --answer_tokens: must be < --sample_tokens, {sample}; got {answer}")
    if problems:
        raise UserError(problems)
    return Assumed(sample, answer, n_examples)


def _whole(name: str, text: str, default: int, problems: list[str]) -> int:
    """The number of a flag, or its default; what is wrong with it goes to ``problems``."""
    if not text:
        return default
    if text.isdigit() and int(text):
        return int(text)
    problems.append(f"command line: --{name}: must be a whole number > 0; got {text!r}")
    return default


def device_of(gpu: str, links: dict[str, str]) -> DeviceKind | None:
    """A kind by its name or file, with links of one's own. ``links``: pcie_gbs, nvlink_gbs, network_gbs, in GB/s.

    Raises:
        UserError: every flag that is wrong; links without a kind.
    """
    given = {name: text for name, text in links.items() if text}
    if not gpu:
        if given:
            raise UserError([f"command line: --{name}: name the kind of GPU too (--gpu)" for name in given])
        return None
    problems: list[str] = []
    rates: dict[str, float] = {}
    for name, text in given.items():
        rate = _number(text) * GB
        if 0 < rate < float("inf"):
            rates[LINKS[name]] = rate
        else:
            problems.append(f"command line: --{name}: must be a number of GB/s > 0; got {text!r}")
    try:
        kind = read_kind(gpu)
    except UserError as error:
        raise UserError([*error.problems, *problems]) from None
    if problems:
        raise UserError(problems)
    return replace(kind, **rates)  # type: ignore[arg-type]


def machine_of(nodes: str, gpus_per_node: str, gpu_gb: str, host_gb: str) -> Machine:
    """A machine from flags; ``gpus_per_node: 0`` is one CPU rank a node.

    Raises:
        UserError: every flag that is no number above zero.
    """
    problems: list[str] = []
    n_nodes = int(_at_least("nodes", text=nodes, least=1, whole=True, problems=problems))
    gpus = int(_at_least("gpus_per_node", text=gpus_per_node, least=0, whole=True, problems=problems))
    device_bytes = int(_at_least("gpu_gb", text=gpu_gb, least=1e-3, whole=False, problems=problems) * GB)
    host_bytes = int(_at_least("host_gb", text=host_gb, least=1e-3, whole=False, problems=problems) * GB)
    if problems:
        raise UserError(problems)
    return Machine(n_nodes, gpus or 1, "cuda" if gpus else "cpu", device_bytes, host_bytes)


def _at_least(name: str, text: str, least: float, whole: bool, problems: list[str]) -> float:
    """The number of a flag, or ``least``; what is wrong with it goes to ``problems``."""
    value = _number(text)
    if value >= least and value < float("inf") and (not whole or value == int(value)):
        return value
    kind = "whole number" if whole else "number"
    problems.append(f"command line: --{name}: must be a {kind} >= {least:g}; got {text!r}")
    return least


def _number(text: str) -> float:
    """-1 for a text that is none."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def read_sweep(text: str) -> Sweep | None:
    """``nodes=1,2,4`` -> a sweep; None for an empty text.

    Raises:
        UserError: another key, or values that are no ascending whole numbers; all at once.
    """
    if not text:
        return None
    key, equals, listed = text.partition("=")
    problems = []
    if key not in SWEPT or not equals:
        expected = "must be like " + " or ".join(f"{name}=1,2,4" for name in SWEPT)
        if renamed := new_key(key):
            expected = f"{key} was renamed to {renamed}"
        problems.append(f"command line: --sweep: {expected}; got {text!r}")
    values = []
    for part in listed.split(","):
        if part.strip().isdigit() and int(part) > 0:
            values.append(int(part))
        elif not problems or part:
            problems.append(f"command line: --sweep: must be whole numbers > 0; got {part!r}")
    if not problems and values != sorted(set(values)):
        problems.append(f"command line: --sweep: values must ascend; got {listed}")
    if problems:
        raise UserError(problems)
    return Sweep(key, tuple(values))


def check_png(png: str, sweep: Sweep | None) -> None:
    """Before anything is computed.

    Raises:
        UserError: there is nothing to draw, or no place for it.
    """
    if not png:
        return
    problems: list[str] = []
    if sweep is None:
        problems.append("command line: --png: nothing to draw; give --sweep nodes=1,2,4 too")
    file = expand_or_tell(png, "command line: --png", problems)
    in_folder = file is None or file.absolute().parent.is_dir() or not nearest_existing(file).is_dir()
    if file is not None and not (file.suffix.lower() == ".png" and in_folder):  # a file in the way is told of as one
        problems.append(f"command line: --png: must be a .png file in a folder that exists; got {png}")
    if problems:
        raise UserError(problems)
