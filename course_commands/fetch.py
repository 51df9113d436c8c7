"""``python -m course_utils fetch``: get models and texts in advance, for a class or the book."""

import argparse
import sys

from course_utils import assets


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="assets to get (default: all)")
    parser.add_argument("--chapters", action="store_true", help="only what the chapters need")


def run(options: argparse.Namespace) -> int:
    """Fetch assets and report on each; return 1 if something that a chapter needs is missing."""
    manifest = assets.manifest()
    if unknown := sorted(set(options.names) - set(manifest)):
        known = ", ".join(manifest)
        names = ", ".join(name or repr(name) for name in unknown)
        print(f"no asset is called {names}; there are: {known}", file=sys.stderr)
        return 2
    stand_ins = {asset.stand_in for asset in manifest.values()}
    wanted = options.names or [
        name
        for name, asset in manifest.items()
        if name not in stand_ins and (asset.chapters or not options.chapters)
    ]
    missing = [name for name in wanted if not _fetch(name)]
    return int(any(manifest[name].chapters or name in options.names for name in missing))


def _fetch(name: str) -> bool:
    """Fetch one asset or its stand-in and print a line about it; return whether it is here."""
    asset = assets.manifest()[name]
    try:
        found, reason = assets.resolve(name)
        if found == "smollm2-q4":  # the one that is expanded, which needs torch
            from course_utils import pretrained

            pretrained.folder_of(found)
    except assets.AssetError as error:
        needed = ", ".join(asset.chapters) or "none"
        print(f"✗ {name}: {error}\n  Chapters that need it: {needed}")
        return False
    print(f"✓ {name}: " + (asset.title if found == name else f"{found} stands in ({reason})"))
    return True
