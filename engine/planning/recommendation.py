"""The sharding and the ``max_tokens_per_micro_batch`` that a plan recommends: of those that fit, the fastest.

A run decides without times: ``sharding: auto`` takes the first sharding that fits, in a fixed order, and the
micro-batch size is the configured one. A plan of a known kind of GPU has times. Where another setting is faster, it
names the flags. It goes on to describe the configuration as written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine import distributed
from engine.config import RunConfig
from engine.distributed import Machine
from engine.planning.planner import LARGEST, WORTH_TELLING, Case, Planner, with_values


@dataclass(frozen=True)
class Option:
    """A setting that was computed.

    Args:
        tokens: its max_tokens_per_micro_batch.
        flags: what to add to the configuration, so that a run takes this setting; none where it takes it as written.
    """

    sharding: str
    tokens: int
    case: Case
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """option: None where no setting of the machine fits. tried: how many settings were computed."""

    option: Option | None
    tried: int

    def as_json(self, written: Case) -> dict[str, Any] | None:
        """``times``: how many times as fast as the configuration as written; null where that does not fit."""
        if self.option is None:
            return None
        case = self.option.case
        times = written.node_hours / case.node_hours if written.need.fits(written.machine) else None
        return {
            "flags": list(self.option.flags),
            "sharding": self.option.sharding,
            "max_tokens_per_micro_batch": self.option.tokens,
            "node_hours": case.node_hours,
            "times": times,
            "tried": self.tried,
        }


def recommend(planner: Planner, config: RunConfig, machine: Machine) -> Recommendation:
    """The fastest setting that a climb finds: from the configuration as written to the other shardings, twice and half
    the tokens, as long as one of them is faster.

    Settings within 2 % of the fastest count as equally fast. Of them the configuration as written is taken, else
    the one with the fewest flags, then the smallest micro-batch, which leaves most memory.
    """
    search = _Search(planner, config, machine)
    search.climb()
    fitting = [option for option in search.known.values() if option.case.need.fits(machine)]
    if not fitting:
        return Recommendation(None, len(search.known))
    fastest = min(option.case.node_hours for option in fitting)
    equal = [option for option in fitting if option.case.node_hours <= fastest * WORTH_TELLING]
    return Recommendation(min(equal, key=lambda option: (len(option.flags), option.tokens)), len(search.known))


class _Search:
    """known: (sharding, tokens) -> what was computed of it."""

    def __init__(self, planner: Planner, config: RunConfig, machine: Machine):
        self.planner, self.config, self.machine = planner, config, machine
        self.shardings = shardings_of(config, machine)
        self.known: dict[tuple[str, int], Option] = {}

    def climb(self) -> None:
        best = self._fastest(self._starts())
        while best is not None:
            better = self._fastest(self._near(best))
            if better is None or better.case.node_hours >= best.case.node_hours:
                break
            best = better

    def _starts(self) -> Iterator[tuple[str, int]]:
        """The configuration as written, and with twice and half the tokens; where it does not fit, what would."""
        tokens = self.config.max_tokens_per_micro_batch
        for count in (tokens, 2 * tokens, max(1, tokens // 2)):
            yield self._need(count).sharding, count
        if not self._need(tokens).fits(self.machine):
            for sharding in self.shardings:
                yield sharding, tokens
                if largest := fitting_tokens(self.planner, self.config, self.machine, sharding):
                    yield sharding, largest

    def _near(self, option: Option) -> Iterator[tuple[str, int]]:
        for sharding in self.shardings:
            yield sharding, option.tokens
        for count in (2 * option.tokens, option.tokens // 2):
            if 1 <= count <= LARGEST:
                yield option.sharding, count

    def _fastest(self, settings: Iterator[tuple[str, int]]) -> Option | None:
        """Of the settings that fit; all are computed."""
        options = [self._computed(sharding, tokens) for sharding, tokens in settings]
        fitting = [option for option in options if option.case.need.fits(self.machine)]
        return min(fitting, key=lambda option: option.case.node_hours, default=None)

    def _computed(self, sharding: str, tokens: int) -> Option:
        if (sharding, tokens) not in self.known:
            changed = with_values(self.config, max_tokens_per_micro_batch=tokens)
            flags = []
            if tokens != self.config.max_tokens_per_micro_batch:
                flags.append(f"--max_tokens_per_micro_batch={tokens}")
            if self._need(tokens).sharding != sharding:
                flags.append(f"--sharding={sharding}")
                changed = with_values(changed, sharding=sharding)
            case = self.planner.case(changed, self.machine, sharding)
            self.known[sharding, tokens] = Option(sharding, tokens, case, tuple(flags))
        return self.known[sharding, tokens]

    def _need(self, tokens: int) -> distributed.MemoryEstimate:
        """What a run of the configuration takes with so many tokens."""
        return self.planner.need(with_values(self.config, max_tokens_per_micro_batch=tokens), self.machine)


def shardings_of(config: RunConfig, machine: Machine) -> Sequence[str]:
    """Those that a user could name in place of the configured one; a DeepSpeed file leaves no choice."""
    asked = distributed.requested_sharding(config)
    if config.deepspeed:
        return [asked]
    found = distributed.possible_shardings(machine, "auto")
    if asked not in ("auto", *found):
        found.append(asked)
    return found


def fitting_tokens(planner: Planner, config: RunConfig, machine: Machine, sharding: str = "") -> int:
    """A max_tokens_per_micro_batch that fits in place of one that does not: the largest power of two, where one holds
    the longest sample, else a multiple of 256, else the largest number; 0 where the longest sample does not fit.
    """
    longest = config.prompt.num_virtual_tokens + config.data.max_length
    largest = min(planner.largest_budget(config, machine, sharding), config.max_tokens_per_micro_batch)
    for rounded in (1 << max(0, largest.bit_length() - 1), largest // 256 * 256, largest):
        if rounded >= longest:
            return rounded
    return 0
