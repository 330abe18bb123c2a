"""The command line: thin, and quick to start. What a command needs is imported when it runs."""

import logging
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slidepipe import __version__
from slidepipe.errors import SlidepipeError
from slidepipe.logs import LogFormat, speak, wanted_format
from slidepipe.testing.command import check

EXISTING = click.Path(path_type=Path)


class _Group(click.Group):
    """Turns a user's mistake into one line and exit status 2; ``--debug`` shows where it came from."""

    def main(self, *args: Any, **keywords: Any) -> Any:
        """Run the command line; click's own complaints are one line too."""
        given = args[0] if args else keywords.get("args")
        log_format = wanted_format(sys.argv[1:] if given is None else list(given))
        speak(log_format, logging.WARNING)
        try:
            status = super().main(*args, **{**keywords, "obj": log_format, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx is not None else "slidepipe"
            message = " ".join(error.format_message().split()).rstrip(".")
            _complain(f"{message}. See '{command} --help'", "error")
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)

    def make_context(self, *args: Any, **keywords: Any) -> click.Context:
        """Parse the arguments; whoever stops the command that early gets the same line as later."""
        try:
            return super().make_context(*args, **keywords)
        except KeyboardInterrupt:
            _complain("stopped before it began", "stopped")
            sys.exit(130)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SlidepipeError as error:
            if ctx.params.get("debug"):
                raise
            _complain(str(error), "error")
            ctx.exit(2)
        except KeyboardInterrupt:
            _complain("stopped. What is finished is kept: give the same command again to go on", "stopped")
            ctx.exit(130)


def _complain(message: str, event: str) -> None:
    """One line on stderr, in the form in which the command speaks there."""
    logging.getLogger("slidepipe").error("%s", message, extra={"event": event})


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slidepipe")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_obj
def main(log_format: LogFormat | None, /, debug: bool) -> None:
    """From a folder of palynology slide scans to fossil counts per genus and depth."""
    speak(log_format or "text", logging.DEBUG if debug else logging.WARNING)


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        [
            click.option(
                "--config", type=EXISTING, metavar="FILE", help="Settings (YAML); options given here go before it."
            ),
            click.option("--reference", type=EXISTING, metavar="DIR", help="Labelled crops, one folder a genus."),
            click.option("--backbone", metavar="NAME", help="Backbone: see 'slidepipe plugins list'."),
            click.option("--weights", type=EXISTING, metavar="FILE", help="The backbone's weights."),
            click.option(
                "--views", type=click.Choice(["1", "8"]), help="Average embeddings over 1 view or 8 flips and turns."
            ),
            click.option("--head", metavar="NAME", help="Head: see 'slidepipe plugins list'."),
            click.option(
                "--alpha", type=float, metavar="X", help="Share of a genus's fossils that may be left unknown."
            ),
            click.option("--detector", metavar="NAME", help="Detector: see 'slidepipe plugins list'."),
            click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N."),
            click.option(
                "--mpp", type=float, metavar="X", help="Micrometres a pixel, where the scan does not say or is wrong."
            ),
            click.option("--workers", type=int, metavar="N", help="Worker processes; one a core if not given."),
            click.option(
                "--scheduler", metavar="WHERE", help="local, threads, tcp://HOST:PORT, a scheduler FILE.json, or slurm."
            ),
            click.option(
                "--dashboard/--no-dashboard",
                default=None,
                help="Show Dask's dashboard; shown in a terminal if not given.",
            ),
            click.option(
                "--plugin", "plugins", type=EXISTING, multiple=True, metavar="FILE.py", help="A plugin file to load."
            ),
            click.option(
                "--on-error", type=click.Choice(["continue", "stop"]), help="What to do at a slide that fails."
            ),
        ]
    ):
        command = option(command)
    return command


