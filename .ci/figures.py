"""Print the sizes of the source and of the tests, and its longest chains of imports.

python .ci/figures.py [ROOT]
"""

import ast
import re
import statistics
import sys
from functools import cache
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
PACKAGE = ROOT / "src" / "pathors_agent"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def module_name(path):
    """Return a file's module inside the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def imported(module):
    """Return the package's modules that a module imports anywhere."""
    for node in ast.walk(TREES[module]):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            inner = name.removeprefix("pathors_agent.")
            while inner != name and inner and inner not in TREES:
                inner = inner.rpartition(".")[0]
            if inner != name and inner and inner != module:
                yield inner


@cache
def chain(module):
    """Return the longest chain of imports that begins with a module."""
    chains = [chain(other) for other in sorted(set(imported(module)))]
    return (module, *max(chains, key=len, default=()))


def lines(folder):
    """Return the number of lines of a folder's Python files."""
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def main():
    """Print one figure a line."""
    functions = [n for tree in TREES.values() for n in ast.walk(tree) if isinstance(n, FUNCTIONS)]
    sizes = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    text = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    words = re.findall(r"\b_[a-z]\w*", text)
    private = {n.name for n in functions if n.name.startswith("_") and not n.name.startswith("__")}
    once = sum(words.count(name) == 2 for name in private)
    longest = max(map(chain, sorted(set(TREES) - {""})), key=len)
    print(f"source: {lines(PACKAGE):,} lines in {len(TREES)} modules")
    print(f"tests: {lines(ROOT / 'tests'):,} lines")
    print(
        f"functions: {len(functions):,}, median {statistics.median(sizes):.0f} lines, longest {max(sizes)}"
    )
    print(f"private functions: {len(private)}, named once beside their definition: {once}")
    print(f"longest chain of modules: {len(longest)}: {' > '.join(longest)}")


if __name__ == "__main__":
    main()
