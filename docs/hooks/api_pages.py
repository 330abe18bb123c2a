"""mkdocs hook: add one API page per module and the design pages, so that no page has to be listed by hand."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]

#: Packages whose modules get a page, by the folder that holds them.
PACKAGES = {"slidepipe": ROOT, "slidepipe_plugins": ROOT / "plugins"}


def _modules(package: str, root: Path) -> list[str]:
    """Return the dotted names of a package's public modules, in the order of the tree."""
    names = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return names


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `api/MODULE.md` for every module, `api/index.md`, `design/*.md` and the pages at the root of the repository."""
    listed = []
    for package, root in PACKAGES.items():
        for name in _modules(package, root):
            page = f"# `{name}`\n\n::: {name}\n    options:\n      show_root_heading: false\n"
            files.append(File.generated(config, f"api/{name}.md", content=page))
            listed.append(f"- [`{name}`]({name}.md)\n")
    files.append(File.generated(config, "api/index.md", content="# API reference\n\n" + "".join(listed)))
    for path in sorted((ROOT / "design").iterdir()):
        files.append(File.generated(config, f"design/{path.name}", content=path.read_bytes()))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        files.append(File.generated(config, name.lower(), content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show a link to a file that is not part of the site as the file's path in the repository."""

    def replace(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        inside = target.removeprefix("../")
        if inside.startswith("docs/") and inside.endswith(".md"):
            return f"[{text}]({'../' if target.startswith('../') else ''}{inside.removeprefix('docs/')})"
        if inside.startswith("design/") and inside.endswith(".md"):
            return match[0] if target == inside else f"[{text}]({inside})"
        if target.startswith("../") or inside.split("/")[0] in (
            "configs",
            "performance",
            "tests",
            "slidepipe",
            "plugins",
        ):
            return f"{text} (`{inside}`)" if text.strip("`") != inside else f"`{inside}`"
        return match[0]

    return re.sub(r"\[(?P<text>[^\]]*)\]\((?P<target>(?!https?:|#)[^)\s]+)\)", replace, markdown)
