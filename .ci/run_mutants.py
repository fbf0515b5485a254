"""Break the source in one place at a time, and show that the tests notice.

    python .ci/run_mutants.py [WORDS] [--jobs N]

`tests/mutants.py` lists the places, and the tests that must fail. WORDS choose the
mutants that have them in what they say or break ("promise 3"). Works on copies of the tree, and
fails where a mutant does not apply, where its tests fail anyhow, or where they do not notice it.
"""

import argparse
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPIED = ["src", "tests", "docs", "benchmarks", "pyproject.toml", "README.md", "Makefile"]
# A mutant that makes a test wait is ended by pytest-timeout, test by test; this ends the rest.
MOST_SECONDS = 600

# What pytest's exit status says.
PASSED, FAILED = 0, 1

sys.path.insert(0, str(ROOT / "tests"))
from mutants import MUTANTS  # noqa: E402


class Copies:
    """Copies of the tree, one for each job."""

    def __init__(self, folder, count):
        self._free = queue.Queue()
        for number in range(count):
            tree = pathlib.Path(folder) / str(number)
            tree.mkdir()
            for name in COPIED:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, tree / name)
            self._free.put(tree)

    def judge(self, mutant):
        """Return a word for what became of a mutant, and the output if it is not killed."""
        try:
            original, broken = mutant.apply()
        except ValueError as error:
            return "DOES NOT APPLY", str(error)
        tree = self._free.get()
        path = tree / original.relative_to(ROOT)
        try:
            path.write_text(broken, encoding="utf-8")
            status, said = run(tree, mutant.test_ids)
        finally:
            shutil.copy(original, path)
            self._free.put(tree)
        if status == FAILED:
            return "killed", ""
        return "SURVIVED" if status == PASSED else "NO VERDICT", said

    def pass_unbroken(self, mutants):
        """Run all the tests on the source as it is."""
        tests = sorted({test for mutant in mutants for test in mutant.test_ids})
        tree = self._free.get()
        status, said = run(tree, tests)
        self._free.put(tree)
        return status == PASSED, said


def run(tree, tests):
    """Run tests in a copy until one fails; return pytest's exit status and output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line"]
    # The recorded data lies beside the tree that was copied.
    data = os.environ.get("CONFORMANCE_DATA", str(ROOT.parent / "shared"))
    env = {**os.environ, "PYTHONPATH": str(tree / "src"), "CONFORMANCE_DATA": data}
    try:
        done = subprocess.run(
            [*command, *tests],
            check=False,
            cwd=tree,
            env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return FAILED, "not finished in time"
    return done.returncode, done.stdout


def chosen(words):
    """Return the mutants that have all of the words."""
    wanted = " ".join(words).lower()
    return [m for m in MUTANTS if wanted in f"{m.says} ({m.breaks}) {m.at}".lower()]


def show(done, count, survivors, started):
    """Draw the progress bar, where a person looks."""
    if not sys.stderr.isatty():
        return
    width = 30 * done // count
    bar = "#" * width + "." * (30 - width)
    seconds = time.monotonic() - started
    line = f"\r[{bar}] {done}/{count}, {survivors} not killed, {seconds:.0f} s"
    print(line, end="\n" if done == count else "", file=sys.stderr, flush=True)


def main():
    """Judge the mutants; fail unless all are killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="of the mutants that are wanted")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    mutants = chosen(asked.words)
    if not mutants:
        sys.exit("No mutant has these words.")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as threads:
        copies = Copies(folder, asked.jobs)
        good, said = copies.pass_unbroken(mutants)
        if not good:
            sys.exit(f"{said}\nThe tests do not pass on the source as it is.")
        print(f"The tests of {len(mutants)} mutants pass on the source as it is.", flush=True)
        verdicts = {threads.submit(copies.judge, mutant): mutant for mutant in mutants}
        survivors = 0
        for done, verdict in enumerate(as_completed(verdicts), start=1):
            mutant, (word, said) = verdicts[verdict], verdict.result()
            survivors += word != "killed"
            print(f"{word:<14} {mutant.says} ({mutant.breaks})", flush=True)
            if said:
                print(said, flush=True)
            show(done, len(mutants), survivors, started)
    seconds = time.monotonic() - started
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants killed in {seconds:.0f} s.")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
