"""python -m course_utils doctor | fetch"""

import argparse
import sys

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


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two commands and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m course_utils")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what this machine has and what to do about the rest")
    fetching = commands.add_parser("fetch", help="get models and texts ahead, for a classroom")
    fetching.add_argument("names", nargs="*", help="assets to get (default: all)")
    fetching.add_argument(
        "--chapters", action="store_true", help="only what the chapters of the book need"
    )
    options = parser.parse_args(arguments)
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
