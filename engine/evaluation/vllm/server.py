"""A vLLM server that generates answers (``evaluate.server``): where it may be, and how it is asked.

What a note's tokens embed to leaves this process, and can be turned back into its text: only where the key is set, only
to this machine unless ``evaluate.server_remote`` says otherwise, by no proxy and after no redirect.
"""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from engine.config import EvaluateConfig
from engine.core import UserError

TRIES, WAIT, TIMEOUT = 4, 2.0, 600.0  # seconds: between tries, doubled each time; for one answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirect is an error: it may lead to another machine."""


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def check_server(e: EvaluateConfig, model: str) -> None:
    """Whether it is there and serves the model; nothing of a note is sent.

    Raises:
        UserError: it is not, or does not.
    """
    try:
        with _OPENER.open(f"{e.server.rstrip('/')}/v1/models", timeout=30) as answer:
            served = [str(m["id"]) for m in json.loads(answer.read())["data"]]
    except urllib.error.HTTPError as error:
        what = f"(HTTP {error.code}){_redirected(error)}"
        raise UserError(f"evaluate.server: {e.server} does not answer as a vLLM server does {what}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        start = "start it with: vllm serve MODEL --enable-prompt-embeds"
        raise UserError(
            f"evaluate.server: {e.server} does not answer as a vLLM server does ({type(error).__name__}); {start}"
        ) from None
    if model not in served:
        raise UserError(
            f"evaluate.server: {e.server} serves {', '.join(served)}, not {model}; evaluate.server_model names it"
        )


def ask_server(url: str, body: dict[str, Any]) -> tuple[str, bool, int]:
    """The answer to a request of /v1/completions, whether it ended by itself, its tokens.

    Raises:
        RuntimeError: no answer after several tries.
    """
    content = json.dumps(body).encode()
    for attempt in range(TRIES):
        hint = ""
        request = urllib.request.Request(
            f"{url.rstrip('/')}/v1/completions", content, {"Content-Type": "application/json"}
        )
        try:
            with _OPENER.open(request, timeout=TIMEOUT) as answer:
                found = json.loads(answer.read())
            choice = found["choices"][0]
            return (
                str(choice["text"]).strip(),
                choice["finish_reason"] == "stop",
                int(found["usage"]["completion_tokens"]),
            )
        except urllib.error.HTTPError as error:
            reason, again, hint = f"HTTP {error.code}", error.code == 429 or error.code >= 500, _redirected(error)
        except OSError as error:
            reason, again = type(error).__name__, True
        except (ValueError, KeyError, IndexError, TypeError):
            reason, again = "an answer that is not a completion", False
        if not again:
            break
        if attempt + 1 < TRIES:
            time.sleep(WAIT * 2**attempt)
    remedy = "answers so far are kept, start the command again when it serves"
    raise RuntimeError(f"evaluate.server: {url}: {reason}; {remedy}{hint}")


def _redirected(error: urllib.error.HTTPError) -> str:
    if 300 <= error.code < 400:
        return "; it redirects to another address, which is not followed: name that address"
    return ""
