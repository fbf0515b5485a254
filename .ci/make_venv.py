"""Make a virtual environment, or mend one, and install the project and its tools in it.

    python3 .ci/make_venv.py DIRECTORY [EXTRAS]

Needs a Python from 3.11 on and nothing else. A second call does nothing until `pyproject.toml`
changes. Written for the standard library, and so that an old Python reads it far enough to say
that it is too old.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

NO_ENSUREPIP = """\
This Python makes no working virtual environment ({0}).
On Debian and Ubuntu its parts are packages of their own; as root:
    apt-get install python3-venv
or install uv, which needs none of them."""


def main():
    """Bring the environment up to date, one process at a time."""
    directory = os.path.abspath(sys.argv[1])
    extras = sys.argv[2] if len(sys.argv) > 2 else "dev"
    if sys.version_info < OLDEST:
        run_newer_python()
    with locked():
        update(directory, extras)


def update(directory, extras):
    """Install what is missing, unless the stamp says that nothing is."""
    stamp = os.path.join(directory, ".installed")
    wanted = fingerprint(extras)
    if python_matches(directory) and content(stamp) == wanted:
        return
    with unfinished(directory):
        install(directory, extras)
    write(stamp, wanted)


@contextlib.contextmanager
def unfinished(directory):
    """Mark the environment while it is worked on, and make it anew after an interruption.

    What a killed install leaves behind can look complete to pip; what a failed one leaves cannot.
    """
    mark = os.path.join(directory, ".installing")
    if os.path.exists(mark) or not python_matches(directory):
        shutil.rmtree(directory, ignore_errors=True)
        create(directory)
    write(mark, "")
    try:
        yield
    except SystemExit:
        os.remove(mark)
        raise
    os.remove(mark)


def create(directory):
    """Make an empty environment: with uv where it is there, else with venv and its pip."""
    print("Making", os.path.relpath(directory), "with Python", sys.version.split()[0], flush=True)
    if uv():
        call([uv(), "venv", "--quiet", "--python", sys.executable, directory])
    elif subprocess.call([sys.executable, "-m", "venv", directory]) != 0:
        shutil.rmtree(directory, ignore_errors=True)
        sys.exit(NO_ENSUREPIP.format(sys.executable))


def install(directory, extras):
    """Install the project, editable, with its extras."""
    print("Installing the project and what it needs; this takes up to a minute", flush=True)
    project = ROOT + ("[" + extras + "]" if extras else "")
    if uv():
        call([uv(), "pip", "install", "--quiet", "--python", python(directory), "-e", project])
        return
    if not quiet([python(directory), "-m", "pip", "--version"]) and not quiet(
        [python(directory), "-m", "ensurepip"]
    ):
        sys.exit(NO_ENSUREPIP.format(sys.executable))
    install_with_pip(directory, project)


def install_with_pip(directory, project):
    """Install with pip, and show on a terminal how many packages it has found so far."""
    command = [python(directory), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--no-input", "--progress-bar", "off", "-e", project]
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines, packages = [], 0
    for line in pip.stdout:
        lines.append(line)
        if line.startswith("Collecting "):
            packages += 1
            show("  {} packages: {}".format(packages, line.split()[1]))
        elif line.startswith("Installing collected packages"):
            show("  installing {} packages".format(packages))
    show("")
    if pip.wait() != 0:
        sys.exit("".join(lines[-20:]) + "This command failed: " + " ".join(command))


def show(text):
    """Write a line of progress over the last one, on a terminal only."""
    if sys.stdout.isatty():
        print("\r\x1b[K" + text[:78], end="", flush=True)


def run_newer_python():
    """Start again under a newer Python of the PATH, or say that there is none."""
    for minor in range(30, OLDEST[1] - 1, -1):
        newer = shutil.which("python3." + str(minor))
        if newer and quiet([newer, "--version"]):
            os.execv(newer, [newer] + sys.argv)
    sys.exit(
        "This project needs Python 3.11 or newer; python3 is "
        + sys.version.split()[0]
        + " and the PATH has no other. Say which to use: make PYTHON=/path/to/python3.11"
    )


@contextlib.contextmanager
def locked():
    """Hold a lock, so that two commands do not install into each other."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(os.path.join(ROOT, "pyproject.toml")) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(extras):
    """Digest what decides the environment's content."""
    digest = hashlib.sha256((sys.version + extras + ROOT).encode())
    for path in (os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__)):
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def python(directory):
    """Name the environment's interpreter."""
    return os.path.join(directory, "bin", "python")


def python_matches(directory):
    """Tell whether the environment's interpreter starts, and is the one that runs this."""
    check = "import sys; sys.exit(sys.version != " + repr(sys.version) + ")"
    return os.path.exists(python(directory)) and quiet([python(directory), "-c", check])


def uv():
    """Find uv."""
    return shutil.which("uv")


def content(path):
    """Read a small file; an absent one is empty."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def write(path, text):
    """Write a small file."""
    with open(path, "w") as file:
        file.write(text)


def quiet(command):
    """Run a command unseen; tell whether it worked."""
    return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def call(command):
    """Run a command; end with its error when it fails."""
    code = subprocess.call(command)
    if code != 0:
        sys.exit("This command failed, see above: " + " ".join(command))


if __name__ == "__main__":
    main()
