"""Find words and names that slidepipe no longer uses: ``python -m tests.plain_english [PATH ...]``.

``tests/test_plain_english.py`` runs the same check over the whole repository.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What is searched when no path is given.
SEARCHED = (
    "slidepipe",
    "plugins",
    "configs",
    "sample_slides",
    "tests",
    "docs",
    "design",
    "performance",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "pyproject.toml",
    "mkdocs.yml",
)

_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".html", ".css", ".js", ".svg", ""}

_THING = (
    "rows?|lines?|files?|folders?|records?|groups?|images?|columns?|entries|entry|process(?:es)?|workers?|tasks?|crops?|chunks?"
    "|shards?|pages?|numbers?|points?|threads?|box(?:es)?|objects?|fossils?|pixels?|micrometres?|micrometers?|um|µm|bytes"
    "|seconds?|slides?|blocks?|samples?|labels?"
)
_UNIT = (
    "pixel|second|slide|sample|gram|hour|block|object|crop|image|genus|row|file|level|tablet|minute|mm|cm|batch|worker|chunk"
    "|shard|line|task|well|folder|column|machine|stage|process|thread|GPU|reference|class"
)

#: What is not written any more, and what to write instead.
RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), better)
    for pattern, better, flags in (
        (r"(?<![a-zA-Z])(told|said)(?![a-zA-Z])", "message, label, reported, written", re.IGNORECASE),
        (r"(?<![a-zA-Z])strangers?(?![a-zA-Z])", "third-party", re.IGNORECASE),
        (r"(?<![a-zA-Z])mend(s|ed|ing)?(?![a-zA-Z])", "fix", re.IGNORECASE),
        (r"(?<![a-zA-Z])anew(?![a-zA-Z])", "again", re.IGNORECASE),
        (r"(?<![a-zA-Z])fare[sd]?(?![a-zA-Z])", "progress, outcome", re.IGNORECASE),
        (r"(?<![a-zA-Z])(graphics )?cards?(?![a-zA-Z])", "GPU", re.IGNORECASE),
        (r"(?<![a-zA-Z])(speaks?|spoke|spoken|speaking)(?![a-zA-Z])", "log, print", re.IGNORECASE),
        (rf"\b(one|a|an|each|\d+|of|two|four) ({_THING}) an? ({_UNIT})\b", "per", re.IGNORECASE),
        (r"\bbeside\b", "companion (the setting), next to (the preposition)", re.IGNORECASE),
        (r"\bviews\b", "orientations, orientation_invariant", 0),
        (r"\bas_crops\b|\bsoft\b", "crop_like", 0),
        (
            r"\b_?(tell_of_removed|disk_errors_told|look_around|borrow_slide|complain|laid_by_axis|turned)\b",
            "see CONTRIBUTING",
            0,
        ),
        (r"\bpresent\(", "to_squares", 0),
        (r"\b(sweep|retract|strip_crops|drop_parts|drop_other_parts|is_enough)\b", "see CONTRIBUTING", 0),
        (r"\bclass (Index|Well|Shelf|Line|Frame)\b|\bShelf\b", "see CONTRIBUTING", 0),
    )
)

#: Words that stay, by file, each with its reason.
ALLOWED: dict[str, tuple[str, ...]] = {
    # Keys of the identities that are hashed and stored in RESULTS, as earlier releases named them.
    "slidepipe/pipeline/fingerprints.py": ("beside", "views", "as_crops"),
    "tests/pipeline/test_flow.py": ("beside",),
    "tests/pipeline/test_specs.py": ("beside", "views"),
    "design/layout.md": ("beside", "views", "as_crops"),
    "tests/synthetic.py": ("views",),
    # Keys of `backbone` in the manifests of earlier releases, which are compared with those of new ones.
    "slidepipe/search/index.py": ("beside", "views"),
    "tests/review/test_references.py": ("views",),
    # The old names of settings and plugin members, which work for one more release.
    "CHANGELOG.md": ("views", "beside", "as_crops"),
    "slidepipe/cli.py": ("views",),
    "slidepipe/config.py": ("views", "beside"),
    "slidepipe/plugins/old_form.py": ("views", "as_crops"),
    "tests/test_config.py": ("views", "beside"),
    "tests/test_plugins.py": ("views", "as_crops"),
    # Keys of manifest.json and of the metrics.json of a benchmark, which scripts of users read.
    "slidepipe/report/sections.py": ("views",),
    "slidepipe/benchmark/backbone_scores.py": ("beside", "views"),
    "slidepipe/benchmark/page.py": ("beside", "views"),
    "tests/benchmark/test_command.py": ("views",),
    # A key of the identities that are hashed.
    "slidepipe/benchmark/embedding.py": ("as_crops",),
    # The name of an array in the cached files of earlier releases.
    "slidepipe/classification/reference_set.py": ("as_crops",),
    "tests/classification/test_reference_set.py": ("as_crops",),
}

#: Not ours to write, or full of the words that are searched for.
_SKIPPED = ("slidepipe/viewer/static/vendor/", "tests/plain_english.py", "tests/test_plain_english.py")


def find_words(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, the words and the better ones for each hit in a text file."""
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), ())
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for pattern, better in RULES:
            for match in pattern.finditer(line):
                if match[0].lower() not in allowed:
                    yield number, match[0], better


def searched_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the text files at and below ``paths``."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            name = file.relative_to(ROOT).as_posix()
            if file.is_file() and file.suffix in _SUFFIXES and not name.startswith(_SKIPPED) and "/." not in f"/{name}":
                yield file


def main() -> None:
    """Print every hit; exit status 1 if there is one."""
    given = [Path(argument).resolve() for argument in sys.argv[1:]]
    if missing := [path for path in given if not path.exists()]:
        sys.exit(f"{missing[0]}: no such file or folder")
    hits = [
        f"{file.relative_to(ROOT)}:{number}: {words!r}: write {better}"
        for file in searched_files(given or [ROOT / name for name in SEARCHED if (ROOT / name).exists()])
        for number, words, better in find_words(file)
    ]
    print("\n".join(hits) or "no words or names that slidepipe no longer uses")
    sys.exit(1 if hits else 0)


if __name__ == "__main__":
    main()
