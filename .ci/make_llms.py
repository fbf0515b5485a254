"""Write `llms.txt` into a built site: its pages, in the order of the navigation, for programs that read docs.

python3 .ci/make_llms.py FOLDER

`llms-full.txt` beside it holds the text of all pages that people wrote.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"^( *)- \[([^\]]+)\]\(([^)]+\.md)\)$")
GROUP = re.compile(r"^- ([^\[]+)$")
ABOUT = re.compile(r"\[[^\]]+\]\(([^)#]+\.md)\): (.+)")


def pages():
    """Yield the group, title and file of each page in the navigation."""
    group = "Start"
    for line in (DOCS / "nav.md").read_text().splitlines():
        if found := GROUP.match(line):
            group = found[1]
        elif found := LINK.match(line):
            yield group, found[2], found[3]


def address(file):
    """Return the address of a page, relative to the site's root."""
    return file.removesuffix("index.md") if file.endswith("index.md") else file[:-3] + "/"


def index():
    """Return the text of `llms.txt`."""
    home = (DOCS / "index.md").read_text()
    about = dict(ABOUT.findall(home))
    summary = " ".join(home.partition("**")[2].partition("**")[0].split())
    lines = ["# pathors-agent", "", f"> {summary}", ""]
    lines += ["The text of all pages is in [llms-full.txt](llms-full.txt)."]
    last = ""
    for group, title, file in pages():
        if group != last:
            lines += ["", f"## {group}", ""]
            last = group
        text = f": {about[file]}" if file in about else ""
        lines.append(f"- [{title}]({address(file) or './'}){text}")
    return "\n".join(lines) + "\n"


def full():
    """Return the text of all pages, each below its address."""
    return "\n".join(
        f"<!-- {address(file) or './'} -->\n\n{(DOCS / file).read_text()}" for _, _, file in pages()
    )


def main():
    """Write both files."""
    site = Path(sys.argv[1])
    (site / "llms.txt").write_text(index(), encoding="utf-8")
    (site / "llms-full.txt").write_text(full(), encoding="utf-8")


if __name__ == "__main__":
    main()
