"""Train the toy models anew, into the places from which `from_pretrained` loads them."""

from __future__ import annotations

import argparse
from pathlib import Path

from tl_widgets.loading.names import TOYS
from tl_widgets.toys import RECIPES


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m tl_widgets.toys", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which (all of them): {', '.join(RECIPES)}")
    parser.add_argument("--into", type=Path, help="another folder, one directory a toy")
    parser.add_argument("--checkpoints", type=Path, help="keep checkpoints of the training in this folder")
    parser.add_argument("--every", type=int, default=20, help="steps from one checkpoint to the next (%(default)s)")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in RECIPES]
    if unknown:
        parser.error(f"no toy is called {unknown[0]!r}; there is {', '.join(RECIPES)}")
    for name in given.names or RECIPES:
        saves = dict(save_every=given.every, save_dir=given.checkpoints / name) if given.checkpoints else {}
        folder = given.into / name if given.into else TOYS[name]
        RECIPES[name].train(name, **saves).save_pretrained(folder)
        print(f"{name} lies in {folder}")


if __name__ == "__main__":
    main()
