"""A released folder into ZeRO-3 shards: ours, and transformers' from_pretrained under DeepSpeed, in turns, each in
processes of its own.

    python -m benchmarks.loader --folder runs/loader --output benchmarks/results/loader_cpu.json

Seconds from a running process group to a filled model, the slower rank's; peak memory of a rank above what it held
before (VmHWM, so the pages of mapped files count). The folder is written once, a bf16 Llama of 2.1 GB with seeded
weights, and read once before, so that the disk is in nobody's figure.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from backbones import BackboneCard, build_backbone
from backbones.loading import DummySource, Stored
from backbones.tracing import measure_footprint
from benchmarks.common.process_memory import forget_peak, memory_of
from engine import distributed
from engine.core import library_versions, machine_info, protect, source_commit
from engine.distributed import deepspeed_file_of, zero_config

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
SHARD = 500 << 20  # bytes of a file
METHODS = ("ours", "from_pretrained")


def write(folder: Path) -> None:
    """The folder in a release's layout."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.for_model(**LLAMA)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: Stored(tuple(p.shape), torch.bfloat16) for name, p in model.named_parameters()}
    source, parts, size = DummySource(shapes, 0), [{}], 0  # type: ignore[var-annotated]
    for name, stored in shapes.items():
        weight = torch.empty(stored.shape, dtype=torch.bfloat16)
        source.read(name, 0, weight.view(-1))
        if size + weight.nbytes > SHARD:
            parts.append({})
            size = 0
        parts[-1][name] = weight
        size += weight.nbytes
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text(
        json.dumps({**config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"})
    )


def child(method: str, folder: Path) -> None:
    """One rank: load, and say how long it took and how much memory."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    device = distributed.start_process_group(distributed.dist_env())
    card = BackboneCard(name="loader", path=str(folder), tokenizer="none", dtype="bfloat16")
    zero = zero_config(deepspeed_file_of("zero3_offload"), card, measure_footprint(card))
    keep = HfDeepSpeedConfig(zero) if method == "from_pretrained" else None
    distributed.barrier()
    forget_peak()
    held, begin = memory_of("VmRSS"), time.perf_counter()
    model: Any
    if keep is None:
        model = build_backbone(card, zero, device=device)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    seconds = time.perf_counter() - begin
    peak = memory_of("VmHWM") - held
    shards = sum(p.ds_tensor.numel() * p.ds_tensor.element_size() for p in model.parameters())
    every = distributed.gather_objects(
        {"seconds": seconds, "peak_bytes": peak, "shard_bytes": shards, "held_before": held}
    )
    if distributed.dist_env().rank == 0:
        print("RESULT " + json.dumps(every), flush=True)


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/loader"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        child(a.child, a.folder)
        return
    if not (a.folder / "config.json").exists():
        write(a.folder)
    files = sorted(a.folder.glob("*.safetensors"))
    total = sum(len(f.read_bytes()) for f in files)  # into the page cache
    found: dict[str, list[list[dict[str, float]]]] = {m: [] for m in METHODS}
    for _ in range(a.pairs):
        for method in METHODS:
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nproc_per_node",
                str(a.ranks),
                "-m",
                "benchmarks.loader",
                "--child",
                method,
                "--folder",
                str(a.folder),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{method} failed:\n{done.stderr[-3000:]}")
            found[method].append(json.loads(lines[0][7:]))
    seconds: dict[str, list[float]] = {}
    peak: dict[str, float] = {}
    for method, runs in found.items():
        seconds[method] = [max(rank["seconds"] for rank in run) for run in runs]
        peak[method] = max(rank["peak_bytes"] for rank in chain.from_iterable(runs))
    ratios = [b / o for o, b in zip(seconds["ours"], seconds["from_pretrained"], strict=True)]
    largest = max(measure_footprint(BackboneCard(name="loader", path=str(a.folder), tokenizer="none")).tensors)
    allowed = total / a.ranks + 0.1 * largest
    print(
        f"{total / 1e9:.2f} GB on {a.ranks} ranks: ours {statistics.median(seconds['ours']):.1f} s, from_pretrained "
        f"{statistics.median(seconds['from_pretrained']):.1f} s, {statistics.median(ratios):.1f}x "
        f"({min(ratios):.1f}-{max(ratios):.1f})"
    )
    print(
        f"peak of a rank above what it held: ours {peak['ours'] / 1e9:.3f} GB, from_pretrained "
        f"{peak['from_pretrained'] / 1e9:.3f} GB; "
        f"model / ranks + 10 % of the largest tensor is {allowed / 1e9:.3f} GB"
    )
    if a.output:
        result = {
            "bytes": total,
            "ranks": a.ranks,
            "largest_tensor_bytes": largest,
            "allowed_bytes": allowed,
            "ratio": ratios,
            "seconds": seconds,
            "peak_bytes": peak,
            "runs": found,
            "machine": machine_info(),
            "versions": library_versions(),
            "commit": source_commit(),
        }
        a.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
