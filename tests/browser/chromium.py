"""Where the browser of the tests is. As a script: see to it that there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Return the path of a Chromium or Chrome: the system's, else the one that Playwright installed, else None."""
    if system := next(filter(None, map(shutil.which, NAMES)), None):
        return system
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def ensure() -> None:
    """Install Chromium where that is ours to do (Debian, as root); elsewhere end with the one command that does it."""
    if find():
        return
    release = Path("/etc/os-release")
    debian = release.exists() and "ID=debian" in release.read_text().splitlines()
    if not debian:
        sys.exit(f"The browser tests need Chromium. Install it by: {sys.executable} -m playwright install chromium")
    if os.geteuid() != 0:
        sys.exit("The browser tests need Chromium. Install it by: sudo apt-get install -y chromium")
    print("== Chromium", flush=True)
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
        check=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


if __name__ == "__main__":
    ensure()
