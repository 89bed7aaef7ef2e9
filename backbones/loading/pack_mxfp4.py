"""A gpt-oss folder with wide experts -> the same with MXFP4 experts, in the layout of the released one.

    python -m backbones.loading.pack_mxfp4 --source my_finetuned_gpt_oss --output packed

The experts are rounded to four bits a number; everything else is copied. One tensor is in memory at a time, and an
output file per input file.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from backbones.card import BackboneError
from backbones.layers import BLOCK, PACKED, quantise
from backbones.loading.safetensors_source import SafetensorsSource

RELEASED = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}


def pack(source: Path, output: Path) -> None:
    """Write ``output``; the folder must not exist.

    Raises:
        BackboneError: no gpt-oss, packed already, widths that blocks of 32 do not divide, or a folder in the way.
    """
    if output.exists():
        raise BackboneError(f"--output: {output} exists; name a new folder")
    SafetensorsSource(source)  # its errors
    config = json.loads((source / "config.json").read_text())
    if config.get("model_type") != "gpt_oss":
        raise BackboneError(f"--source: {source} is {config.get('model_type')}, not gpt_oss")
    if config.get("quantization_config"):
        raise BackboneError(f"--source: {source} is packed already")
    if config["hidden_size"] % BLOCK or config["intermediate_size"] % BLOCK:
        raise BackboneError(
            f"--source: {source}: MXFP4 packs {BLOCK} numbers; hidden_size and intermediate_size must be multiples"
        )
    output.mkdir(parents=True)
    (output / "config.json").write_text(json.dumps({**config, "quantization_config": RELEASED}, indent=2) + "\n")
    places: dict[str, str] = {}
    size = 0
    for file in sorted(source.glob("*.safetensors")):
        weights = {}
        with safe_open(file, "pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - not a mapping, it has keys() only
                weight = stream.get_tensor(name)
                if name.endswith(PACKED):
                    weights[f"{name}_blocks"], weights[f"{name}_scales"] = quantise(weight.transpose(1, 2))
                else:
                    weights[name] = weight.to(torch.bfloat16)
        save_file(weights, output / file.name, metadata={"format": "pt"})
        places |= dict.fromkeys(weights, file.name)
        size += sum(w.numel() * w.element_size() for w in weights.values())
    if (source / "model.safetensors.index.json").exists():
        (output / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=1) + "\n"
        )
    for other in source.iterdir():
        if (
            other.is_file()
            and other.suffix != ".safetensors"
            and other.name not in ("config.json", "model.safetensors.index.json")
        ):
            shutil.copy2(other, output / other.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    try:
        pack(a.source, a.output)
    except BackboneError as error:
        sys.exit("\n".join(f"error: {p}" for p in error.problems))


if __name__ == "__main__":
    main()
