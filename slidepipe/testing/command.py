"""``slidepipe plugins check NAME``: run the conformance checks of one plugin and say how each went."""

from pathlib import Path
from typing import Any

import click

from slidepipe.errors import PluginError, SettingsError

PATH = click.Path(path_type=Path)


@click.command("check")
@click.argument("name")
@click.option("--plugin", "files", type=PATH, multiple=True, metavar="FILE.py", help="A plugin file to load.")
@click.option("--weights", type=PATH, metavar="FILE", help="Weights, where the backbone takes a file.")
@click.option("--settings", "settings_file", type=PATH, metavar="FILE", help="The plugin's own settings (YAML).")
@click.option("--device", default="cpu", show_default=True, help="Where to run a backbone: cpu, cuda or cuda:N.")
@click.option("--kind", type=click.Choice(["backbone", "head", "detector"]), help="Needed where NAME is in two kinds.")
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
    """Check that the plugin NAME keeps its contract. It needs no data and takes seconds."""
    from slidepipe import plugins
    from slidepipe.testing import run_checks

    plugins.register_files(files)
    base = name.partition(":")[0]
    kinds = sorted({info.kind for info in plugins.list_plugins() if info.name == base and kind in (None, info.kind)})
    if len(kinds) > 1:
        raise PluginError(f"plugin {base!r} is a {' and a '.join(kinds)}: say which with --kind")
    results = run_checks(kinds[0] if kinds else "backbone", name, _settings(settings_file), weights, device)
    failed = 0
    for result in results:
        click.echo(f"{result.status:8}{result.name}" + (f": {result.reason}" if result.reason else ""))
        failed += not result.ok
    click.echo(f"{name} keeps its contract" if not failed else f"{name} does not keep its contract: {failed} failed")
    if failed:
        ctx.exit(2)


def _settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: the settings cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the settings are no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: the settings must be names with values, as in bins: 3")
    return values
