"""Look for known vulnerabilities of what the library and its extras bring along.

    python3 .ci/audit.py

pip-audit asks OSV (https://osv.dev) about each package of `.venv`. Fails on a finding; where OSV
cannot be reached, or pip-audit not be installed, it says so and that nothing was looked at.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / ".venvs" / "audit"
MOST_SECONDS = 120

# Runs in `.venv`: what is installed there of `pathors-agent[all]`, and what that requires.
PINS = """
import re
from importlib.metadata import PackageNotFoundError, requires, version

pins, waiting = {}, [("pathors-agent", "all")]
seen = set()
while waiting:
    name, extra = asked = waiting.pop()
    if asked in seen:
        continue
    seen.add(asked)
    try:
        pins[name] = version(name)
    except PackageNotFoundError:
        continue
    for line in requires(name) or ():
        what, _, when = line.partition(";")
        if "extra ==" in when and not re.search(rf"extra == ['\\"]{re.escape(extra)}['\\"]", when):
            continue
        found, extras = re.match(r"([\\w.-]+)(?:\\[([^]]*)\\])?", what.strip()).groups()
        waiting += [(found.lower(), each.strip()) for each in (extras or "").split(",")]
del pins["pathors-agent"]
print("\\n".join(f"{name}=={pins[name]}" for name in sorted(pins)))
"""


def main():
    """Audit, and fail on a finding."""
    pins = subprocess.check_output([str(ROOT / ".venv" / "bin" / "python"), "-c", PINS], text=True)
    found = audited(pins)
    if found is None:
        return
    print(f"{len(pins.split())} packages were looked at, {len(found)} have known vulnerabilities.")
    for line in found:
        print(line)
    sys.exit(bool(found))


def audited(pins):
    """Give a line for each finding; None, having said why, where nothing could be looked at."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = pathlib.Path(folder) / "pins.txt", pathlib.Path(folder) / "found.json"
        asked.write_text(pins)
        command = ["-m", "pip_audit", "-s", "osv", "--no-deps", "--disable-pip", "-r", str(asked)]
        command += ["--format", "json", "--output", str(answered), "--progress-spinner", "off"]
        try:
            said = tool_python(command)
        except (subprocess.SubprocessError, OSError) as error:
            said = str(error)
        if not answered.exists() or not answered.read_text().strip():
            reason = (said.strip() or "pip-audit gave no reason").splitlines()[-1]
            print("NOT AUDITED, going on without:", reason[:300])
            return None
        return findings(json.loads(answered.read_text()))


def tool_python(command):
    """Run pip-audit in an environment of its own; return what it said on stderr."""
    python = TOOL / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(TOOL)], check=True)
    has_it = subprocess.run(
        [str(python), "-c", "import pip_audit"], capture_output=True, check=False
    )
    if has_it.returncode:
        install = [str(python), "-m", "pip", "install", "-qq", "pip-audit"]
        subprocess.run(install, check=True, timeout=MOST_SECONDS)
    done = subprocess.run(
        [str(python), *command], capture_output=True, text=True, check=False, timeout=MOST_SECONDS
    )
    return done.stderr


def findings(answer):
    """Write a finding on a line: the package, what is known of it, and what mends it."""
    return [
        f"{package['name']} {package['version']}: {each['id']}, mended in "
        f"{', '.join(each['fix_versions']) or 'no version yet'}"
        for package in answer["dependencies"]
        for each in package.get("vulns", ())
    ]


if __name__ == "__main__":
    main()
