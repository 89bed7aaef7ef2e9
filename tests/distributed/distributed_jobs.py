"""What the worker ranks do. Everything returned is plain data or CPU tensors (as numpy, so that no file handles
travel).
"""

from pathlib import Path
from typing import Any

import torch
from distributed_models import (
    FAMILIES as FAMILIES,
    GPT_OSS as GPT_OSS,
    LENGTH as LENGTH,
    LLAMA as LLAMA,
    LLAMA3_ROPE as LLAMA3_ROPE,
    SCALED as SCALED,
    TASKS as TASKS,
    Samples as Samples,
    card_of as card_of,
    mixed_stage_of as mixed_stage_of,
    settings_of as settings_of,
    stage_of as stage_of,
)

from backbones import BackboneCard, BackboneError, backbone_checksum, build_backbone, parameter_count, resident_bytes
from backbones.loading.embedding_rows import RowsFromFile
from engine.config.schema import EvaluateConfig
from engine.distributed import process_group
from engine.distributed.zero3 import ShardedBackbone
from engine.evaluation.generation import Greedy
from engine.evaluation.multiple_choice import Choice, option_likelihoods
from engine.evaluation.vllm.backend import served_answers
from engine.training.trainer import Trainer


def gradients(
    family: str,
    deepspeed: str,
    budget: int,
    dtype: str = "float32",
    recompute: int = 0,
    packed: bool = True,
    offload_inputs: bool = False,
    mixed: bool = False,
) -> dict[str, Any]:
    """Bank gradients of the first global step, and what the shards did meanwhile."""
    device = process_group.start_process_group(process_group.dist_env())
    backbone = ShardedBackbone(
        card_of(family, dtype),
        deepspeed_file=deepspeed,
        device=device,
        recompute=recompute,
        offload_inputs=offload_inputs,
    )
    before = backbone_checksum(backbone.model)
    held = resident_bytes(backbone.model)
    stage = mixed_stage_of(backbone) if mixed else stage_of(backbone.model.config.hidden_size, Path("unused"))
    trainer = Trainer(stage, backbone, settings_of(budget, packed))
    outcome = trainer.gradients(0)
    gathered = backbone.gathers.take()
    return {
        "grads": {n: p.grad.numpy().copy() for n, p in trainer.stage.bank.named_parameters() if p.requires_grad},
        "sums": outcome["sums"].numpy(),
        "gathers": gathered.calls,
        "gather_bytes": gathered.bytes,
        "resident_before": held,
        "resident_after": resident_bytes(backbone.model),
        "whole": sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in backbone.model.parameters()),
        "unchanged": backbone_checksum(backbone.model) == before,
    }


def train(family: str, deepspeed: str, run_dir: str, steps: int) -> dict[str, Any]:
    """A whole loop with checkpoints; is the backbone what it was?"""
    device = process_group.start_process_group(process_group.dist_env())
    backbone = ShardedBackbone(card_of(family), deepspeed, device)
    before = backbone_checksum(backbone.model)
    trainer = Trainer(stage_of(32, Path(run_dir), steps), backbone, settings_of(80))
    trainer.stage.eval_interval = 2
    trainer.run()
    return {
        "unchanged": backbone_checksum(backbone.model) == before,
        "bank": {n: p.detach().numpy().copy() for n, p in trainer.stage.bank.named_parameters()},
        "best_loss": trainer.best_loss,
    }


