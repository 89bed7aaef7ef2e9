"""Compile what DeepSpeed would otherwise build inside the first run: its CPU collectives. No GPU: one minute, once.

    python -m engine.build_ops
"""

import os

from engine.protection import protect


def main() -> None:
    """Build into TORCH_EXTENSIONS_DIR; does nothing on a machine with a GPU, where nccl is used."""
    protect()
    import torch

    if torch.cuda.is_available():
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
    print("DeepSpeed's CPU collectives are built")


if __name__ == "__main__":
    main()
