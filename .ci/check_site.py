"""Check a built site, or those of all releases: nothing is loaded from elsewhere, no link is dead.

python3 .ci/check_site.py FOLDER
"""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself; `a` and `<link rel="canonical">` are only followed.
LOADED = {"img", "script", "iframe", "source", "video", "audio", "object", "embed", "use", "image"}
FETCHED = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
ADDRESSES = {"href", "src", "data", "poster", "xlink:href"}
OUTSIDE_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")

MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Page(HTMLParser):
    """What a page loads, where it links to, and which anchors it has."""

    def __init__(self, path):
        super().__init__()
        self.path, self.loads, self.links, self.anchors = path, [], [], {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        """Note what one tag loads, links to and names."""
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        addresses = [values[name] for name in ADDRESSES & values.keys()]
        if tag in LOADED or (tag == "link" and FETCHED & set(values.get("rel", "").split())):
            self.loads += addresses
        if tag == "a":
            self.links += addresses
        self.loads += OUTSIDE_STYLE.findall(values.get("style", ""))


def problems(folder):
    """Say what is wrong, one line each."""
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    yield from wrong_versions(folder)
    yield from outside_styles(folder)
    yield from broken_links_of_llms(folder)
    for page in pages.values():
        where = page.path.relative_to(folder)
        yield from (f"{where} loads {address}" for address in page.loads if is_outside(address))
        if where.name == "404.html":  # its links start at the site's root, wherever that will be
            continue
        yield from (
            f"{where} links to {link}" for link in page.links if is_broken(link, page, pages)
        )


def wrong_versions(folder):
    """Compare the releases that the version chooser offers with those that are there."""
    listed = folder / "versions.json"
    entries = json.loads(listed.read_text()) if listed.is_file() else []
    offered = {name for entry in entries for name in [entry["version"], *entry["aliases"]]}
    there = {path.parent.name for path in folder.glob("[!.]*/index.html")}
    yield from (f"versions.json offers {name}, which is not there" for name in offered - there)
    if entries:
        yield from (f"versions.json does not offer {name}" for name in there - offered)


def outside_styles(folder):
    """Say which style sheets load something from elsewhere."""
    for path in folder.rglob("*.css"):
        for address in OUTSIDE_STYLE.findall(path.read_text()):
            yield f"{path.relative_to(folder)} loads {address}"


def broken_links_of_llms(folder):
    """Say which links of `llms.txt` lead nowhere."""
    listed = folder / "llms.txt"
    links = MARKDOWN_LINK.findall(listed.read_text()) if listed.is_file() else []
    for link in links:
        target = folder / link
        if not (target / "index.html" if target.is_dir() else target).is_file():
            yield f"llms.txt links to {link}"


def is_outside(address):
    """Tell whether an address names a host."""
    return bool(urlsplit(address).netloc)


def is_broken(link, page, pages):
    """Tell whether a link inside the site leads nowhere, or to an anchor that is not there."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
    if target.is_dir():
        target /= "index.html"
    if target not in pages:
        return not target.is_file()
    return unquote(parts.fragment) not in pages[target].anchors


def main():
    """Check a folder; end with a line for each problem."""
    folder = Path(sys.argv[1]).resolve()
    found = list(problems(folder))
    if found or not (folder / "index.html").is_file():
        sys.exit("\n".join(found) or f"{folder} holds no site")
    print(f"{len(list(folder.rglob('*.html')))} pages; nothing loaded from elsewhere, no dead link")


if __name__ == "__main__":
    main()
