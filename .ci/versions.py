"""Put a built site into the folder that holds the site of each release.

    python3 .ci/versions.py BUILT SITE [URL]

SITE gets a folder for each `major.minor`, a copy of the newest as `latest/`, `versions.json` for the
theme's version chooser, and a page that leads to `latest/`. URL is where SITE will be served; only
the sitemaps name it.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
LATEST = "latest"
LOCAL = "http://localhost/"  # the chooser reads the paths of a sitemap, not its host
HOME = """\
<!doctype html>
<meta charset="utf-8">
<title>pathors-agent</title>
<meta http-equiv="refresh" content="0; url=latest/">
<a href="latest/">The docs of the newest release</a>
"""


def current():
    """Return the version of the source, such as `0.1.0`."""
    text = (ROOT / "src" / "pathors_agent" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)[1]


def add(built, site, version, url):
    """Replace the site of one `major.minor`, and write all that depends on the list of versions."""
    name = ".".join(version.split(".")[:2])
    listed = site / "versions.json"
    if listed.is_file():
        titles = {entry["version"]: entry["title"] for entry in json.loads(listed.read_text())}
    else:
        clear(site)
        titles = {}
    titles[name] = version
    newest = newest_of(titles)
    copy(built, site / name, f"{url}{name}/")
    copy(site / newest, site / LATEST, f"{url}{LATEST}/")
    entries = [
        {"version": key, "title": titles[key], "aliases": [LATEST] if key == newest else []}
        for key in sorted(titles, key=order, reverse=True)
    ]
    listed.write_text(json.dumps(entries, indent=2) + "\n")
    (site / "index.html").write_text(HOME)
    (site / ".nojekyll").touch()  # GitHub Pages leaves the files as they are
    llms = (site / LATEST / "llms.txt").read_text()
    (site / "llms.txt").write_text(llms.replace("](", f"]({LATEST}/"))


def clear(site):
    """Empty a folder that is not a site of releases yet, except for what git keeps there."""
    site.mkdir(exist_ok=True)
    for path in site.iterdir():
        if path.is_dir() and path.name != ".git":
            shutil.rmtree(path)
        elif path.name != ".git":
            path.unlink()


def copy(built, folder, url):
    """Copy one site over another, with a sitemap of its pages."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(built, folder)
    pages = sorted(page.parent.relative_to(folder) for page in folder.rglob("index.html"))
    paths = ["" if page == Path() else f"{page.as_posix()}/" for page in pages]
    lines = [f"<url><loc>{escape(url + path)}</loc></url>\n" for path in paths]
    (folder / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        f"{''.join(lines)}</urlset>\n"
    )


def newest_of(titles):
    """Return the newest release; one like 0.2.0rc1 only where there is no other."""
    released = [name for name, title in titles.items() if re.fullmatch(r"[\d.]+", title)]
    return max(released or titles, key=order)


def order(name):
    """Return what versions are sorted by: 0.10 comes after 0.9."""
    return [int(number) for number in name.split(".")]


def main():
    """Add the site of this version."""
    built, site, *url = sys.argv[1:]
    version = current()
    add(Path(built), Path(site), version, f"{(url or [LOCAL])[0].rstrip('/')}/")
    print(f"the docs of {version} are in {site}/; to read them: python3 -m http.server -d {site}")


if __name__ == "__main__":
    main()
