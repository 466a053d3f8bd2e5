"""A notebook open in a real JupyterLab, driven from a test."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page

from tests.browser.watched import WatchedPage

SECOND = 1000  # Playwright counts in milliseconds

_NOTEBOOK = "window.jupyterapp.shell.currentWidget"
_SESSION = f"{_NOTEBOOK}.context.sessionContext"
_RUN_CODE = f"""async (code) => {{
    const future = {_SESSION}.session.kernel.requestExecute({{ code, store_history: false }});
    let stdout = "";
    future.onIOPub = ({{ header, content }}) => {{
        if (header.msg_type === "stream" && content.name === "stdout") stdout += content.text;
    }};
    const {{ content }} = await future.done;
    return {{ stdout, traceback: content.status === "ok" ? null : (content.traceback ?? [content.status]) }};
}}"""


@dataclass(frozen=True)
class JupyterLab:
    """A running server: its address, the folder it serves, and the one where it keeps what a user sets."""

    url: str
    root: Path
    settings: Path


class LabPage(WatchedPage):
    """One browser page on a `JupyterLab`; see the fixture ``lab``."""

    def __init__(self, page: Page, server: JupyterLab) -> None:
        super().__init__(page)
        self.server = server

    def open(self, notebook: Path | nbformat.NotebookNode) -> None:
        """Open a copy of a notebook, and wait until it is shown and its kernel is idle."""
        if isinstance(notebook, Path):
            notebook = nbformat.read(notebook, as_version=4)
        else:  # one that a test put together names no kernel, and JupyterLab would ask for one
            notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        name = f"{uuid.uuid4().hex[:8]}.ipynb"
        nbformat.write(notebook, self.server.root / name)
        self.page.goto(f"{self.server.url}/lab/tree/{name}?reset")
        self._wait_for_splash()
        self.page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook")
        kernel = f"{_SESSION}?.session?.kernel"
        self.page.wait_for_function(
            f"() => {kernel}?.connectionStatus === 'connected' && {kernel}.status === 'idle'", timeout=60 * SECOND
        )

    def run_all(self, timeout: float = 120) -> None:
        """Run all cells and wait, `timeout` seconds at most; fail with the traceback of a cell that fails."""
        self.page.evaluate(
            """() => {
                window.cellsRan = false;
                window.jupyterapp.commands.execute("notebook:run-all-cells").finally(() => { window.cellsRan = true; });
            }"""
        )
        self.page.wait_for_function("() => window.cellsRan", timeout=timeout * SECOND)
        failed = self.page.evaluate(
            f"""() => {_NOTEBOOK}.content.widgets
                .flatMap(cell => cell.model.type === "code" ? cell.model.outputs.toJSON() : [])
                .filter(output => output.output_type === "error")
                .map(output => output.traceback.join("\\n"))"""
        )
        assert not failed, "a cell failed:\n" + _plain("\n".join(failed))

    def run(self, code: str) -> str:
        """Run code in the notebook's kernel, in none of its cells, and return what it prints; fail if it raises."""
        reply = self.page.evaluate(_RUN_CODE, code)
        assert reply["traceback"] is None, "the kernel says:\n" + _plain("\n".join(reply["traceback"]))
        return reply["stdout"]

    def value(self, expression: str) -> Any:
        """Return the value that an expression has in the kernel, through JSON; tensors and arrays become lists."""
        printed = self.run(f"print(__import__('json').dumps(({expression}), default=lambda array: array.tolist()))")
        return json.loads(printed.splitlines()[-1])

    def output(self, cell: int = -1) -> Locator:
        """Return the output area of the n-th cell."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").nth(cell).locator(".jp-OutputArea")

    def theme(self, name: str) -> None:
        """Switch to JupyterLab's own "Light" or "Dark" theme, and wait until the page wears it."""
        full = f"JupyterLab {name}"
        self.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", full)
        self.page.wait_for_selector(f"body[data-jp-theme-name='{full}']", state="attached")
        self._wait_for_splash()  # it comes again while a theme is being put on

    def close(self) -> None:
        """Shut the notebook's kernel down: one with torch in it is half a gigabyte."""
        self.page.evaluate(f"() => {_SESSION}?.shutdown()")

    def _wait_for_splash(self) -> None:
        self.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60 * SECOND)


def _plain(text: str) -> str:
    """Leave out the colour codes of a traceback."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
