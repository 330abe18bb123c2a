"""Check that two checkouts give the same results: `python performance/same_results.py BEFORE AFTER [--resume]`.

Each checkout needs a virtual environment in `.venv` in which it is installed. Both run on the sample well and on every well given
by `--well`; the sha256 of `objects.parquet` and of every CSV is compared. With `--resume`, AFTER also runs on a copy of the
RESULTS that BEFORE wrote, and no `zarr.json` of a stage may change. The exit status is 1 if anything differs.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def run(checkout: Path, well: Path, reference: Path, out: Path, cache: Path) -> None:
    """Run `slidepipe run` of a checkout.

    Raises:
        CalledProcessError: the run failed (exit status above 1).
    """
    command = [checkout / ".venv" / "bin" / "python", "-m", "slidepipe.cli", "run", well, "--out", out]
    ended = subprocess.run(
        [*map(str, command), "--reference", str(reference)],
        cwd=checkout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SLIDEPIPE_CACHE": str(cache)},
        check=False,
    )
    if ended.returncode > 1:
        ended.check_returncode()


def digests(out: Path) -> dict[str, str]:
    """Return the sha256 of `objects.parquet` and of every CSV in RESULTS, by file name."""
    files = [out / "objects.parquet", *sorted(out.glob("*.csv"))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stages(out: Path) -> dict[str, tuple[int, str]]:
    """Return modification time (ns) and sha256 of the `zarr.json` of every published stage."""
    files = [path for name in ("boxes", "crops", "embeddings") for path in (out / "slides").rglob(f"{name}/zarr.json")]
    return {
        path.relative_to(out).as_posix(): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def compare(before: Path, after: Path, well: Path, reference: Path, folder: Path, resume: bool) -> list[str]:
    """Run both checkouts on a well and return the names of files that differ and of stages that were redone."""
    for name, checkout in (("before", before), ("after", after)):
        run(checkout, well, reference, folder / name, folder / f"cache_{name}")
    wanted, found = digests(folder / "before"), digests(folder / "after")
    wrong = [f"differs: {name}" for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    if resume:
        copy = folder / "resumed"
        shutil.copytree(folder / "before", copy)  # copies the modification times too
        stored = stages(copy)
        if not stored:
            raise SystemExit(f"{copy}: no published stages found")
        run(after, well, reference, copy, folder / "cache_after")
        now = stages(copy)
        wrong += [f"redone: {name}" for name in sorted({*stored, *now}) if stored.get(name) != now.get(name)]
        resumed = digests(copy)
        wrong += [f"differs after resuming: {name}" for name in wanted if wanted[name] != resumed.get(name)]
    return wrong


def main() -> None:
    """Compare two checkouts as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="First checkout.")
    parser.add_argument("after", type=Path, help="Second checkout.")
    parser.add_argument("--well", type=Path, action="append", default=[], help="Another well; may be repeated.")
    parser.add_argument("--reference", type=Path, action="append", default=[], help="Reference set of each --well.")
    parser.add_argument("--resume", action="store_true", help="Also resume RESULTS of BEFORE with AFTER.")
    given = parser.parse_args()
    before, after = given.before.resolve(), given.after.resolve()
    if len(given.well) != len(given.reference):
        parser.error("give one --reference per --well")
    pairs = [(after / "sample_slides" / "well", after / "sample_slides" / "reference")]
    pairs += [(a.resolve(), b.resolve()) for a, b in zip(given.well, given.reference, strict=True)]
    failed = False
    for well, reference in pairs:
        with tempfile.TemporaryDirectory() as folder:
            wrong = compare(before, after, well, reference, Path(folder), given.resume)
        failed = failed or bool(wrong)
        print(f"{well}: " + ("; ".join(wrong) or "all tables are identical"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
