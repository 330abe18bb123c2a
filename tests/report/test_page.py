"""The report page of a well."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from slidepipe.cli import main
from slidepipe.errors import ResultsError
from slidepipe.report import write_report
from slidepipe.report.clusters import group_similar
from slidepipe.report.gallery import MAX_PICTURES, choose_specimens, read_objects, specimens_per_row
from slidepipe.results import Results
from tests.synthetic import make_well

NASTY = "<script>alert(\"1\")<_script> & 'x'"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def all(self, tag: str, attribute: str) -> list[str]:
        return [attrs[attribute] for name, attrs in self.found if name == tag and attribute in attrs]


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_well(
        tmp_path_factory.mktemp("report") / "r", 8, 5, statuses={2: "failed", 4: "partial", 6: "barren"}, objects=60
    )
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(well: Path) -> str:
    return (well / "report.html").read_text(encoding="utf-8")


def test_report_needs_no_network(page: str) -> None:
    tags = Tags(page)
    assert {tag for tag, _ in tags.found} & {"script", "link", "iframe", "object", "embed"} == set()
    assert all(source.startswith("data:image/") for source in tags.all("img", "src"))
    assert not [link for link in tags.all("a", "href") if re.match(r"[a-z]+:|//", link)]
    assert "url(" not in page
    policies = [attrs["content"] for _, attrs in tags.found if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_report_links(well: Path, page: str) -> None:
    """Each id is unique, and each link leads to an id of the page or to a file next to it."""
    tags = Tags(page)
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in tags.all("a", "href"):
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (well / link.replace("%20", " ")).exists()


def test_report_failures(well: Path, page: str) -> None:
    """Failures come before the chart, and a failed sample has empty cells instead of zeros."""
    assert page.index("cannot be opened") < page.index("Depth chart") < page.index('id="samples"')
    failed = Results(well).counts.query("status == 'failed'")["sample_id"].item()
    row = next(row for row in page[page.index('id="samples"') :].split("<tr>") if failed in row)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[1] == "failed"
    assert set(cells[2:]) == {""}


def test_report_captions(well: Path, page: str) -> None:
    """Each caption has the object's id and its box."""
    places = {str(row.object_id): row for row in Results(well).objects.itertuples()}
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    assert len(figures) > 50
    for figure in figures:
        name = re.search(r'alt="([^"]+)"', figure)
        assert name is not None
        row = places[name[1]]
        assert f"x {row.x0}&ndash;{row.x1}, y {row.y0}&ndash;{row.y1}" in figure
        assert f">{row.object_id}</a>" in figure


def test_report_unknown_groups(well: Path, page: str) -> None:
    """The most frequent kind of unknown object is the first group."""
    unknown = int((Results(well).objects["state"] == "unknown").sum())
    first = re.search(r"Group 1: (\d+) objects", page)
    assert first is not None
    assert int(first[1]) == unknown // 2  # half of the unknown objects of the made-up well are of one kind


def test_report_escapes_names(tmp_path: Path) -> None:
    folder = make_well(tmp_path / "r", 2, 2, objects=4, well="<b>1</b>", name=lambda slide_id: NASTY + slide_id[-6:])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["<script>"] = "</pre><script>"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    tags = {tag for tag, _ in Tags(page).found}
    assert "script" not in tags
    assert "b" not in {tag for tag, attrs in Tags(page[page.index("<h1>") : page.index("</h1>")]).found}
    assert "&lt;script&gt;alert(" in page


def test_report_is_reproducible(well: Path, page: str) -> None:
    write_report(well)
    assert (well / "report.html").read_text(encoding="utf-8") == page


def test_report_command(well: Path, tmp_path: Path) -> None:
    (well / "report.html").unlink()
    assert CliRunner().invoke(main, ["report", str(well)]).exit_code == 0
    assert (well / "report.html").exists()
    with pytest.raises(ResultsError, match="no results here"):
        write_report(tmp_path)


def test_choose_specimens(well: Path) -> None:
    """The three rows are the most certain, the least certain, and a draw that depends on the name of the genus only."""
    objects = read_objects(Results(well)).query("state == 'accepted'")
    most, least, drawn = choose_specimens(objects, 5, "azolla")
    assert most.objects["p_value"].tolist() == sorted(objects["p_value"], reverse=True)[:5]
    assert least.objects["p_value"].tolist() == sorted(objects["p_value"])[:5]
    assert (
        drawn.objects["object_id"].tolist() == choose_specimens(objects, 5, "azolla")[2].objects["object_id"].tolist()
    )
    assert (
        drawn.objects["object_id"].tolist()
        != choose_specimens(objects, 5, "spiniferites")[2].objects["object_id"].tolist()
    )
    (only,) = choose_specimens(objects.iloc[:4], 5, "azolla")
    assert len(only.objects) == 4


def test_specimens_per_row_limit() -> None:
    for genera in range(1, 100):
        assert genera * (3 * specimens_per_row(genera) + 6) <= MAX_PICTURES


def test_group_similar() -> None:
    """Each object is in one group, similar objects are together, and the result is the same each time."""
    rng = np.random.default_rng(3)
    alike = 5 + rng.normal(0, 0.05, (40, 8)) * np.arange(1, 9)
    embeddings = np.concatenate([alike, rng.normal(0, 3, (60, 8))]).astype(np.float32)
    groups = group_similar(embeddings)
    assert sorted(np.concatenate([group.members for group in groups]).tolist()) == list(range(100))
    assert set(groups[0].members.tolist()) >= set(range(40))
    assert groups[0].similarity > max(group.similarity for group in groups[1:] if len(group.members) > 4)
    assert [group.members.tolist() for group in group_similar(embeddings)] == [
        group.members.tolist() for group in groups
    ]
    assert group_similar(embeddings[:0]) == []
    assert group_similar(np.ones((3, 8), np.float32))[0].similarity == 1


@pytest.mark.parametrize("width_px", [1280, 390])
def test_report_in_browser(well: Path, page: str, tmp_path: Path, width_px: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    (well / "report.html").write_text(page, encoding="utf-8")
    shot = tmp_path / "shot.png"
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--no-first-run", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
            f"--window-size={width_px},1600", (well / "report.html").as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape[1] == width_px
    assert (pixels < 100).mean() > 0.01  # text and bars
    # A page that is wider than the window would be cut, so the right margin must be empty.
    assert (pixels[:, -8:] < 200).mean() < 0.01
