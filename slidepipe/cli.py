"""The command line. Each command imports what it needs when it runs, so that the program starts quickly."""

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
from slidepipe.exports.formats import FORMATS
from slidepipe.logs import LogFormat, configure_logging, wanted_format
from slidepipe.testing.command import check

EXISTING = click.Path(path_type=Path)


class _Group(click.Group):
    """Report a user's mistake in one line with exit status 2; `--debug` shows the traceback."""

    def main(self, *args: Any, **keywords: Any) -> Any:
        """Run the command line; errors that click finds are reported in one line too."""
        given = args[0] if args else keywords.get("args")
        log_format = wanted_format(sys.argv[1:] if given is None else list(given))
        configure_logging(log_format, logging.WARNING)
        try:
            status = super().main(*args, **{**keywords, "obj": log_format, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx is not None else "slidepipe"
            message = " ".join(error.format_message().split()).rstrip(".")
            _log_error(f"{message}. See '{command} --help'", "error")
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)

    def make_context(self, *args: Any, **keywords: Any) -> click.Context:
        """Parse the arguments; an interrupt during parsing prints the same line as one during the run."""
        try:
            return super().make_context(*args, **keywords)
        except KeyboardInterrupt:
            _log_error("stopped before the command started", "stopped")
            sys.exit(130)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SlidepipeError as error:
            if ctx.params.get("debug"):
                raise
            _log_error(str(error), "error")
            ctx.exit(2)
        except KeyboardInterrupt:
            _log_error("stopped. Finished work is kept: run the same command again to resume", "stopped")
            ctx.exit(130)


def _log_error(message: str, event: str) -> None:
    """Log an error in one line on stderr, as text or JSON like all other messages of the command."""
    logging.getLogger("slidepipe").error("%s", message, extra={"event": event})


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slidepipe")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_obj
def main(log_format: LogFormat | None, /, debug: bool) -> None:
    """From a folder of palynology slide scans to fossil counts per genus and depth."""
    configure_logging(log_format or "text", logging.DEBUG if debug else logging.WARNING)


def _optional_int(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Return the value of an option as a number."""
    return None if value is None else int(value)


def _orientations_option(help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --orientations."""
    return click.option("--orientations", type=click.Choice(["1", "8"]), callback=_optional_int, help=help_text)


#: The old name of --orientations. Delete it together with the entries of `slidepipe.config.RENAMED_SETTINGS`.
_old_views_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--views", type=click.Choice(["1", "8"]), callback=_optional_int, hidden=True
)


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.option(
            "--config",
            type=EXISTING,
            metavar="FILE",
            help="Settings file (YAML); command line options override it.",
        ),
        click.option("--reference", type=EXISTING, metavar="DIR", help="Labelled crops, one folder per genus."),
        click.option("--backbone", metavar="NAME", help="Backbone plugin; see 'slidepipe plugins list'."),
        click.option("--weights", type=EXISTING, metavar="FILE", help="Weight file of the backbone."),
        _orientations_option("Orientations averaged per embedding [default: the backbone's own]."),
        _old_views_option,
        click.option("--head", metavar="NAME", help="Head plugin; see 'slidepipe plugins list'."),
        click.option(
            "--alpha",
            type=float,
            metavar="X",
            help="Largest fraction of a genus's fossils that may be left unknown.",
        ),
        click.option("--detector", metavar="NAME", help="Detector plugin; see 'slidepipe plugins list'."),
        click.option("--device", metavar="DEVICE", help="Device: auto, cpu, cuda or cuda:N."),
        click.option(
            "--mpp",
            type=float,
            metavar="X",
            help="Micrometres per pixel, if the scan does not record it or is wrong.",
        ),
        click.option("--workers", type=int, metavar="N", help="Worker processes [default: one per core]."),
        click.option(
            "--scheduler",
            metavar="WHERE",
            help="local, threads, tcp://HOST:PORT, a scheduler FILE.json, or slurm [default: local].",
        ),
        click.option(
            "--dashboard/--no-dashboard",
            default=None,
            help="Show Dask's dashboard [default: only in a terminal].",
        ),
        click.option(
            "--plugin",
            "plugins",
            type=EXISTING,
            multiple=True,
            metavar="FILE.py",
            help="Plugin file; may be repeated.",
        ),
        click.option(
            "--on-error",
            type=click.Choice(["continue", "stop"]),
            help="What to do when a slide fails [default: continue].",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("well", type=EXISTING)
@click.option(
    "--out", required=True, type=EXISTING, metavar="RESULTS", help="Results folder; an existing one is resumed."
)
@click.option(
    "--each", is_flag=True, help="Treat WELL as a folder (or list) of wells; each well gets its own folder in RESULTS."
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of messages on stderr: text, or one JSON object per line.",
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

    configure_logging(log_format, logging.DEBUG if ctx.parent and ctx.parent.params.get("debug") else logging.WARNING)
    logging.getLogger("slidepipe.run").setLevel(logging.INFO)
    settings["plugins"] = [str(path) for path in settings["plugins"]] or None
    loaded = load_config(config, overrides_from_names(settings))
    bars = None if log_format == "text" else False
    if each:
        from slidepipe.pipeline.survey import SUMMARY, run_wells

        outcomes = run_wells(well, out, loaded, lambda status: Progress(bars, status))
        ended = Counter(outcome.status for outcome in outcomes)
        click.echo(f"{len(outcomes)} wells: " + ", ".join(f"{count} {word}" for word, count in sorted(ended.items())))
        click.echo(f"summary, one row per well: {out / SUMMARY}")
        ctx.exit(0 if set(ended) == {"ok"} else 2 if set(ended) == {"refused"} else 1)
    summary = run_well(well, out, loaded, Progress(bars, StatusFile(out)))
    click.echo(_describe(summary))
    ctx.exit(summary.exit_status)


def _describe(summary: Any) -> str:
    """Return the lines that a finished run prints."""
    done = summary.slides - len(summary.failed)
    lines = [
        f"{done} of {summary.slides} slides analysed: {summary.objects} objects, {summary.accepted} of a known genus"
        + (
            ""
            if summary.redone
            else " (failed slides were tried again without success)"
            if summary.exit_status
            else " (nothing left to do)"
        )
    ]
    if summary.failed:
        lines.append(f"failed: {', '.join(summary.failed)} ({summary.reason})")
    if summary.partial:
        lines.append(f"partial: {', '.join(summary.partial)}")
    if summary.exit_status:
        again = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        lines.append(f"reasons in {summary.results / 'failures.csv'}. To retry only these slides: {again}")
    lines.append(f"counts by sample: {summary.results / 'counts.csv'}; report: {summary.results / 'report.html'}")
    return "\n".join(lines)


@main.command()
@click.argument("slide", type=EXISTING)
@click.option(
    "--mpp", type=float, metavar="X", help="Micrometres per pixel, if the scan does not record it or is wrong."
)
@click.option("--plugin", "files", type=EXISTING, multiple=True, metavar="FILE.py", help="Plugin file with a reader.")
def info(slide: Path, mpp: float | None, files: tuple[Path, ...]) -> None:
    """Show the properties of a scan: size, resolution, scanned part, sample."""
    from slidepipe.errors import ResolutionError
    from slidepipe.plugins import register_files
    from slidepipe.samples.discover import discover
    from slidepipe.slides.reader import read_meta

    register_files(files)
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
        ("resolution", "unknown" if missing else f"{meta.mpp_x:g} x {meta.mpp_y:g} um per pixel"),
        (
            "scanned part",
            f"{bounds.width} x {bounds.height} px at {bounds.x0}, {bounds.y0}"
            + ("" if missing else f" ({area_mm2:.1f} mm2)"),
        ),
        ("objective", "unknown" if meta.objective_power is None else f"{meta.objective_power:g}x"),
        ("background", "#{:02x}{:02x}{:02x}".format(*meta.background)),
        ("levels", ", ".join(f"{level.downsample:g}" for level in meta.levels)),
        ("focal planes", "only the default plane is read"),
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
    """Show the progress of the run that writes RESULTS, or its outcome."""
    from slidepipe.pipeline.status import format_status, read_status

    click.echo(format_status(results, read_status(results)))


@main.command()
@click.argument("results", type=EXISTING)
def report(results: Path) -> None:
    """Rewrite the report of RESULTS with the labels added since the run: report.html, charts, geojson/."""
    from slidepipe.report import write_report
    from slidepipe.review.corrected_counts import renew_corrected_tables

    renew_corrected_tables(results)
    write_report(results)
    click.echo(f"report: {results / 'report.html'}")


@main.command()
@click.argument("results", type=EXISTING)
@click.option(
    "--format",
    "forms",
    type=click.Choice([form.name for form in FORMATS]),
    multiple=True,
    required=True,
    help="; ".join(f"{form.name}: {form.purpose}" for form in FORMATS) + ". May be repeated.",
)
@click.option(
    "--out",
    type=EXISTING,
    metavar="DIR",
    help="Output folder [default: RESULTS/exports, or RESULTS/geojson for GeoJSON].",
)
def export(results: Path, forms: tuple[str, ...], out: Path | None) -> None:
    """Convert RESULTS to the formats of other programs."""
    from slidepipe.exports.formats import export as write

    for form in forms:
        for path in write(results, form, out):
            click.echo(str(path))


@main.command()
@click.argument("results", type=EXISTING, nargs=-1, required=True)
@click.argument("query", metavar="IMAGE_OR_OBJECT_ID")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Number of objects to return.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "euclidean"]),
    default="cosine",
    show_default=True,
    help="Similarity measure of embeddings.",
)
@click.option(
    "--device", default="auto", metavar="DEVICE", help="Device that embeds an image: auto, cpu, cuda or cuda:N."
)
@click.option("--out", type=EXISTING, metavar="DIR", help="Output folder [default: search/ in the first RESULTS].")
def search(results: tuple[Path, ...], query: str, top: int, metric: Any, device: str, out: Path | None) -> None:
    """Find the objects of one or several RESULTS that are most similar to an image or an object."""
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
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8750,
    show_default=True,
    help="Port; 0 selects a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; any address but the default requires a token.",
)
@click.option("--slides", type=EXISTING, metavar="DIR", help="Current folder of the scans, if they were moved.")
def view(results: Path, port: int, host: str, slides: Path | None) -> None:
    """View the specimens of RESULTS in a browser and correct their labels (needs slidepipe[view])."""
    from slidepipe.viewer.server import serve

    serve(results, host, port, slides, lambda line: click.echo(line))


