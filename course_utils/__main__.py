"""python -m course_utils doctor | fetch | train | serve | grade"""

import argparse
import sys
from pathlib import Path

from course_utils import settings, terminal


def fetch(names: list[str], chapters_only: bool) -> int:
    """Fetch assets ahead of a class; return 1 if something that a chapter needs is missing."""
    from course_utils import assets

    manifest = assets.manifest()
    stand_ins = {asset.stand_in for asset in manifest.values()}
    wanted = names or [
        name
        for name, asset in manifest.items()
        if name not in stand_ins and (asset.chapters or not chapters_only)
    ]
    missing_for_chapters = False
    for name in wanted:
        try:
            found, reason = assets.resolve(name)
            if found == "smollm2-q4":  # the one that is expanded; it brings in torch
                from course_utils import pretrained

                pretrained.folder_of(found)
        except assets.AssetError as error:
            needed = manifest[name].chapters
            missing_for_chapters |= bool(needed) or name in names
            print(f"✗ {name}: {error}\n  Chapters that need it: {', '.join(needed) or 'none yet'}")
        else:
            stands_in = f"{found} stands in ({reason})" if found != name else manifest[name].title
            print(f"✓ {name}: {stands_in}")
    return int(missing_for_chapters)


def grade(submissions: Path, out: Path, seconds: float, memory_gb: float, seed: int | None) -> int:
    """Grade a folder of submissions; return 1 if there is nothing to grade or nothing to run it."""
    from course_grader import command
    from course_grader.sandbox import Limits

    limits = Limits(call_seconds=seconds / 6, seconds=seconds, memory=int(memory_gb * 2**30))
    try:
        command.grade(submissions, out, limits, seed)
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m course_utils")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what this machine has and what to do about the rest")
    fetching = commands.add_parser("fetch", help="get models and texts ahead, for a classroom")
    fetching.add_argument("names", nargs="*", help="assets to get (default: all)")
    fetching.add_argument(
        "--chapters", action="store_true", help="only what the chapters of the book need"
    )
    training = commands.add_parser("train", help="train a small GPT, alone or under torchrun")
    training.add_argument("--out", type=Path, required=True, help="folder for what is written")
    training.add_argument("--data", type=Path, help="a UTF-8 text (default: ten plays)")
    training.add_argument("--recipe", default="fast", choices=("classic", "fast"))
    training.add_argument("--steps", type=int, default=1000)
    training.add_argument("--batch-size", type=int, default=16, help="of all processes together")
    training.add_argument("--accumulation-steps", type=int, default=1, help="batches for one step")
    training.add_argument("--eval-every", type=int, default=100, help="also writes the checkpoint")
    training.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    training.add_argument("--seed", type=int, default=0)
    for size in ("--n-layer", "--n-head", "--n-embd", "--block-size"):
        training.add_argument(size, type=int, help="default: the recipe's")
    training.add_argument("--resume", action="store_true", help="go on, if --out has a checkpoint")
    serving = commands.add_parser("serve", help="answer POST /generate with a model's text")
    serving.add_argument("--model", default="gpt2", choices=("gpt2", "distilgpt2", "smollm2"))
    serving.add_argument("--port", default="8000", help="0 takes any free one")
    serving.add_argument(
        "--host", default="127.0.0.1", help="default: this machine only. 0.0.0.0 lets others in"
    )
    serving.add_argument(
        "--until-eof", action="store_true", help="also stop when standard input ends"
    )
    grading = commands.add_parser("grade", help="grade a folder of homework, see grading.md")
    grading.add_argument("submissions", type=Path, help="holds a folder for each student")
    grading.add_argument("--out", type=Path, default=Path("grades.csv"))
    grading.add_argument(
        "--limit-seconds",
        type=float,
        default=120,
        help="for one submission; a cell or a call may take a sixth",
    )
    grading.add_argument(
        "--limit-memory", type=float, default=4, help="GB of address space, 1 of it for torch"
    )
    grading.add_argument("--seed", type=int, help="repeats the extra checks of an earlier run")
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        from course_utils import doctor

        return doctor.main()
    for sentence in (*(refused := settings.refused()), *settings.odd()):
        print(sentence, file=sys.stderr)
    if refused:
        return 2
    if options.command == "grade":
        limits = options.limit_seconds, options.limit_memory
        return grade(options.submissions, options.out, *limits, options.seed)
    if options.command == "train":
        from course_utils import train_command

        return train_command.run(options)
    if options.command == "serve":
        from course_utils import serve_command

        return serve_command.run(options)
    from course_utils import assets

    if unknown := set(options.names) - set(assets.manifest()):
        parser.error(
            f"no asset is called {', '.join(sorted(unknown))}; "
            f"there are: {', '.join(assets.manifest())}"
        )
    return fetch(options.names, options.chapters)


if __name__ == "__main__":
    sys.exit(terminal.run(main))
