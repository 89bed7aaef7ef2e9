"""One case of ``benchmarks.planning``: what a rank of it does, and what the plan says of it."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from backbones import BackboneCard, Gathered
from backbones.loading import backbone_config
from backbones.tracing import measure_footprint, trace
from benchmarks.common.process_memory import memory_of
from engine import distributed
from engine.data import Sample, packed_groups, weight_answer_tokens
from engine.distributed import (
    DS_CONFIGS,
    FILES,
    DeviceKind,
    Machine,
    MicroBatchShape,
    ShardedBackbone,
    estimate_memory,
    zero_config,
)
from engine.planning import (
    Coordinator,
    Model,
    attention_of,
    calibrate,
    micro_batch_of,
    rules_of,
    step_seconds,
    write_kind,
)
from engine.training import ForwardBackward, LossWeights
from prompt_modules import DecomposedBank, SoftPromptBank

_LLAMA = {"model_type": "llama", "tie_word_embeddings": False, "max_position_embeddings": 8192, "vocab_size": 32000}
CARDS = {
    # as cpu_mid of benchmarks.common.workload: 0.23 GB in fp32
    "mid": {
        **_LLAMA,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    # 1.08 GB in fp32: what a process needs besides its model counts for little
    "large": {
        **_LLAMA,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
}
LENGTH, TASKS, SAMPLE, ANSWER = 100, 4, 60, 6


@dataclass(frozen=True)
class Case:
    """shape: of CARDS. tokens: of a micro-batch, one a rank and step. gbit: of the link between two nodes, per
    second.
    """

    shape: str
    sharding: str
    nodes: int
    ranks_per_node: int
    recompute: int = 0
    stage: str = "teach"
    tokens: int = 1024
    gbit: float = 0.0

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def name(self) -> str:
        words = [self.shape, self.sharding]
        if self.nodes > 1:
            words.append(f"{self.nodes} nodes, {self.gbit:g} Gbit/s")
        else:
            words.append("1 rank" if self.world == 1 else f"{self.world} ranks")
        if self.recompute:
            words.append(f"{self.recompute} layers recomputed")
        if self.stage == "distill":
            words.append("with the teacher")
        if self.tokens != 1024:
            words.append(f"{self.tokens} tokens")
        return ", ".join(words)

    @property
    def card(self) -> BackboneCard:
        return BackboneCard(
            name=self.shape, random=dict(CARDS[self.shape]), tokenizer="unused", dtype="float32", dummy=True
        )

    @property
    def file(self) -> str:
        """On CPUs ``zero3_offload`` is cpu.json: there is no memory to pin."""
        name = "cpu.json" if self.sharding == "zero3_offload" else FILES[self.sharding]
        return str(DS_CONFIGS / name) if name else ""

    @property
    def kind(self) -> str:
        return "train_with_teacher" if self.stage == "distill" else "train"

    def samples(self) -> list[Sample]:
        """A step's samples: each rank's micro-batch is nearly full."""
        each = (self.tokens - TASKS * LENGTH) // SAMPLE
        g = torch.Generator().manual_seed(0)
        vocabulary: Any = CARDS[self.shape]["vocab_size"]

        def draw(n: int) -> list[int]:
            return torch.randint(3, vocabulary, (n,), generator=g).tolist()  # type: ignore[no-any-return]

        samples = []
        for number in range(each * self.world):
            samples.append(Sample(draw(SAMPLE - ANSWER), draw(ANSWER), row=number % TASKS))
        return weight_answer_tokens(samples)


def predicted(case: Case, kind: DeviceKind) -> dict[str, Any]:
    """What the plan says: bytes of memory of a rank by part, seconds of a step, bytes that a step brings."""
    card = case.card
    sizes, machine = measure_footprint(card), Machine(case.nodes, case.ranks_per_node, "cpu", 0, 1 << 40)
    groups = packed_groups(
        case.samples(), prompt_length=LENGTH, max_tokens_per_micro_batch=case.tokens, world=case.world
    )
    batches = [micro_batch_of(g, LENGTH, True) for g in groups]
    most = max(batches, key=lambda b: b.tokens)
    bank = LENGTH * sizes.hidden + TASKS * (LENGTH + sizes.hidden)
    if case.stage == "teach":
        bank = TASKS * LENGTH * sizes.hidden
    wanted = estimate_memory(
        sizes, case.sharding, case.recompute, work=MicroBatchShape(most.tokens, most.answers, 8 * bank), m=machine
    )
    found = trace(card, case.recompute)
    brought = Gathered()
    if case.file:
        rules = rules_of(zero_config(case.file, card, sizes, case.ranks_per_node), machine)
        brought = Coordinator(sizes, trace=found, rules=rules, machine=machine).steady(case.kind)
    model = Model(
        sizes,
        attention_of(backbone_config(card)),
        wanted,
        machine,
        kind,
        {case.kind: brought},
        {case.kind: sum(v.enters for v in found.visits[case.kind])},
        card.dtype,
    )
    rounds = len(groups) // case.world
    largest = [max(batches[at : at + case.world], key=lambda b: b.tokens) for at in range(0, len(batches), case.world)]
    step = step_seconds(model, case.kind, steps=[largest], numbers=bank)
    return {
        "memory": wanted.device + wanted.host,
        "parts": {k: d + h for k, (d, h) in wanted.parts.items()},
        "seconds": step.total,
        "terms": step.terms,
        "bytes": [brought.intra * rounds, brought.inter * rounds],
    }


def _steps(case: Case, steps: int, device: torch.device) -> dict[str, Any]:
    backbone = ShardedBackbone(
        case.card, deepspeed_file=case.file, device=device, recompute=case.recompute, ranks_per_node=case.ranks_per_node
    )
    hidden = backbone.model.config.hidden_size
    teachers = SoftPromptBank(0.02 * torch.randn(TASKS, LENGTH, hidden)).requires_grad_(False)
    student: Any = SoftPromptBank(0.02 * torch.randn(TASKS, LENGTH, hidden))
    if case.stage == "distill":
        student = DecomposedBank(
            0.02 * torch.randn(1, LENGTH, hidden), torch.ones(TASKS, LENGTH, 1), torch.ones(TASKS, 1, hidden)
        )
    where = distributed.dist_env()
    forward_backward = ForwardBackward(backbone, True, case.tokens, where.rank, where.world)
    samples, weights, asked = case.samples(), LossWeights(), None
    if case.stage == "distill":
        weights, asked = LossWeights(0.9, 0.9), teachers
    seconds, brought = [], Gathered()
    for _ in range(steps + 3):  # two to record and follow DeepSpeed's trace, one to warm up
        distributed.barrier()
        begin = time.perf_counter()
        student.zero_grad()
        for group in forward_backward.micro_batches(samples, student):
            forward_backward.train(group, bank=student, weights=weights, teachers=asked, cached=None)
        distributed.sum_gradients(student)
        seconds.append(distributed.gather_objects(time.perf_counter() - begin))
        brought = backbone.gathers.take()
    return {"seconds": [max(s) for s in seconds[3:]], "bytes": [brought.intra, brought.inter]}


def _calibrate(case: Case, _: int, device: torch.device) -> dict[str, Any]:
    kind = calibrate(case.card, case.tokens, device, case.nodes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "machine.yaml"
        write_kind(kind, file)
        return {"yaml": file.read_text(), "kind": asdict(kind)}


WHAT: dict[str, Callable[[Case, int, torch.device], dict[str, Any]]] = {
    "empty": lambda *_: {},
    "calibrate": _calibrate,
    "steps": _steps,
}


def main() -> None:
    what, case, steps, output = sys.argv[1:]
    torch.set_num_threads(1)
    device = distributed.start_process_group(distributed.dist_env())
    found = WHAT[what](Case(**json.loads(case)), int(steps), device)
    found["peaks"] = distributed.gather_objects(memory_of("VmHWM"))
    if distributed.dist_env().rank == 0:
        Path(output).write_text(json.dumps(found))
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # the work is done and written: gloo's threads may abort a process that tears its libraries down


if __name__ == "__main__":
    main()
