"""One long note: peak memory of a training step against its length, whole activations and recomputed layers, beside
what is predicted.

    python -m benchmarks.long_notes --shape cpu_long --lengths 1024,2048,4096,8192 --output
    benchmarks/results/long_notes_cpu.json

Each case is a child process; memory is the peak of its steps above what it held before the backbone was built. On a GPU
the layers' inputs are kept on the host besides. What the C library keeps of one step is there in the next: three are
run, of notes from 16,000 tokens on `--steps 1` will do.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from backbones import BackboneCard
from backbones.tracing import measure_footprint
from benchmarks.common.process_memory import forget_peak, memory_of
from benchmarks.common.workload import MXFP4, SHAPES, Shape
from engine.core import library_versions, machine_info, protect, source_commit
from engine.data import Sample, weight_answer_tokens
from engine.distributed import GB, Machine, MicroBatchShape, ShardedBackbone, estimate_memory
from engine.training import ForwardBackward, LossWeights
from prompt_modules import DecomposedBank

_MID = SHAPES["cpu_mid"]
_GPT = {
    "model_type": "gpt_oss",
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 128,
    "vocab_size": 32000,
    "max_position_embeddings": 131072,
    **MXFP4,
}
LONG = {
    "cpu_long": replace(_MID, card={**_MID.card, "max_position_embeddings": 65536}),
    "cpu_long_gpt_oss": Shape(_GPT, "float32", 100, 1, 1),
    "llama_8b": SHAPES["llama_8b"],
    "gpt_oss_20b": SHAPES["gpt_oss_20b"],
}
ANSWER = 200  # tokens


def _card(shape: Shape) -> BackboneCard:
    return BackboneCard(name="long", random=dict(shape.card), tokenizer="none", dtype=shape.dtype, dummy=True)


def child(shape: Shape, length: int, recompute: bool, steps: int, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    held = torch.cuda.memory_allocated() if on_gpu else memory_of("VmRSS")
    layers = shape.card["num_hidden_layers"] if recompute else 0
    backbone = ShardedBackbone(
        _card(shape), deepspeed_file="", device=device, recompute=layers, offload_inputs=recompute and on_gpu
    )
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(3, shape.card["vocab_size"], (length,), generator=g).tolist()
    samples = weight_answer_tokens([Sample(ids[:-ANSWER], ids[-ANSWER:])])
    hidden = shape.card["hidden_size"]
    bank = DecomposedBank(
        0.02 * torch.randn(1, shape.length, hidden, generator=g),
        torch.ones(1, shape.length, 1),
        torch.ones(1, 1, hidden),
    ).to(device)
    forward_backward = ForwardBackward(backbone, True, length + shape.length, 0, 1)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    for _ in range(steps):
        begin = time.perf_counter()
        forward_backward.train(samples, bank, weights=LossWeights(), teachers=None, cached=None)
    peak = torch.cuda.max_memory_allocated() if on_gpu else memory_of("VmHWM")
    print(json.dumps({"peak_bytes": peak - held, "seconds": time.perf_counter() - begin}))


def predicted_bytes(shape: str, length: int, recompute: bool, device: str) -> float:
    sizes = measure_footprint(_card(LONG[shape]))
    work = MicroBatchShape(length + LONG[shape].length, ANSWER, 0)
    parts = estimate_memory(
        sizes,
        sharding="replicated",
        recompute=recompute * len(sizes.layers),
        work=work,
        m=Machine(1, 1, device, 0, 0),
        offloaded=recompute and device == "cuda",
    ).parts
    return sum(d for d, _ in parts.values())


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=LONG, default="cpu_long")
    parser.add_argument("--lengths", default="1024,2048,4096,8192", help="tokens of the note")
    parser.add_argument("--steps", type=int, default=3, help="of each case; the last is timed")
    parser.add_argument(
        "--output", type=Path, help="JSON; results of an earlier call are kept, the same cases replaced"
    )
    parser.add_argument(
        "--again", action="store_true", help="measure nothing: predict anew for the measurements in --output"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    a = parser.parse_args()
    shape, device = LONG[a.shape], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if a.child:
        length, recompute = a.child.split(",")
        child(shape, int(length), recompute == "1", a.steps, device)
        return
    if a.again:
        content = json.loads(a.output.read_text())
        for c in content["cases"]:
            c["predicted_bytes"] = predicted_bytes(
                c["shape"], length=c["length"], recompute=c["recomputed"], device=device.type
            )
        a.output.write_text(json.dumps(content, indent=1) + "\n")
        return
    cases = []
    for length in map(int, a.lengths.split(",")):
        for recompute in (0, 1):
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.long_notes",
                    "--shape",
                    a.shape,
                    "--steps",
                    str(a.steps),
                    "--child",
                    f"{length},{recompute}",
                ],
                capture_output=True,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout.splitlines()[-1])
            predicted = predicted_bytes(a.shape, length, recompute=bool(recompute), device=device.type)
            cases.append(
                {
                    "shape": a.shape,
                    "length": length,
                    "recomputed": bool(recompute),
                    "steps": a.steps,
                    "predicted_bytes": predicted,
                    **found,
                }
            )
            layers = "recomputed" if recompute else "kept"
            print(
                f"{a.shape}, {length} tokens, {layers}: "
                f"{found['peak_bytes'] / GB:.2f} GB, "
                f"predicted {predicted / GB:.2f}, {found['seconds']:.1f} s",
                flush=True,
            )
    if a.output:
        made = {"machine": machine_info(), "versions": library_versions(), "commit": source_commit()}
        new = [(c["shape"], c["length"]) for c in cases]
        before = json.loads(a.output.read_text()) if a.output.exists() else {"cases": []}
        # cases of an earlier call keep what they were made on
        made_then = {k: before[k] for k in made if k in before}
        earlier = [made_then | c for c in before["cases"] if (c["shape"], c["length"]) not in new]
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(json.dumps({"cases": earlier + [{**c, **made} for c in cases]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
