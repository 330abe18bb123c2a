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
from slidepipe.report.clusters import group_alike
from slidepipe.report.gallery import MOST_PICTURES, choose, read_objects, shelf_length
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


def test_opens_from_disk_without_a_network(page: str) -> None:
    tags = Tags(page)
    assert {tag for tag, _ in tags.found} & {"script", "link", "iframe", "object", "embed"} == set()
    assert all(source.startswith("data:image/") for source in tags.all("img", "src"))
    assert not [link for link in tags.all("a", "href") if re.match(r"[a-z]+:|//", link)]
    assert "url(" not in page
    assert "default-src 'none'" in dict(tags.found)["meta"].get("content", "") or "default-src 'none'" in page


def test_links_lead_somewhere(well: Path, page: str) -> None:
    tags = Tags(page)
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in tags.all("a", "href"):
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (well / link.replace("%20", " ")).exists()


def test_failures_come_before_the_chart_and_are_no_zeros(well: Path, page: str) -> None:
    assert page.index("cannot be opened") < page.index("Depth chart") < page.index('id="samples"')
    failed = Results(well).counts.query("status == 'failed'")["sample_id"].item()
    row = next(row for row in page[page.index('id="samples"') :].split("<tr>") if failed in row)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[1] == "failed"
    assert set(cells[2:]) == {""}


def test_every_picture_says_where_it_lies(well: Path, page: str) -> None:
    places = {str(row.object_id): row for row in Results(well).objects.itertuples()}
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    assert len(figures) > 50
    for figure in figures:
        name = re.search(r'alt="([^"]+)"', figure)
        assert name is not None
        row = places[name[1]]
        assert f"x {row.x0}&ndash;{row.x1}, y {row.y0}&ndash;{row.y1}" in figure
        assert f">{row.object_id}</a>" in figure


def test_a_frequent_unknown_is_the_first_group(well: Path, page: str) -> None:
    unknown = int((Results(well).objects["state"] == "unknown").sum())
    first = re.search(r"Group 1: (\d+) objects", page)
    assert first is not None
    assert int(first[1]) == unknown // 2  # every other unknown object that was made is of one kind


def test_names_are_escaped(tmp_path: Path) -> None:
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


def test_same_results_same_page(well: Path, page: str) -> None:
    write_report(well)
    assert (well / "report.html").read_text(encoding="utf-8") == page


def test_command_and_folder_without_results(well: Path, tmp_path: Path) -> None:
    (well / "report.html").unlink()
    assert CliRunner().invoke(main, ["report", str(well)]).exit_code == 0
    assert (well / "report.html").exists()
    with pytest.raises(ResultsError, match="no results here"):
        write_report(tmp_path)


def test_shelves_hold_the_ends_and_a_random_draw(well: Path) -> None:
    objects = read_objects(Results(well)).query("state == 'accepted'")
    most, least, drawn = choose(objects, 5, "azolla")
    assert most.objects["p_value"].tolist() == sorted(objects["p_value"], reverse=True)[:5]
    assert least.objects["p_value"].tolist() == sorted(objects["p_value"])[:5]
    assert drawn.objects["object_id"].tolist() == choose(objects, 5, "azolla")[2].objects["object_id"].tolist()
    assert drawn.objects["object_id"].tolist() != choose(objects, 5, "spiniferites")[2].objects["object_id"].tolist()
    (only,) = choose(objects.iloc[:4], 5, "azolla")
    assert len(only.objects) == 4


def test_pictures_stay_within_what_a_page_may_hold() -> None:
    for genera in range(1, 100):
        assert genera * (3 * shelf_length(genera) + 6) <= MOST_PICTURES


def test_groups_hold_every_object_once() -> None:
    rng = np.random.default_rng(3)
    alike = 5 + rng.normal(0, 0.05, (40, 8)) * np.arange(1, 9)
    embeddings = np.concatenate([alike, rng.normal(0, 3, (60, 8))]).astype(np.float32)
    groups = group_alike(embeddings)
    assert sorted(np.concatenate([group.members for group in groups]).tolist()) == list(range(100))
    assert set(groups[0].members.tolist()) >= set(range(40))
    assert groups[0].likeness > max(group.likeness for group in groups[1:] if len(group.members) > 4)
    assert [group.members.tolist() for group in group_alike(embeddings)] == [group.members.tolist() for group in groups]
    assert group_alike(embeddings[:0]) == []
    assert group_alike(np.ones((3, 8), np.float32))[0].likeness == 1


@pytest.mark.parametrize("width_px", [1280, 390])
def test_in_a_browser(well: Path, page: str, tmp_path: Path, width_px: int) -> None:
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
    assert (pixels < 100).mean() > 0.01  # words and bars
    # A page wider than the window would be cut: the margin at the right must be as empty as the one at the left.
    assert (pixels[:, -8:] < 200).mean() < 0.01
