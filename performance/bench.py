"""Measure every stage and the whole run against their lower bounds: `python -m performance.bench [STAGE ...] [--tiny]`.

Writes `performance/results/STAGE.json` and the table in `performance/README.md`. Real data is read from the folder named by
SLIDEPIPE_TEST_DATA. Measurements whose data is missing are skipped, and the table lists them.
"""

import argparse
import importlib
import os
import time
from pathlib import Path

from performance.figures import README, RESULTS, Measured, machine, save, write_table
from performance.scale import FULL, TINY

#: The stages in the order of the table.
STAGES = {
    "detect": "stage_detect",
    "today": "today",
    "crop": "stage_crop",
    "embed": "stage_embed",
    "embed_gpu": "stage_gpu",
    "whole_run": "whole_run",
    "growth": "growth",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)}; default: all")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to test the scripts")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    parser.add_argument("--readme", type=Path, default=README, help="file with the table")
    options = parser.parse_args(arguments)
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    # One thread per process, as in workers; measurements that use more set it themselves.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for stage in options.stages or STAGES:
        before, started = machine(), time.perf_counter()
        measured: Measured = importlib.import_module(f"performance.{STAGES[stage]}").measure(
            TINY if options.tiny else FULL
        )
        seconds = time.perf_counter() - started
        save(stage, measured, before, seconds, options.results)
        write_table(list(STAGES), options.results, options.readme)
        print(f"{stage}: {seconds:.0f} s", flush=True)
        for row in measured.rows:
            verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
            print(f"  {row.what}: {row.figure} [{row.bar}] {verdict} ({row.floor})", flush=True)
        for reason in measured.skipped:
            print(f"  skipped: {reason}", flush=True)


if __name__ == "__main__":
    main()
