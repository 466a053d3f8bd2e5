"""One server and one browser for the whole test run; a fresh page for every test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser import chromium
from tests.browser.lab import JupyterLab, LabPage
from tests.browser.watched import ARTIFACTS, WatchedPage

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # what asks for the network fails, and is seen
]

CONFIG = """
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True
c.ServerApp.disable_check_xsrf = True
c.IdentityProvider.token = ""
c.PasswordIdentityProvider.hashed_password = ""
c.LabApp.expose_app_in_browser = True
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"
"""

DEFAULTS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and run them last.

    The quick ones speak first, and Playwright leaves an event loop running in the thread of the tests.
    """
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("browser")
    items.sort(key=lambda item: here in item.path.parents)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium, for all tests."""
    path = chromium.find()
    assert path, "no Chromium or Chrome found; `make test` installs one, or says how"
    ARTIFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """One real JupyterLab that knows nothing of the user's settings; its log is kept as an artefact."""
    home = tmp_path_factory.mktemp("jupyter")
    folders = {
        name: home / name.lower()
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR",
        )
    }
    root = home / "root"
    root.mkdir()
    (config := home / "config.py").write_text(CONFIG)
    (labconfig := folders["JUPYTER_CONFIG_DIR"] / "labconfig").mkdir(parents=True)
    (labconfig / "default_setting_overrides.json").write_text(json.dumps(DEFAULTS))
    port = _free_port()
    command = [sys.executable, "-m", "jupyterlab", f"--config={config}", f"--ServerApp.port={port}"]
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    ARTIFACTS.mkdir(exist_ok=True)
    log = ARTIFACTS / "jupyterlab.log"
    with log.open("w") as out:
        process = subprocess.Popen([*command, f"--ServerApp.root_dir={root}"], env=environment, stdout=out, stderr=out)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/api/status", process, log)
            yield JupyterLab(url, root, folders["JUPYTERLAB_SETTINGS_DIR"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[WatchedPage]:
    """An empty page, for what needs no server; a picture of it is kept when the test fails."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(20_000)
        watched = WatchedPage(context.new_page())
        yield watched
        _keep_if_failed(watched, request.node)


@pytest.fixture
def lab(browser: Browser, jupyterlab: JupyterLab, request: pytest.FixtureRequest) -> Iterator[LabPage]:
    """A page on the JupyterLab, with nothing open yet; a picture of it is kept when the test fails."""
    shutil.rmtree(jupyterlab.settings, ignore_errors=True)  # JupyterLab remembers a theme: not from test to test
    ratio = 2 if request.node.get_closest_marker("crisp") else 1
    with browser.new_context(viewport={"width": 1280, "height": 900}, device_scale_factor=ratio) as context:
        context.set_default_timeout(20_000)
        lab = LabPage(context.new_page(), jupyterlab)
        yield lab
        _keep_if_failed(lab, request.node)
        lab.close()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


def _keep_if_failed(watched: WatchedPage, test: pytest.Item) -> None:
    if test.stash.get(_FAILED, False):
        watched.screenshot(f"failed-{test.name}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()}")
