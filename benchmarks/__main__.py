"""Print the course's benchmark tables: ``make bench``, or one of them, ``make bench ONLY=bpe``.

Every figure comes with that of a peer, measured in the same run and in turns with it, so that a
machine that slows down slows both. Nothing else should run on the machine meanwhile.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence

import torch

from benchmarks import attention, bpe, generation, live_engine, live_train, mini_llm
from benchmarks.tables import markdown_table
from course_commands import terminal
from course_utils.device import describe_device, pick_device

BENCHMARKS = {
    "mini_llm": mini_llm,
    "generation": generation,
    "bpe": bpe,
    "attention": attention,
    "live_engine": live_engine,
    "live_train": live_train,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, help="run one benchmark instead of all")
    parser.add_argument(
        "--quick", action="store_true", help="the same tables from tiny runs: a test that all works"
    )
    options = parser.parse_args(arguments)
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars would drown the tables
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {processor()}, "
        f"{describe_device(pick_device())}."
    )
    for name, benchmark in BENCHMARKS.items():
        if options.only in (None, name):
            for title, rows in benchmark.tables(options.quick):
                print(f"\n{title}\n\n{markdown_table(rows)}", flush=True)


def processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(terminal.run(main))
