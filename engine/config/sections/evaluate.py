"""How a run is scored. Notes go to ``server``, so another machine has to be allowed by name."""

import ipaddress
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from engine.config import keys

key = partial(keys.key, modes=keys.READERS, on_resume="free", in_step=False)


@dataclass
class EvaluateConfig:
    """Answers and scores. A run keeps these keys for the evaluation that comes after it."""

    max_new_tokens: int = key(64, "Longest generated answer in tokens.", above=0)
    batch_size: int = key(
        32, "Sequences that a rank generates at once. It changes memory and speed, never the result.", above=0
    )
    max_context: int = key(
        8192,
        "Longest context in tokens for the method in_context: instruction, solved examples, input and room for the "
        "answer, at most the backbone's positions. Where no context has room for an example, there is no score.",
        above=0,
    )
    split: Literal["test", "validation"] = key(
        "test",
        "Split to score on. validation is for choosing settings; it writes results_validation.json, not results.json.",
    )
    likelihood: Literal["sum", "mean"] = key(
        "sum",
        "How options are compared: by the log-likelihood of their tokens, end token included, or by its mean per "
        "token (length-normalised).",
    )
    resamples: int = key(
        1000,
        "Bootstrap resamples of the documents for the confidence intervals in the results; 0: no intervals.",
        at_least=0,
    )
    instruction: bool = key(
        False,
        "Also score the instruction in each task's card in place of a prompt, without training. This works with any "
        "run, whatever its adapt.methods.",
    )
    server: str = key(
        "",
        "Address of a vLLM server that generates the answers, such as http://localhost:8000 (vllm serve MODEL "
        "--enable-prompt-embeds). Options of choices are still compared in this process. The server receives "
        "embeddings of the notes' tokens, which can be turned back into text.",
    )
    server_model: str = key("", "Name of the model on the server. Empty: the path in the backbone card.")
    server_remote: bool = key(False, "Allow the server to be on another machine.")

    def problems(self) -> list[str]:
        """What is wrong with the server's address."""
        if not self.server:
            return []
        host = _host(self.server)
        if host is None:
            return [f"evaluate.server: must be an address such as http://localhost:8000; got {self.server!r}"]
        if not _is_here(host) and not self.server_remote:
            return [
                f"evaluate.server: {host} may be another machine, and notes would go there; "
                "evaluate.server_remote=true allows it"
            ]
        return []


def _host(address: str) -> str | None:
    """The host of an address; None where it is none."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and (parts.port or True)
    except ValueError:
        return None
    return parts.hostname or None if good else None


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
