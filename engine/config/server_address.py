"""Where ``evaluate.server`` may be: notes go there, so another machine has to be allowed by name."""

import ipaddress
from urllib.parse import urlsplit

from engine.config.schema import EvaluateConfig


def server_address_problems(e: EvaluateConfig) -> list[str]:
    """What is wrong with the server's address."""
    if not e.server:
        return []
    try:
        parts = urlsplit(e.server)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        return [f"evaluate.server: {e.server!r} is no address such as http://localhost:8000"]
    if not _is_here(str(parts.hostname)) and not e.server_remote:
        return [
            (
                f"evaluate.server: {parts.hostname} may be another machine, and notes would go there; "
                "evaluate.server_remote=true allows it"
            )
        ]
    return []


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
