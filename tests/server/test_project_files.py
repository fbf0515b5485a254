"""Projects from a TOML file: what is right is read, what is wrong is named."""

from pathlib import Path

import pytest

from pathors_agent import Limits, ModelOptions
from pathors_agent.errors import InvalidProjectFile
from pathors_agent.server import load_projects
from pathors_agent.server.config import load_settings

TOOLS = '''
from pathors_agent import tool
from pathors_agent.offline import AsyncOfflineTransport

@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b

TOOLS = [add]
model = AsyncOfflineTransport

def broken():
    raise KeyError("no such model")
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop_tools.py").write_text(TOOLS)
    (tmp_path / "shop.md").write_text("You sell {{thing}} für 5 €.", encoding="utf-8")
    (tmp_path / "not_python.py").write_text("TOOLS = [")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "projects.toml"
    path.write_text(text)
    return path


def test_every_setting_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "sk-canary-1234567890")
    path = write(
        folder,
        """
        [projects.shop]
        base_url = "http://127.0.0.1:9/v1"
        api_key_env = "SHOP_KEY"
        profile = "mistral"
        model = "m1"
        instructions_file = "shop.md"
        tools = "shop_tools:TOOLS"
        on_disconnect = "finish"
        options = {temperature = 0.5, stop = ["x"]}
        limits = {turns = 3}

        [projects.other]
        transport = "shop_tools:model"
        tools = "shop_tools:add"
        """,
    )
    shop, other = load_projects(path)

    assert shop.id == "shop"
    assert shop.model == "m1"
    assert shop.instructions == "You sell {{thing}} für 5 €."
    assert shop.options == ModelOptions(temperature=0.5, stop=["x"])
    assert shop.limits == Limits(turns=3, last_word=True)
    assert shop.on_disconnect == "finish"
    assert [tool.name for tool in shop.own_tools] == ["add"]
    assert "canary" not in repr(shop)
    assert type(other.transport).__name__ == "AsyncOfflineTransport"
    assert [tool.name for tool in other.own_tools] == ["add"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no table [projects.NAME]"),
        ("x = ", "is not valid TOML"),
        ("projects = 3", "has no table [projects.NAME]"),
        ("[projects]\nshop = 3", "projects.shop must be a table"),
        ("[projects.shop]", "projects.shop needs either base_url or transport"),
        ('[projects.shop]\nbase_url = "nope"', "projects.shop.base_url base_url is not an address"),
        ("[projects.shop]\nbase_url = 3", "projects.shop.base_url must be a text"),
        (
            '[projects.shop]\nbase_ulr = "x"',
            "projects.shop.base_ulr is not a setting; the settings are base_url",
        ),
        (
            '[projects.shop]\ntransport = "shop_tools"',
            'projects.shop.transport must be "module:name"',
        ),
        ('[projects.shop]\ntransport = "no_such:x"', "projects.shop.transport cannot be imported"),
        (
            '[projects.shop]\ntransport = "not_python:x"',
            "projects.shop.transport cannot be imported: SyntaxError: ",
        ),
        (
            '[projects.shop]\ntransport = "shop_tools:broken"',
            "projects.shop.transport cannot be made: KeyError: 'no such model'",
        ),
        (
            '[projects.shop]\ntransport = "shop_tools:model"\nprofile = "openai"',
            "projects.shop.profile belongs to base_url, not to transport",
        ),
        (
            '[project.shop]\ntransport = "shop_tools:model"',
            "project is unknown; known: projects, server",
        ),
        (
            '[projects.shop]\ntransport = "shop_tools:no"',
            "projects.shop.transport cannot be imported",
        ),
        ('[projects.shop]\ntransport = "shop_tools:TOOLS"', "must name an AsyncTransport"),
        (
            '[projects.shop]\ntransport = "shop_tools:model"\nlimits = {turns = 0}',
            "projects.shop.limits Limits.turns must be over 0",
        ),
        (
            '[projects.shop]\ntransport = "shop_tools:model"\nlimits = {turn = 1}',
            "projects.shop.limits.turn is unknown",
        ),
        (
            '[projects.shop]\ntransport = "shop_tools:model"\non_disconnect = "x"',
            'on_disconnect must be "cancel" or "finish"',
        ),
        (
            '[projects.shop]\ntransport = "shop_tools:model"\ninstructions_file = "no.md"',
            "projects.shop.instructions_file no.md cannot be read",
        ),
        ('[projects."a b"]\ntransport = "shop_tools:model"', "must be 1 to 100 of the characters"),
        (
            '[projects.shop]\nbase_url = "http://127.0.0.1/v1"\napi_key_env = "NO_SUCH_KEY"',
            "projects.shop.api_key_env names NO_SUCH_KEY, which is not set in the environment",
        ),
        (
            '[projects.shop]\nbase_url = "http://127.0.0.1/v1"\nprofile = "x"',
            "projects.shop.profile must be one of default, openai",
        ),
    ],
)
def test_problem_is_named(folder: Path, text: str, problem: str) -> None:
    path = write(folder, text)

    with pytest.raises(InvalidProjectFile) as caught:
        load_projects(path)
    assert str(caught.value).startswith(str(path))
    assert problem in str(caught.value)


def test_files_of_windows_programs_are_read(folder: Path) -> None:
    (folder / "shop.md").write_text("Für dich.", encoding="utf-8-sig")
    path = folder / "projects.toml"
    text = (
        '[projects.shop]\ntransport = "shop_tools:model"\ninstructions_file = "shop.md"\n'
        "[server]\naccess_log = true\n"
    )
    path.write_text(text, encoding="utf-8-sig", newline="\r\n")

    [project] = load_projects(path)

    assert project.instructions == "Für dich."
    assert load_settings(path).access_log


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectFile, match="cannot be read"):
        load_projects(tmp_path / "no.toml")
