"""What is in the wheel and the sdist, and when the JavaScript is built."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import hatch_build

ROOT = Path(__file__).parents[1]
STATIC = "tl_widgets/views/static/"
TOYS = {
    f"tl_widgets/loading/toys/{toy}/{file}"
    for toy in ("toy-induction", "toy-1l-mlp")
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
}


def hatchling_build(kind, source, out, path=None):
    """Build a wheel or an sdist and return the file; `path` is what the build sees as PATH."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out],
        cwd=source,
        env={**os.environ, "PATH": os.environ["PATH"] if path is None else str(path)},
        check=True,
    )
    return next(Path(out).iterdir())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return hatchling_build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def test_wheel_is_the_package_with_its_bundle(tmp_path):
    names = zipfile.ZipFile(hatchling_build("wheel", ROOT, tmp_path)).namelist()
    assert any(name.startswith(STATIC) and name.endswith(".js") for name in names)
    assert set(names) >= TOYS
    assert {name.split("/")[0] for name in names} == {"tl_widgets", "tl_widgets-0.1.0.dist-info"}


def test_sdist_builds_a_wheel_without_node(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert not any("node_modules" in name for name in names)
    (source,) = tmp_path.iterdir()
    wheel = hatchling_build("wheel", source, tmp_path / "out", path=tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith(STATIC) for name in names)
    assert set(names) >= TOYS


class TestJavaScriptBuild:
    """`hatch_build.build` on a project of two files, with npm replaced by a list of what it was asked."""

    @pytest.fixture
    def project(self, tmp_path):
        for name, text in {
            "js/package-lock.json": '{"packages": {"": {}, "node_modules/esbuild": {"version": "1"}}}',
            "js/node_modules/.package-lock.json": '{"packages": {"node_modules/esbuild": {"version": "1"}}}',
            "js/src/view.ts": "",
            "tl_widgets/views/static/view.js": "",
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    @pytest.fixture
    def npm(self, monkeypatch):
        asked = []
        monkeypatch.setattr(shutil, "which", lambda name: name)
        monkeypatch.setattr(hatch_build, "_run", lambda command, folder: asked.append(command[1]))
        return asked

    def touch(self, path, seconds=60):
        time = path.stat().st_mtime + seconds
        os.utime(path, (time, time))

    def test_up_to_date(self, project, npm):
        hatch_build.build(project)
        assert npm == []

    def test_a_changed_source_is_built_with_the_packages_that_are_there(self, project, npm):
        self.touch(project / "js/src/view.ts")
        hatch_build.build(project)
        assert npm == ["run"]

    def test_a_deleted_source_is_noticed(self, project, npm):
        (project / "js/src/view.ts").unlink()
        self.touch(project / "js/src")
        hatch_build.build(project)
        assert npm == ["run"]

    @pytest.mark.parametrize("installed", [None, '{"packages": {"node_modules/esbuild": {"version": "0"}}}'])
    def test_missing_or_old_packages_are_installed(self, project, npm, installed):
        record = project / "js/node_modules/.package-lock.json"
        record.unlink() if installed is None else record.write_text(installed)
        shutil.rmtree(project / STATIC)
        hatch_build.build(project)
        assert npm == ["ci", "run"]

    def test_an_sdist_needs_no_build(self, project, npm):
        self.touch(project / "js/src/view.ts")
        (project / "PKG-INFO").touch()
        hatch_build.build(project)
        assert npm == []

    def test_no_npm(self, project, monkeypatch):
        shutil.rmtree(project / STATIC)
        monkeypatch.setenv("PATH", str(project))
        with pytest.raises(RuntimeError, match=r"npm .*PATH"):
            hatch_build.build(project)
