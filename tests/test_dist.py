"""What `make dist` looks at; that itself installs from an index, which tests do not."""

import importlib.util
import io
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture
def dist(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / ".ci")
    spec = importlib.util.spec_from_file_location("dist", ROOT / ".ci" / "dist.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archives(folder: Path, wheel: set[str], source: set[str]) -> tuple[Path, Path]:
    with zipfile.ZipFile(folder / "w.whl", "w") as made:
        for name in wheel:
            made.writestr(name, "")
    with tarfile.open(folder / "s.tar.gz", "w:gz") as packed:
        for name in source:
            packed.addfile(tarfile.TarInfo(f"pathors_agent-0.1.0/{name}"), io.BytesIO())
    return folder / "w.whl", folder / "s.tar.gz"


def test_readme_runs_by_itself(dist: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    dist.try_alone(sys.prefix)

    assert "sunny in Oslo" in capsys.readouterr().out


def test_whole_archives_pass(dist: ModuleType, tmp_path: Path) -> None:
    named = {*dist.IN_WHEEL, "pathors_agent-0.1.0.dist-info/METADATA"}

    dist.check_contents(*archives(tmp_path, named, dist.IN_SOURCE))


@pytest.mark.parametrize(
    ("wheel", "source", "text"),
    [
        ({"pathors_agent/__init__.py"}, None, "missing in the wheel: pathors_agent/py.typed"),
        (
            {"pathors_agent/__init__.py", "pathors_agent/py.typed", "tests/x.py"},
            None,
            "not to be in the wheel: tests/x.py",
        ),
        (None, {"README.md"}, r"missing in the source: .*\bCHANGELOG\.md"),
    ],
)
def test_problem_of_an_archive_is_named(
    dist: ModuleType, tmp_path: Path, wheel: set[str] | None, source: set[str] | None, text: str
) -> None:
    made = archives(tmp_path, wheel or dist.IN_WHEEL, source or dist.IN_SOURCE)

    with pytest.raises(SystemExit, match=text):
        dist.check_contents(*made)


def sdist(folder: Path, makefile: str) -> Path:
    text = makefile.encode()
    with tarfile.open(folder / "source.tar.gz", "w:gz") as packed:
        member = tarfile.TarInfo("pathors_agent-0.1.0/Makefile")
        member.size = len(text)
        packed.addfile(member, io.BytesIO(text))
    return folder / "source.tar.gz"


def test_suite_of_the_source_runs_without_this_checkout(
    dist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-- ARGS=--suite")
    monkeypatch.setenv("PYTHONPATH", "src")
    seen = tmp_path / "seen"
    source = sdist(tmp_path, f'test:\n\t@echo "$(CURDIR) $(ARGS) $$PYTHONPATH" > {seen}\n')

    dist.run_suite(source)

    [folder] = seen.read_text().split()
    assert Path(folder).name == "pathors_agent-0.1.0"
    assert not Path(folder).exists()


def test_suite_of_the_source_that_fails_ends_it(dist: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="the quick tests of the unpacked source failed"):
        dist.run_suite(sdist(tmp_path, "test:\n\t@false\n"))


def test_three_dots_stand_for_any_text(dist: ModuleType) -> None:
    assert dist.matches(["it is sunny today"], ["... sunny ..."])
    assert not dist.matches(["sunny"], ["rainy"])
    assert not dist.matches(["a", "b"], ["a"])