@main.command()
@click.argument("well", type=EXISTING)
@click.option(
    "--out", required=True, type=EXISTING, metavar="RESULTS", help="Folder for the results; used again if it is there."
)
@click.option("--each", is_flag=True, help="WELL holds (or lists) many wells: RESULTS gets a folder for each.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the run speaks on stderr: a line for people, or a JSON object, for each slide as it ends.",
)
@_run_options
@click.pass_context
def run(
    ctx: click.Context, /, well: Path, out: Path, each: bool, log_format: Any, config: Path | None, **settings: Any
) -> None:
    """Count the fossils of WELL: a folder of slide scans, one scan, or a list of scans (.txt)."""
    from slidepipe.config import load_config, overrides_from_names
    from slidepipe.pipeline.flow import run_well
    from slidepipe.pipeline.progress import Progress
    from slidepipe.pipeline.status import StatusFile

    speak(log_format, logging.DEBUG if ctx.parent and ctx.parent.params.get("debug") else logging.WARNING)
    logging.getLogger("slidepipe.run").setLevel(logging.INFO)
    settings["plugins"] = [str(path) for path in settings["plugins"]] or None
    settings["views"] = int(settings["views"]) if settings["views"] else None
    loaded = load_config(config, overrides_from_names(settings))
    bars = None if log_format == "text" else False
    if each:
        from slidepipe.pipeline.survey import SUMMARY, run_wells

        outcomes = run_wells(well, out, loaded, lambda status: Progress(bars, status))
        ended = Counter(outcome.status for outcome in outcomes)
        click.echo(f"{len(outcomes)} wells: " + ", ".join(f"{count} {word}" for word, count in sorted(ended.items())))
        click.echo(f"one row a well: {out / SUMMARY}")
        ctx.exit(0 if set(ended) == {"ok"} else 2 if set(ended) == {"refused"} else 1)
    summary = run_well(well, out, loaded, Progress(bars, StatusFile(out)))
    click.echo(_told(summary))
    ctx.exit(summary.exit_status)


def _told(summary: Any) -> str:
    done = summary.slides - len(summary.failed)
    lines = [
        f"{done} of {summary.slides} slides analysed: {summary.objects} objects, {summary.accepted} of a known genus"
        + (
            ""
            if summary.redone
            else " (tried again: no change)"
            if summary.exit_status
            else " (nothing was left to do)"
        )
    ]
    if summary.failed:
        lines.append(f"failed: {', '.join(summary.failed)} ({summary.reason})")
    if summary.partial:
        lines.append(f"partial: {', '.join(summary.partial)}")
    if summary.exit_status:
        again = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        lines.append(f"reasons in {summary.results / 'failures.csv'}. To try these slides alone again: {again}")
    lines.append(f"counts by sample: {summary.results / 'counts.csv'}; report: {summary.results / 'report.html'}")
    return "\n".join(lines)


@main.command()
@click.argument("slide", type=EXISTING)
@click.option("--mpp", type=float, metavar="X", help="Micrometres a pixel, where the scan does not say or is wrong.")
def info(slide: Path, mpp: float | None) -> None:
    """Say what slidepipe sees in a scan: size, resolution, scanned part, sample."""
    from slidepipe.errors import ResolutionError
    from slidepipe.samples.discover import discover
    from slidepipe.slides.reader import read_meta

    sample = discover(slide)[0].sample
    missing = ""
    try:
        meta = read_meta(slide, mpp)
    except ResolutionError as error:
        meta, missing = read_meta(slide, 1.0), str(error)
    bounds = meta.bounds
    area_mm2 = bounds.width * bounds.height * meta.mpp_x * meta.mpp_y * 1e-6
    depth = "not in the name" if sample.depth_m is None else f"{sample.depth_m.normalize():f} m"
    rows = [
        ("slide", str(slide)),
        ("format", meta.vendor),
        ("size", f"{meta.width_px} x {meta.height_px} px"),
        ("resolution", "unknown" if missing else f"{meta.mpp_x:g} x {meta.mpp_y:g} um a pixel"),
        (
            "scanned part",
            f"{bounds.width} x {bounds.height} px at {bounds.x0}, {bounds.y0}"
            + ("" if missing else f" ({area_mm2:.1f} mm2)"),
        ),
        ("objective", "unknown" if meta.objective_power is None else f"{meta.objective_power:g}x"),
        ("background", "#{:02x}{:02x}{:02x}".format(*meta.background)),
        ("levels", ", ".join(f"{level.downsample:g}" for level in meta.levels)),
        ("focal planes", "one is read (the default plane)"),
        ("well", sample.well),
        ("depth", depth),
        ("sample type", sample.sample_type or "not in the name"),
    ]
    for name, value in rows:
        click.echo(f"{name + ':':14}{value}")
    if missing:
        raise SlidepipeError(missing)