@main.group()
def review() -> None:
    """Draw objects for a palynologist to check; the checked labels correct the counts."""


@review.command("sample")
@click.argument("results", type=EXISTING)
@click.option(
    "--n", "count", type=click.IntRange(min=1), default=50, show_default=True, help="Number of objects to draw."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the draw.")
@click.option(
    "--by",
    type=click.Choice(["genus", "sample", "slide"]),
    default="genus",
    show_default=True,
    help="Strata: genera over the whole well, or genera within each sample or slide (then each sample's counts are corrected).",
)
def sample_review(results: Path, count: int, seed: int, by: Any) -> None:
    """Draw random objects of RESULTS for review: review.csv, crops and contact sheets."""
    from slidepipe.review.draw import REVIEW_FOLDER
    from slidepipe.review.draw import sample_review as draw
    from slidepipe.review.labels import LABELS_FILE, REVIEW_FILE

    rows = draw(results, count, seed, by)
    click.echo(f"{len(rows)} objects of {rows['stratum'].nunique()} strata: {results / REVIEW_FILE}")
    click.echo(f"crops and contact sheets, numbered like the rows of the file: {results / REVIEW_FOLDER}")
    click.echo(
        f"fill in the column genus ('not a fossil' for debris), or write {results / LABELS_FILE} (object_id,genus). "
        "Then run the same run command again: it corrects the counts"
    )


@main.command()
@click.argument("name", required=False)
@click.option("--out", required=True, type=EXISTING, metavar="DIR", help="Output folder for metrics and report.")
@click.option(
    "--data", type=EXISTING, metavar="DIR", help="Folder of labelled images [default: download the published images]."
)
@click.option("--all", "every", is_flag=True, help="Score every installed backbone, in one table.")
@click.option(
    "--protocol",
    type=click.Choice(["published", "slidepipe", "both"]),
    default="both",
    show_default=True,
    help="published: the published evaluation; slidepipe: orientations and head as a run uses them.",
)
@click.option("--config", type=EXISTING, metavar="FILE", help="Settings file (YAML), including those of the backbone.")
@click.option("--weights", type=EXISTING, metavar="FILE", help="Weight file of the backbone.")
@_orientations_option("Number of orientations averaged under the slidepipe protocol.")
@_old_views_option
@click.option("--head", metavar="NAME", help="Head plugin; see 'slidepipe plugins list'.")
@click.option(
    "--alpha", type=float, metavar="X", help="Largest fraction of a genus's fossils that may be left unknown."
)
@click.option("--device", metavar="DEVICE", help="Device: auto, cpu, cuda or cuda:N.")
@click.option("--workers", type=int, metavar="N", help="Worker processes [default: one per core].")
@click.option(
    "--scheduler", metavar="WHERE", help="Scheduler: local, threads, tcp://HOST:PORT or a scheduler FILE.json."
)
@click.option(
    "--plugin", "plugins", type=EXISTING, multiple=True, metavar="FILE.py", help="Plugin file; may be repeated."
)
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
    loaded = load_config(config, overrides_from_names({**settings, "backbone": name}))
    outcome = run_benchmark(loaded, out, data, protocol, every, lambda line: click.echo(line, err=True))
    click.echo(outcome.text)
    click.echo(f"\nreport: {out / 'report.html'}; figures: {out / 'metrics.json'}, {out / 'metrics.csv'}")


@main.group()
def plugins() -> None:
    """List and check backbones, heads and detectors."""


@plugins.command("list")
def list_plugins() -> None:
    """List the installed plugins without importing them."""
    from slidepipe.plugins import list_plugins as listed

    rows = [(info.kind, info.name, info.origin, info.error or "") for info in listed()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for row in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())


plugins.add_command(check)

if __name__ == "__main__":
    main()
