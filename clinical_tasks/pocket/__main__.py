"""Writes the pocket corpus: python -m clinical_tasks.pocket --output DIR --seed 0 [--train 400 --validation 40 --test
60]

DIR becomes a data root with a folder for each release and `cards/`, the task cards for it.
"""

from __future__ import annotations

import argparse
import time

from clinical_tasks.pocket.corpus import SIZES, SOURCES, TARGETS, write_pocket_corpus


def main() -> None:
    """Parse the command line, write, say what was written."""
    parser = argparse.ArgumentParser(
        prog="python -m clinical_tasks.pocket", description="Write the pocket corpus.", allow_abbrev=False
    )
    parser.add_argument("--output", required=True, help="the data root to write")
    parser.add_argument("--seed", type=int, default=0)
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=size, help=f"documents a task (default {size})")
    options = parser.parse_args()
    sizes = {split: getattr(options, split) for split in SIZES}
    if min(sizes.values()) < 1:
        parser.error("each split needs at least one document")
    begin = time.perf_counter()
    written = write_pocket_corpus(options.output, options.seed, sizes)
    print(
        f"{len(SOURCES)} source and {len(TARGETS)} target tasks, {sum(written.values())} documents, "
        f"in {time.perf_counter() - begin:.1f} s: {options.output}"
    )


if __name__ == "__main__":
    main()
