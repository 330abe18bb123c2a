"""The command `slidepipe plugins check NAME`: run the conformance checks of one plugin and print the results."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from slidepipe import plugins
from slidepipe.errors import PluginError, SettingsError

PATH = click.Path(path_type=Path)


@click.command("check")
@click.argument("name")
@click.option("--plugin", "files", type=PATH, multiple=True, metavar="FILE.py", help="Plugin file to load.")
@click.option("--weights", type=PATH, metavar="FILE", help="Weights file, if the backbone takes one.")
@click.option("--settings", "settings_file", type=PATH, metavar="FILE", help="Settings of the plugin (YAML).")
@click.option("--device", default="cpu", show_default=True, help="Where to run a backbone: cpu, cuda or cuda:N.")
@click.option("--kind", type=click.Choice(list(plugins.KINDS)), help="Kind of the plugin, if two kinds have the name.")
@click.pass_context
def check(
    ctx: click.Context,
    /,
    name: str,
    files: tuple[Path, ...],
    weights: Path | None,
    settings_file: Path | None,
    device: str,
    kind: str | None,
) -> None:
    """Run the conformance checks of the plugin NAME. They need no data and take seconds."""
    from slidepipe.testing import run_checks

    plugins.register_files(files)
    kind = kind or _kind_of(name)
    results = list(_print_each(run_checks(kind, name, _read_settings(settings_file), weights, device)))
    failed = sum(not result.ok for result in results)
    if failed:
        click.echo(f"{name} failed {failed} of {len(results)} checks")
        ctx.exit(2)
    click.echo(f"{name} passed all {len(results)} checks")


def _print_each(results: Iterable[Any]) -> Iterable[Any]:
    """Print each result as soon as it is known."""
    for result in results:
        click.echo(f"{result.status:8}{result.name}" + (f": {result.reason}" if result.reason else ""))
        yield result


def _kind_of(name: str) -> str:
    """Return the kind of the plugin called `name`."""
    base = name.partition(":")[0]
    kinds = sorted({info.kind for info in plugins.list_plugins() if info.name == base})
    if len(kinds) > 1:
        raise PluginError(f"plugin {base!r} is a {' and a '.join(kinds)}. Choose one with --kind")
    if not kinds:
        known = ", ".join(sorted({info.name for info in plugins.list_plugins()}))
        raise PluginError(f"unknown plugin {base!r}. Available: {known}. If its package changed, install it again")
    return kinds[0]


def _read_settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: the settings cannot be read ({error.strerror}). Check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid YAML ({' '.join(str(error).split())}). Correct the file") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: not a mapping. Write 'name: value' lines, for example 'bins: 3'")
    return values
