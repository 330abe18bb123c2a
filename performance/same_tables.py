"""Check that tables do not depend on workers and machines: `python performance/same_tables.py [--out FILE.json]`.

Counts the sample well in one process; with 2 and 4 worker processes; and on a `dask scheduler` and two `dask worker`
processes, each with its own working directory. If network namespaces are permitted, the last three processes also run in one
namespace each, joined by a bridge, so that only the network and the files connect them. Compares `objects.parquet` and every
CSV byte for byte.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from performance import runs  # noqa: E402  # it is no installed package

#: Addresses of the three hosts in their network.
_ADDRESSES = ("10.213.77.1", "10.213.77.2", "10.213.77.3")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def namespaces() -> Iterator[list[tuple[Sequence[str], str]]]:
    """Create three network namespaces on one bridge; yield the command prefix and the address of each.

    Raises:
        CalledProcessError, FileNotFoundError: network namespaces are not permitted here.
    """
    names = [f"slidepipe-{uuid.uuid4().hex[:6]}" for _ in _ADDRESSES]
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        first = names[0]
        _ip("-n", first, "link", "add", "bridge", "type", "bridge")
        _ip("-n", first, "addr", "add", f"{_ADDRESSES[0]}/24", "dev", "bridge")
        _ip("-n", first, "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(zip(names[1:], _ADDRESSES[1:], strict=True)):
            end = f"port{number}"
            _ip("-n", first, "link", "add", end, "type", "veth", "peer", "name", "net", "netns", name)
            _ip("-n", first, "link", "set", end, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "net")
            _ip("-n", name, "link", "set", "net", "up")
        yield [(("ip", "netns", "exec", name), address) for name, address in zip(names, _ADDRESSES, strict=True)]
    finally:
        for name in made:
            _ip("netns", "delete", name)


def by_options(plan: runs.RunPlan, folder: Path, *options: str, prefix: Sequence[str] = ()) -> runs.Ended:
    """Run with additional options; the results go to `folder / "out"`."""
    folder.mkdir(exist_ok=True)
    more = replace(plan, options=(*plan.options, *options), prefix=tuple(prefix))
    return runs.finish(more, folder / "out", folder / "log")


def on_cluster(plan: runs.RunPlan, folder: Path, hosts: list[tuple[Sequence[str], str]]) -> runs.Ended:
    """Run from the first of `hosts`, with a scheduler there and a worker on each of the others."""
    folder.mkdir()
    with runs.separate_cluster(plan, folder, hosts) as address:
        return by_options(plan, folder, "--scheduler", address, prefix=hosts[0][0])


def main() -> None:
    """Measure and print; exit status 1 if any tables differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures there (JSON)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more = ("--reference", str(ROOT / "sample_slides" / "reference"))
        plan = runs.RunPlan(ROOT / "sample_slides" / "well", more, folder / "cache")
        wanted: dict[str, bytes] = {}

        def record(label: str, place: Path, ended: runs.Ended) -> None:
            tables = runs.tables_of(place / "out")
            if not wanted:
                wanted.update(tables)
            differ = runs.differing(tables, wanted)
            message = "" if ended.status == 0 else ended.output[-500:]
            same = ended.status == 0 and not differ
            rows.append(
                {"by": label, "s": round(ended.seconds, 1), "tables": len(tables), "same": same, "message": message}
            )
            print(f"{label}: {'the same' if same else f'NOT THE SAME {differ} {message}'}", flush=True)

        one = folder / "one"
        record("one process, one thread", one, by_options(plan, one, "--scheduler", "threads", "--workers", "1"))
        for workers in (2, 4):
            place = folder / f"local-{workers}"
            record(f"{workers} worker processes", place, by_options(plan, place, "--workers", str(workers)))
        place = folder / "separate"
        record(
            "separate scheduler and 2 workers, own folders",
            place,
            on_cluster(plan, place, [((), "127.0.0.1")] * 3),
        )
        place = folder / "namespaces"
        try:
            with namespaces() as hosts:
                record("scheduler and 2 workers in 3 network namespaces", place, on_cluster(plan, place, hosts))
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            print(f"network namespaces: skipped, not permitted here ({getattr(error, 'stderr', error)})")
    runs.print_table([{key: value for key, value in row.items() if key != "message"} for row in rows])
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")
    sys.exit(0 if all(row["same"] for row in rows) else 1)


if __name__ == "__main__":
    main()