@main.command()
@click.argument("results", type=EXISTING)
def status(results: Path) -> None:
    """Say how the run that writes RESULTS fares, from another terminal, or how it ended."""
    from slidepipe.pipeline.status import read_status, tell_status

    click.echo(tell_status(results, read_status(results)))


@main.command()
@click.argument("results", type=EXISTING)
def report(results: Path) -> None:
    """Write the report of RESULTS anew, with what reviewers have labelled since: report.html, charts, geojson/."""
    from slidepipe.report import write_report
    from slidepipe.review.corrected_counts import correct_counts

    correct_counts(results)
    write_report(results)
    click.echo(f"report: {results / 'report.html'}")


@main.command()
@click.argument("results", type=EXISTING)
@click.option(
    "--format",
    "forms",
    type=click.Choice(["geojson", "csv", "parquet", "coco"]),
    multiple=True,
    required=True,
    help="geojson (QuPath), csv (rioja, tidypaleo), parquet or coco (boxes); may be given several times.",
)
@click.option(
    "--out", type=EXISTING, metavar="DIR", help="Where to; RESULTS/exports, or RESULTS/geojson, if not given."
)
def export(results: Path, forms: tuple[str, ...], out: Path | None) -> None:
    """Write RESULTS in the form of another program."""
    from slidepipe.exports.formats import export as write

    for form in forms:
        for path in write(results, form, out):
            click.echo(str(path))


@main.command()
@click.argument("results", type=EXISTING, nargs=-1, required=True)
@click.argument("query", metavar="IMAGE_OR_OBJECT_ID")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Answers wanted.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "euclidean"]),
    default="cosine",
    show_default=True,
    help="Likeness of embeddings.",
)
@click.option(
    "--device", default="auto", metavar="DEVICE", help="Where an image is embedded: auto, cpu, cuda or cuda:N."
)
@click.option("--out", type=EXISTING, metavar="DIR", help="Where to; RESULTS/search of the first if not given.")
def search(results: tuple[Path, ...], query: str, top: int, metric: Any, device: str, out: Path | None) -> None:
    """Find the objects of RESULTS (one folder or several) that look most like an image or an object."""
    from slidepipe.search.index import search as find
    from slidepipe.search.page import write_search

    hits = find(results, query, top, metric, device)
    measure = "similarity" if metric == "cosine" else "distance"
    for record in hits.to_dict("records"):
        name = record["genus"] if record["state"] == "accepted" else record["state"]
        click.echo(f"{record['rank']:>4}  {record[measure]:.4f}  {name}  {record['object_id']}")
    for path in write_search(hits, query, list(results), out or results[0] / "search"):
        click.echo(str(path))


@main.command()
@click.argument("results", type=EXISTING)
@click.option("--port", type=click.IntRange(0, 65535), default=8750, show_default=True, help="0 takes a free one.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; beyond this machine a token is asked for.",
)
@click.option("--slides", type=EXISTING, metavar="DIR", help="Where the scans are now, if they were moved.")
def view(results: Path, port: int, host: str, slides: Path | None) -> None:
    """Look at the specimens of RESULTS in a browser, and correct their labels (needs slidepipe[view])."""
    from slidepipe.viewer.command import serve

    serve(results, host, port, slides, lambda line: click.echo(line))


@main.group()
def review() -> None:
    """Have a palynologist check objects, and correct the counts by what they say."""


