"""Generated answers from a vLLM server, by prompt embeddings: see server.py."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import torch
from torch import Tensor

from engine.config import EvaluateConfig
from engine.distributed import ShardedBackbone
from engine.evaluation.prediction_store import Prediction
from engine.evaluation.vllm.client import request_body
from engine.evaluation.vllm.server import ask_server, check_server
from engine.training import BackboneHolder


def model_name(holder: BackboneHolder) -> str:
    """What the backbone is called on the server."""
    return holder.context.config.evaluate.server_model or str(holder.context.card.path)


def announce(holder: BackboneHolder) -> None:
    """Check the server, where one is named, and say what it gets. Before anything starts.

    Raises:
        UserError: it is not there, or serves another model.
    """
    e = holder.context.config.evaluate
    if e.server:
        check_server(e, model_name(holder))
        holder.context.print_rank0(
            f"WARNING notes leave this process for {e.server}, as embeddings, which can be turned back into text "
            "(evaluate.server)"
        )


def served_answers(
    backbone: ShardedBackbone,
    prompt_LD: Tensor,
    contexts: Sequence[list[int]],
    most: int,
    e: EvaluateConfig,
    model: str,
    end_id: int,
) -> Iterator[tuple[int, Prediction]]:
    """Number of the context and its answer, as they come. A collective: ranks look embeddings up together, as often
    as the one with ``most`` contexts.
    """
    with ThreadPoolExecutor(e.batch_size) as pool:
        for begin in range(0, most, e.batch_size):
            group = list(contexts[begin : begin + e.batch_size])
            asked = group or [[end_id]]  # for the other ranks' sake
            rows = backbone.embed(torch.tensor(list(chain.from_iterable(asked)), dtype=torch.long))
            bodies = []
            for text_TD in rows.split([len(ids) for ids in asked])[: len(group)]:
                body = request_body(model, prompt_LD=prompt_LD.cpu(), text_TD=text_TD, max_tokens=e.max_new_tokens)
                bodies.append(body | {"stop_token_ids": [end_id]})
            for number, found in enumerate(pool.map(lambda body: ask_server(e.server, body), bodies), begin):
                yield number, Prediction(*found)