def loaded(card: dict[str, Any], deepspeed: str) -> dict[str, Any]:
    """Each rank's shards of a released folder, and what they gather to, beside a model loaded whole."""
    import deepspeed as ds
    import torch.distributed as dist

    device = process_group.start_process_group(process_group.dist_env())
    ds.utils.groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = (
        None  # DeepSpeed takes one backbone with secondary shards a process, this process several
    )
    card_ = BackboneCard(name="released", tokenizer="unused", **card)
    said: list[str] = []
    sharded = ShardedBackbone(card_, deepspeed_file=deepspeed, device=device, print_rank0=said.append)
    plain = build_backbone(card_, None)
    wrong, buffers = [], []
    rows = sharded.model.get_input_embeddings()
    if isinstance(rows, RowsFromFile):
        ids = torch.arange(plain.config.vocab_size).view(7, -1)
        if not torch.equal(rows(ids), plain.get_input_embeddings()(ids)):
            wrong.append("embedding rows")
    filled = dict(sharded.model.named_parameters(remove_duplicate=False))
    numbers = [parameter_count(m) for m in (plain, sharded.model)]
    for name, expected in plain.named_parameters():
        name = "lm_head.weight" if name not in filled and plain.config.tie_word_embeddings else name
        if name not in filled and isinstance(rows, RowsFromFile) and "embed_tokens" in name:
            continue
        p: Any = filled[name]
        flat, shards = expected.data.flatten(), [(p.ds_tensor, dist.get_rank())]
        if p.ds_secondary_tensor is not None:
            shards.append((p.ds_secondary_tensor, dist.get_rank(group=p.ds_zero_param_process_group)))
        for tensor, rank in shards:
            own = flat[rank * tensor.numel() : (rank + 1) * tensor.numel()]
            if not torch.equal(tensor[: len(own)].cpu(), own) or tensor[len(own) :].any():
                wrong.append(f"{name} {len(shards)}")
        with ds.zero.GatheredParameters([p]):
            if not torch.equal(p.data.cpu(), expected.data):
                wrong.append(f"{name} gathered")
    for (name, a), (_, b) in zip(plain.named_buffers(), sharded.model.named_buffers(), strict=True):
        buffers += [] if torch.equal(a, b) else [name]
    whole = sum(p.ds_numel * p.element_size() for p in sharded.model.parameters())
    return {
        "wrong": wrong,
        "rows_from_file": isinstance(rows, RowsFromFile),
        "numbers": numbers,
        "buffers": buffers,
        "held": resident_bytes(sharded.model),
        "whole": whole,
        "said": said,
        "secondary": sum(getattr(p, "ds_secondary_tensor", None) is not None for p in sharded.model.parameters()),
    }


def hidden_states(card: dict[str, Any], deepspeed: str) -> dict[str, Any]:
    """How far a sharded released folder is from transformers' own model of it, and what its table and buffers are."""
    import deepspeed as ds
    from transformers import AutoModelForCausalLM

    device = process_group.start_process_group(process_group.dist_env())
    ds.utils.groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
    card_ = BackboneCard(name="released", tokenizer="unused", **card)
    sharded, dtype = ShardedBackbone(card_, deepspeed, device), getattr(torch, card_.dtype)
    plain = AutoModelForCausalLM.from_pretrained(card_.path, dtype=dtype, local_files_only=True).eval()
    ids, apart = torch.arange(3, 40)[None], []
    with torch.no_grad():
        expected = plain.base_model(input_ids=ids).last_hidden_state
        embedded = sharded.embed(ids[0])[None]
        for given in ({"input_ids": ids}, {"inputs_embeds": embedded}):
            found = sharded.model.base_model(**given).last_hidden_state
            apart.append((found.double() - expected.double()).abs().max().item())
            sharded.release()
        logits, wanted = (model(input_ids=ids).logits.double() for model in (sharded.model, plain))
    sharded.release()
    pairs = zip(plain.named_buffers(), sharded.model.named_buffers(), strict=True)
    buffers = [name for (name, a), (_, b) in pairs if not a.equal(b)]
    return {
        "apart": apart,
        "logits": (logits - wanted).abs().max().item(),
        "scale": expected.abs().max().item(),
        "buffers": buffers,
        "rows_from_file": isinstance(sharded.model.get_input_embeddings(), RowsFromFile),
    }


def refused(card: dict[str, Any], deepspeed: str) -> list[str]:
    """The problems that a folder is refused with."""
    device = process_group.start_process_group(process_group.dist_env())
    try:
        ShardedBackbone(BackboneCard(name="released", tokenizer="unused", **card), deepspeed, device)
    except BackboneError as error:
        return error.problems
    return []