@review.command("sample")
@click.argument("results", type=EXISTING)
@click.option("--n", "count", type=click.IntRange(min=1), default=50, show_default=True, help="Objects to draw.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option(
    "--by",
    type=click.Choice(["genus", "sample", "slide"]),
    default="genus",
    show_default=True,
    help="Strata: the genera over the whole well, or within each sample or slide (corrects each sample's counts).",
)
def sample_review(results: Path, count: int, seed: int, by: Any) -> None:
    """Draw objects of RESULTS at random for review: review.csv, their crops and contact sheets."""
    from slidepipe.review.draw import LABELS, REVIEW, REVIEW_FOLDER
    from slidepipe.review.draw import sample_review as draw

    rows = draw(results, count, seed, by)
    click.echo(f"{len(rows)} objects of {rows['stratum'].nunique()} strata: {results / REVIEW}")
    click.echo(f"crops and contact sheets, numbered as its rows: {results / REVIEW_FOLDER}")
    click.echo(
        f"fill its column genus ('not a fossil' where it is none), or write {results / LABELS} (object_id,genus); "
        "the same run command again corrects the counts"
    )


@main.command()
@click.argument("name", required=False)
@click.option("--out", required=True, type=EXISTING, metavar="DIR", help="Folder for metrics and report.")
@click.option(
    "--data", type=EXISTING, metavar="DIR", help="Labelled images; without it the published ones are fetched."
)
@click.option("--all", "every", is_flag=True, help="Every installed backbone, in one table.")
@click.option(
    "--protocol",
    type=click.Choice(["published", "slidepipe", "both"]),
    default="both",
    show_default=True,
    help="The published evaluation, or views and head as a run uses them.",
)
@click.option("--config", type=EXISTING, metavar="FILE", help="Settings (YAML), of the backbone too.")
@click.option("--weights", type=EXISTING, metavar="FILE", help="The backbone's weights.")
@click.option("--views", type=click.Choice(["1", "8"]), help="Views averaged under slidepipe's own protocol.")
@click.option("--head", metavar="NAME", help="Head: see 'slidepipe plugins list'.")
@click.option("--alpha", type=float, metavar="X", help="Share of a genus's fossils that may be left unknown.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")
@click.option("--workers", type=int, metavar="N", help="Worker processes; one a core if not given.")
@click.option("--scheduler", metavar="WHERE", help="local, threads, tcp://HOST:PORT or a scheduler FILE.json.")
@click.option("--plugin", "plugins", type=EXISTING, multiple=True, metavar="FILE.py", help="A plugin file to load.")
def benchmark(
    name: str | None,
    out: Path,
    data: Path | None,
    every: bool,
    protocol: Any,
    config: Path | None,
    **settings: Any,
) -> None:
    """Score the backbone NAME on the published palynomorph benchmark, or on your own labelled images."""
    from slidepipe.benchmark.run import run_benchmark
    from slidepipe.config import load_config, overrides_from_names

    if name and every:
        raise SlidepipeError(f"benchmark: give a backbone ('{name}') or --all, not both")
    if not (name or every or config):
        raise SlidepipeError(
            "benchmark: name a backbone (see 'slidepipe plugins list'), or give --all or --config FILE"
        )
    settings["plugins"] = [str(path) for path in settings["plugins"]] or None
    settings["views"] = int(settings["views"]) if settings["views"] else None
    loaded = load_config(config, overrides_from_names({**settings, "backbone": name}))
    outcome = run_benchmark(loaded, out, data, protocol, every, lambda line: click.echo(line, err=True))
    click.echo(outcome.text)
    click.echo(f"\nreport: {out / 'report.html'}; figures: {out / 'metrics.json'}, {out / 'metrics.csv'}")


@main.group()
def plugins() -> None:
    """List and check backbones, heads and detectors."""


@plugins.command("list")
def list_plugins() -> None:
    """List the installed plugins; nothing of them is imported."""
    from slidepipe.plugins import list_plugins as listed

    rows = [(info.kind, info.name, info.origin, info.error or "") for info in listed()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for row in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())


plugins.add_command(check)

if __name__ == "__main__":
    main()
