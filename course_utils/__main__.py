"""python -m course_utils doctor | fetch | train | serve | grade"""

import argparse
import logging
import sys
from pathlib import Path

from course_utils import assets, doctor


def fetch(names: list[str], chapters_only: bool) -> int:
    """Fetch assets ahead of a class; return 1 if something that a chapter needs is missing."""
    from course_utils import pretrained

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
            found, reason = pretrained.resolve(name)
            pretrained.folder_of(found)
        except assets.AssetError as error:
            needed = manifest[name].chapters
            missing_for_chapters |= bool(needed) or name in names
            print(f"✗ {name}: {error}\n  Chapters that need it: {', '.join(needed) or 'none yet'}")
        else:
            stands_in = f"{found} stands in ({reason})" if found != name else manifest[name].title
            print(f"✓ {name}: {stands_in}")
    return int(missing_for_chapters)


def serve(name: str, host: str, port: int) -> int:
    """Serve a model until Ctrl-C; return 1 if it cannot be had or the port is taken."""
    from course_utils import pretrained, serving, weights
    from course_utils.device import pick_device

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        theirs, tokenizer, card = pretrained.load(name)
        model = weights.from_transformers(theirs).to(pick_device())
        tokenizer.model_max_length = 10**9  # it would warn about what the server refuses anyway
        stop = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        app = serving.make_app(model, tokenizer, stop=stop)
        serving.run(app, host, port, card.title)
    except assets.AssetError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        advice = "Is it taken? --port 0 finds a free one."
        print(f"cannot listen on {host}, port {port}: {error}. {advice}", file=sys.stderr)
    else:
        return 0
    return 1


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
    training.add_argument("--accumulate", type=int, default=1, help="batches for one step")
    training.add_argument("--eval-every", type=int, default=100, help="also writes the checkpoint")
    training.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    training.add_argument("--seed", type=int, default=0)
    for size in ("--n-layer", "--n-head", "--n-embd", "--block-size"):
        training.add_argument(size, type=int, help="default: the recipe's")
    training.add_argument("--resume", action="store_true", help="go on, if --out has a checkpoint")
    serving = commands.add_parser("serve", help="answer POST /generate with a model's text")
    serving.add_argument("--model", default="gpt2", choices=("gpt2", "distilgpt2", "smollm2"))
    serving.add_argument("--port", type=int, default=8000, help="0 takes any free one")
    serving.add_argument(
        "--host", default="127.0.0.1", help="default: this machine only. 0.0.0.0 lets others in"
    )
    grading = commands.add_parser("grade", help="grade a folder of homework, see grading.md")
    if "grade" in (sys.argv[1:] if arguments is None else arguments)[:1]:
        from course_grader import command  # not installed with a student's course_utils

        command.add_arguments(grading)
    options = parser.parse_args(arguments)
    if options.command == "grade":
        return command.run(options)
    if options.command == "train":
        from course_utils import train_command

        return train_command.run(options)
    if options.command == "serve":
        return serve(options.model, options.host, options.port)
    if options.command == "doctor":
        return doctor.main()
    if unknown := set(options.names) - set(assets.manifest()):
        parser.error(
            f"no asset is called {', '.join(sorted(unknown))}; "
            f"there are: {', '.join(assets.manifest())}"
        )
    return fetch(options.names, options.chapters)


if __name__ == "__main__":
    sys.exit(main())
