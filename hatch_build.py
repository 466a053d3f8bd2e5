"""Build the views' JavaScript on the way to a wheel, an sdist or an editable install.

``python hatch_build.py`` does the same by itself, and nothing when all is up to date.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class JavaScriptBuildHook(BuildHookInterface):
    """What hatchling calls before it collects the files of a build."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make sure that the bundle is there, whatever is being built."""
        build(Path(self.root))


def build(root: Path) -> None:
    """Bring ``tl_widgets/views/static`` up to date with ``js``.

    Parameters
    ----------
    root : Path
        The folder of ``pyproject.toml``.

    Raises
    ------
    RuntimeError
        If there is something to build and no npm to build it with, or if npm fails.
    """
    js, static = root / "js", root / "tl_widgets" / "views" / "static"
    built = [path.stat().st_mtime for path in static.rglob("*") if path.is_file()]
    # An sdist (known by its PKG-INFO) carries the bundle, and unpacking it gives every file a time of its own.
    if built and ((root / "PKG-INFO").exists() or min(built) >= max(path.stat().st_mtime for path in _sources(js))):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            "building the views of tl_widgets needs npm (Node.js >= 20), and there is no npm on the PATH: "
            "install Node.js, or install a wheel of tl_widgets, which needs none"
        )
    if not _installed(js):
        _run([npm, "ci", "--omit=dev"], js)
    shutil.rmtree(static, ignore_errors=True)  # else a view that was renamed would be shipped under both names
    _run([npm, "run", "build"], js)


def _sources(js: Path) -> Iterator[Path]:
    """Yield everything under ``js`` but the packages; folders too, whose time tells of deleted files."""
    for entry in js.iterdir():
        if entry.is_file():
            yield entry
        elif entry.name != "node_modules":
            yield entry
            yield from entry.rglob("*")


def _installed(js: Path) -> bool:
    """Whether ``node_modules`` holds what a build needs.

    Compared by content, so that a full install, with the development tools, is seen as good and is left alone.
    """
    installed = js / "node_modules" / ".package-lock.json"  # npm's own record of what it installed
    if not installed.exists():
        return False
    have = json.loads(installed.read_text("utf-8"))["packages"]
    want = json.loads((js / "package-lock.json").read_text("utf-8"))["packages"]
    return all(
        have.get(path, {}).get("version") == package.get("version")
        for path, package in want.items()
        if path and not package.get("dev") and not package.get("optional")
    )


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"`npm {' '.join(command[1:])}` failed in {folder}: its own message is above") from error


if __name__ == "__main__":
    try:
        build(Path(__file__).parent)
    except RuntimeError as error:
        sys.exit(f"hatch_build.py: {error}")
