"""What a micro-batch does on a GPU, counted without one. Counts are exact: a change that adds an operator to a
layer is seen here.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.common.workload import SHAPES, Shape
from benchmarks.roofline import ANSWER, ROWS, Counter, batch_of, count

ROW, TASKS = 2048, ROWS[2048]
A_LAYER = {
    "llama_8b": 44,
    "gpt_oss_20b": 63,
}  # operators, forward and backward; of gpt-oss half of a layer with a window and one without


def shallow(name: str, layers: int) -> Shape:
    return replace(SHAPES[name], card={**SHAPES[name].card, "num_hidden_layers": layers})


@pytest.fixture(scope="module")
def counted() -> dict[tuple[str, int], dict[str, Any]]:
    return {(name, layers): count(shallow(name, layers), ROW, TASKS) for name in A_LAYER for layers in (2, 4)}


def linears_of_llama() -> tuple[int, int]:
    """Weights of a layer's linear maps, and of the last of them."""
    card = SHAPES["llama_8b"].card
    d, inner, head = card["hidden_size"], card["intermediate_size"], card["hidden_size"] // card["num_attention_heads"]
    attention = d * head * 2 * (card["num_attention_heads"] + card["num_key_value_heads"])
    return attention + 3 * d * inner, d * inner


@pytest.mark.parametrize("name", A_LAYER)
def test_operators_of_a_layer(counted, name: str) -> None:
    found = (counted[name, 4]["launches"] - counted[name, 2]["launches"]) / 2
    assert found == A_LAYER[name], "fewer is better: write the new count here; more needs a reason"


def test_products_are_those_of_the_formula(counted) -> None:
    """Every token through every linear layer, to and fro; each answer token through the head twice: its logits, and
    the gradient.
    """
    found, batch, (linear, _) = counted["llama_8b", 2], batch_of(ROW, TASKS), linears_of_llama()
    answers = len(batch.labels_N)
    assert answers == sum(max(1, round(ANSWER * n)) for n in batch.prefix.lengths)
    assert found["operations"] == 2 * 2 * found["row"] * linear * 2 + 2 * 2 * answers * 4096 * 128256
    assert found["row"] == len(batch.ids_T) + TASKS * batch.prefix.length


def test_experts_are_widened_four_times_a_layer(counted) -> None:
    longest = counted["gpt_oss_20b", 4]["longest"]
    assert longest["widen (Triton)"]["launches"] == 4 * 4  # two products, forward and backward


def test_fused_layers_move_less_and_compute_the_same(counted) -> None:
    """Without them and with gathered keys, as it once was, a layer of Llama had 195 operators."""
    shape, found = shallow("llama_8b", 2), counted["llama_8b", 2]
    plain = count(shape, ROW, TASKS, fused=False)
    assert found["operations"] == plain["operations"]
    assert found["launches"] < 0.6 * plain["launches"] and found["bytes"] < 0.7 * plain["bytes"]
    assert found["matrix_share"] > plain["matrix_share"] + 0.1


def test_a_teacher_that_is_asked_adds_a_forward_pass() -> None:
    alone, taught = (count(shallow("llama_8b", 2), ROW, TASKS, teacher) for teacher in (False, True))
    of_layers = [f["phases"]["forward"]["operations"] for f in (alone, taught)]
    assert of_layers[1] == 2 * of_layers[0] and taught["phases"]["backward"] == alone["phases"]["backward"]


def test_recomputed_layers_add_another_but_for_their_last_product() -> None:
    """Its output is nobody's input."""
    kept, again = (count(shallow("llama_8b", 2), ROW, TASKS, recompute=recompute) for recompute in (False, True))
    assert again["phases"]["forward"]["operations"] == kept["phases"]["forward"]["operations"]
    linear, last = linears_of_llama()
    more = again["phases"]["backward"]["operations"] - kept["phases"]["backward"]["operations"]
    assert more == 2 * 2 * kept["row"] * (linear - last)


def test_bytes_of_an_operator() -> None:
    counter = Counter()
    with counter:
        a, b = torch.empty(4, 8, device="meta"), torch.empty(1, 8, device="meta").expand(4, 8)
        _ = (a + b).view(-1)  # a view moves nothing; what is expanded is read once
        a.index_select(0, torch.empty(2, dtype=torch.long, device="meta"))
        _ = torch.ones(3)  # the host's
    assert {name: (c.launches, c.bytes) for (_, name), c in counter.costs.items()} == {
        "add": (1, 4 * (32 + 8 + 32)),
        "index_select": (1, 4 * 2 * 16),
    }