def faithful(family: str, deepspeed: str, dtype: str, first_position: int) -> dict[str, Any]:
    """The sharded model beside one built without DeepSpeed: buffers and logits, at positions from
    ``first_position`` on.
    """
    device = process_group.start_process_group(process_group.dist_env())
    card = card_of(family, dtype)
    sharded = ShardedBackbone(card, deepspeed, device)
    plain = build_backbone(card, None)
    ids = torch.randint(0, 256, (2, 48), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(first_position, first_position + 48)[None]
    with torch.no_grad():
        expected = plain(input_ids=ids, position_ids=positions, use_cache=False).logits
        found = sharded.model(input_ids=ids, position_ids=positions, use_cache=False).logits
        moved = plain(input_ids=ids, position_ids=positions + torch.arange(48)[None], use_cache=False).logits
    sharded.release()
    pairs = list(zip(plain.named_buffers(), sharded.model.named_buffers(), strict=True))
    return {
        "buffers": max((a.double() - b.double()).abs().max().item() for (_, a), (_, b) in pairs),
        "names": [n for (n, _), _ in pairs],
        "dtypes": [str(b.dtype) for _, (_, b) in pairs],
        "logits": (expected.double() - found.double()).abs().max().item(),
        "scale": expected.double().abs().max().item(),
        "sensitivity": (expected.double() - moved.double()).abs().max().item(),
    }


def generate(family: str, deepspeed: str, lengths: list[int]) -> list[list[int]]:
    """Greedy continuations of this rank's own contexts; ranks differ in length and must still stop together."""
    device = process_group.start_process_group(process_group.dist_env())
    backbone = ShardedBackbone(card_of(family), deepspeed, device)
    rank, world = process_group.dist_env().rank, process_group.dist_env().world
    g = torch.Generator().manual_seed(11)
    contexts = [torch.randint(3, 256, (n,), generator=g).tolist() for n in lengths]
    prompts = torch.randn(len(contexts), LENGTH, 32, generator=g)
    own = slice(rank, None, world)
    ids = backbone.generate(contexts[own], prompts[own], 6, 2, 2, world > 1)
    backbone.release()
    return ids.tolist()


def slots(family: str, deepspeed: str, lengths: list[int], only: int = -1) -> dict[int, list[int]]:
    """Answers of this rank's share of the contexts, or of all of them on one rank, while the others keep step."""
    device = process_group.start_process_group(process_group.dist_env())
    backbone = ShardedBackbone(card_of(family), deepspeed, device)
    rank, world = process_group.dist_env().rank, process_group.dist_env().world
    g = torch.Generator().manual_seed(11)
    contexts = [torch.randint(3, 256, (n,), generator=g).tolist() for n in lengths]
    prompt_LD = torch.randn(LENGTH, 32, generator=g)
    mine = list(range(len(contexts)))[rank::world] if only < 0 else list(range(len(contexts))) if rank == only else []
    found = Greedy(
        backbone, prompt_LD, max_new_tokens=6, end_id=2, width=2, max_tokens_per_micro_batch=30, synced=world > 1
    )([contexts[i] for i in mine])
    return {mine[number]: ids for number, ids in found}


def likelihoods(family: str, deepspeed: str, sizes: list[int], budget: int) -> list[list[float]]:
    """Of invented options behind contexts of these sizes; ranks have unequal shares, or none."""
    device = process_group.start_process_group(process_group.dist_env())
    backbone = ShardedBackbone(card_of(family), deepspeed, device)
    return option_likelihoods(
        backbone, *invented_choices(sizes), budget, process_group.dist_env().rank, process_group.dist_env().world
    )


def served(family: str, deepspeed: str, lengths: list[int], url: str) -> dict[int, str]:
    """A server's answers to this rank's share of contexts of these lengths; the last rank has none, and looks
    embeddings up with the others.
    """
    device = process_group.start_process_group(process_group.dist_env())
    backbone = ShardedBackbone(card_of(family), deepspeed, device)
    rank, share = process_group.dist_env().rank, process_group.dist_env().world - 1
    mine = list(range(len(lengths)))[rank::share] if rank < share else []
    found = served_answers(
        backbone,
        prompt_LD=torch.zeros(LENGTH, 32),
        contexts=[[5] * lengths[i] for i in mine],
        most=-(-len(lengths) // share),
        e=EvaluateConfig(batch_size=2, server=url),
        model="mine",
        end_id=2,
    )
    return {mine[number]: answered.text for number, answered in found}


def invented_choices(sizes: list[int]) -> tuple[torch.Tensor, list[Choice]]:
    g = torch.Generator().manual_seed(12)
    draw = lambda n: torch.randint(3, 256, (n,), generator=g).tolist()  # noqa: E731
    return torch.randn(LENGTH, 32, generator=g), [
        Choice(draw(n), [[*draw(o), 2] for o in range(2 + n % 3)]) for n in sizes
    ]


def trace(family: str, deepspeed: str, budget: int, packed: bool, steps: int) -> dict[str, Any]:
    """How often DeepSpeed gave its module trace up in steps of several micro-batches, and whether it prefetches by
    one at the end.
    """
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator

    device = process_group.start_process_group(process_group.dist_env())
    given_up, whole = [], Coordinator._invalidate_trace
    Coordinator._invalidate_trace = lambda self: given_up.append(1) or whole(self)
    try:
        backbone = ShardedBackbone(card_of(family), deepspeed, device)
        trainer = Trainer(stage_of(32, Path("unused"), steps), backbone, settings_of(budget, packed))
        calls = 0
        for step in range(steps):
            calls += len(trainer.forward_backward.micro_batches(weigh_all(trainer, step), trainer.stage.bank))
            trainer.gradients(step)
        coordinator = backbone._engine.optimizer.get_param_coordinator()
        return {"given_up": len(given_up), "complete": coordinator.is_complete_trace(), "micro_batches": calls}
    finally:
        Coordinator._invalidate_trace = whole


def weigh_all(trainer: Trainer, step: int) -> list[Any]:
    """A step's samples, without moving the loop on."""
    from engine.data.sample import weight_answer_tokens
    from engine.data.sampling import plan_step

    picks = plan_step(trainer.stage.sampler.counts(step, [True] * TASKS), trainer.streams, list(trainer.cursors))
    samples = [trainer.stage.rows[row].train.sample(index, row) for row, index in picks]  # type: ignore[union-attr]
    return weight_answer_tokens(samples)


def traffic(
    card: dict[str, Any],
    deepspeed: str,
    kinds: list[str],
    budget: int,
    recompute: int = 0,
    packed: bool = True,
    ranks_per_node: int = 1,
) -> list[list[int]]:
    """What each micro-batch brought to this rank: one after the other, of these kinds."""
    import deepspeed as ds

    device = process_group.start_process_group(process_group.dist_env())
    ds.utils.groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = (
        None  # DeepSpeed takes one backbone with secondary shards a process, this process several
    )
    card_ = BackboneCard(tokenizer="unused", **card)
    backbone = ShardedBackbone(
        card_, deepspeed_file=deepspeed, device=device, recompute=recompute, ranks_per_node=ranks_per_node
    )
    stage = stage_of(backbone.model.config.hidden_size, Path("unused"))
    trainer = Trainer(stage, backbone, settings_of(budget, packed))
    group = trainer.forward_backward.micro_batches(weigh_all(trainer, 0), stage.bank)[0]
    found = []
    for kind in kinds:
        if kind == "embed":
            backbone.embed(torch.arange(4))
        elif kind == "forward":
            trainer.forward_backward.cross_entropies(group, stage.bank)
        else:
            trainer.forward_backward.train(
                group, stage.bank, stage.weights, stage.teachers if kind == "train_with_teacher" else None, None
            )
        found.append(list(backbone.gathers.take()))
    backbone.destroy()
    return found


def calibrated(family: str, nodes: int, file: str) -> dict[str, Any]:
    """A machine's file, written by rank 0 through these ranks. Each reads another free memory, as on a busy host."""
    from dataclasses import asdict

    from engine.planning import calibration

    device = process_group.start_process_group(process_group.dist_env())
    calibration.COPIED = 1 << 20
    calibration.free_host_bytes = lambda: (8 + process_group.dist_env().rank) << 30
    kind = calibration.calibrate(card_of(family), tokens=32, device=device, nodes=nodes)
    if process_group.dist_env().rank == 0:
        calibration.write_kind(kind, Path(file))
    process_group.barrier()
    return asdict(kind)
