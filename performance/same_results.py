"""Check that another commit gives the same results: `python performance/same_results.py COMMIT [--well DIR REFERENCE ...]`.

Counts the sample well, and each well given with `--well`, with the code of COMMIT and with the code of this checkout. Compares
`objects.parquet` and every CSV byte for byte. Then runs this checkout on a copy of the RESULTS that COMMIT wrote: it must resume
without repeating a stage, and leave the same tables. Exit status 1 if anything differs.

COMMIT is checked out into a temporary folder and installed into a virtual environment that uses the packages of this one.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from performance import runs  # noqa: E402  # it is no installed package
from tests import fresh  # noqa: E402

SAMPLE = ("sample", ROOT / "sample_slides" / "well", ROOT / "sample_slides" / "reference")


@contextmanager
def installed(commit: str, folder: Path) -> Iterator[Path]:
    """Check out a commit and install it; yield its Python.

    Raises:
        CalledProcessError: there is no such commit, or it cannot be installed.
    """
    checkout = folder / "checkout"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), commit], check=True)
    try:
        environment = fresh.make(folder / "environment")
        install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(checkout)]
        pip = [str(environment.folder / "bin" / "pip"), *install]
        subprocess.run(pip, check=True, env=environment.variables, cwd=folder)
        yield environment.python
    finally:
        subprocess.run([*git, "remove", "--force", str(checkout)], check=True)


@dataclass(frozen=True)
class Counted:
    """A finished run: its RESULTS, and when each group and array of each slide was written (ns)."""

    out: Path
    published: dict[str, int]


def count(python: Path, well: Path, reference: Path, out: Path, cache: Path) -> Counted:
    """Count a well with the slidepipe of a Python.

    Raises:
        SystemExit: the run failed.
    """
    plan = runs.RunPlan(well, ("--reference", str(reference)), cache)
    command = [str(python), *plan.command(out)[1:]]
    environment = {name: value for name, value in plan.environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, cwd=cache.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr[-2000:]}")
    return Counted(
        out, {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.glob("slides/**/zarr.json")}
    )


def compare(name: str, before: Counted, after: Counted, resumed: Counted) -> list[str]:
    """Return what differs between the two commits for one well; print one line per check."""
    tables = runs.tables_of(before.out)
    faults = [f"{name}: {table} differs" for table in runs.differing(runs.tables_of(after.out), tables)]
    faults += [f"{name}, resumed: {table} differs" for table in runs.differing(runs.tables_of(resumed.out), tables)]
    faults += [
        f"{name}, resumed: {place} was made again"
        for place, time_ns in before.published.items()
        if resumed.published.get(place) != time_ns
    ]
    print(
        f"{name}: {len(tables)} tables, {len(before.published)} groups and arrays, {len(faults)} differences",
        flush=True,
    )
    return faults


def main() -> None:
    """Compare, print, and end with exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="commit to compare this checkout with")
    parser.add_argument(
        "--well", nargs=2, action="append", default=[], type=Path, metavar=("DIR", "REFERENCE"), help="another well"
    )
    options = parser.parse_args()
    wells: Sequence[tuple[str, Path, Path]] = [SAMPLE, *((well.name, well, labels) for well, labels in options.well)]
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with installed(options.commit, folder) as python:
            for well, slides, labels in wells:
                place = folder / well
                place.mkdir()
                before = count(python, slides.resolve(), labels.resolve(), place / "before", place / "cache-before")
                shutil.copytree(place / "before", place / "resumed")  # copytree keeps the times of files
                own = Path(sys.executable)
                after = count(own, slides.resolve(), labels.resolve(), place / "after", place / "cache-after")
                resumed = count(own, slides.resolve(), labels.resolve(), place / "resumed", place / "cache-before")
                faults += compare(well, before, after, resumed)
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
