"""The pages in a real browser, on the sample well: view, label, undo, draw, and the effect on the counts."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import threadpoolctl

from slidepipe.config import load_config
from slidepipe.html import taxon_name
from slidepipe.pipeline.flow import run_well
from slidepipe.review.labels import LABELS_FILE, WRONG_BOX, read_labels, read_missed
from tests.synthetic import make_well
from tests.viewer.view_server import ROOT, ViewServer, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    # Chromium's pipes are closed by the garbage collector once Playwright has stopped it.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

#: Folder for the pictures of the documentation. If it is given, the tests run on the whole sample well.
SCREENSHOTS = os.environ.get("SLIDEPIPE_SCREENSHOTS")

SECOND = "6407_6-5 1715,5 mSWC.svs"

EVIL = "<img src=x onerror=alert(1)>"

#: Texts whose contrast with their background is below 4.5 (WCAG 2.2, 1.4.3, AA).
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const low = [];
  for (const node of document.querySelectorAll("body *:not(svg *)")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility({ visibilityProperty: true }) || node.disabled) continue;
    let back = node;
    while (back && (parse(getComputedStyle(back).backgroundColor)[3] ?? 1) < 1) back = back.parentElement;
    const ground = back ? getComputedStyle(back).backgroundColor : "rgb(255, 255, 255)";
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(parse(ground))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${node.tagName} ${node.className} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two slides of the sample well with some of its reference crops; the whole well if pictures are wanted."""
    folder = tmp_path_factory.mktemp("browser")
    sample = ROOT / "sample_slides"
    well, reference, changes = sample / "well", sample / "reference", {}
    if not SCREENSHOTS:
        well, reference = folder / "well", folder / "reference"
        well.mkdir()
        shutil.copy(sample / "well" / "6407_6-5 1200 mDC.svs", well)
        shutil.copy(sample / "well" / SECOND, well)
        for genus in sorted((sample / "reference").iterdir()):
            (reference / genus.name).mkdir(parents=True)
            for image in sorted(genus.iterdir())[:12]:
                shutil.copy(image, reference / genus.name)
        changes = {"head": {"alpha": 0.1}, "backbone": {"orientations": 1}}
    changes |= {"reference": str(reference), "run": {"scheduler": "threads", "workers": 2}}
    # Two workers with one thread each: more threads than cores make this run several times as long.
    with pytest.MonkeyPatch.context() as patch, threadpoolctl.threadpool_limits(1):
        patch.setenv("SLIDEPIPE_CACHE", str(folder / "cache"))
        assert run_well(well, folder / "results", load_config(ROOT / "configs" / "demo.yaml", changes)).exit_status == 0
    return folder / "results"


@pytest.fixture(scope="module")
def server(finished: Path) -> Iterator[ViewServer]:
    with serving(finished) as running:
        yield running


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """Serve more than a thousand objects on slides whose scans are gone and whose names have HTML in them."""
    folder = tmp_path_factory.mktemp("crowded") / "r"
    make_well(folder, samples=3, genera=4, objects=500, name=lambda slide: f"{slide} {EVIL}", close=False)
    with serving(folder) as running:
        yield running


@pytest.fixture
def results(finished: Path) -> Path:
    """Return the results that `server` serves, without labels."""
    (finished / LABELS_FILE).unlink(missing_ok=True)
    return finished


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """Open a page with a profile of its own. Errors, dialogs and requests to other machines fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    opened.on(
        "request",
        lambda sent: wrong.append(sent.url) if "//127.0.0.1" not in sent.url and sent.url[:5] == "http:" else None,
    )
    opened.set_default_timeout(15_000)
    yield opened
    context.close()
    assert wrong == []


def until(page: Any, true: str, arg: Any = None) -> None:
    """Wait until an expression, or a function of `arg`, is true. Playwright's own waiting needs eval, which the pages forbid."""
    ends = time.monotonic() + 20
    while not is_true(page, true, arg):
        assert time.monotonic() < ends, f"never: {true} ({arg})"
        page.wait_for_timeout(40)


def is_true(page: Any, true: str, arg: Any) -> bool:
    try:
        return bool(page.evaluate(true, arg))
    except sync_api.Error as error:
        if "context was destroyed" not in str(error):  # the browser is loading another page
            raise
        return False


def picture(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.jpg", type="jpeg", quality=72)


def open_grid(page: Any, server: ViewServer, query: str) -> None:
    page.goto(f"{server.url}/grid?{query}")
    until(page, "document.querySelectorAll('.cell img').length > 0 && document.activeElement.id === 'grid'")
    until(page, "[...document.querySelectorAll('.cell img')].every((image) => image.complete)")


def written(results: Path, count: int) -> dict[str, str]:
    """Return the stored labels. The page shows a label before the server has written it, so wait for `count` of them."""
    deadline = time.monotonic() + 10
    while len(labels := read_labels(results)) != count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(labels) == count, labels
    return labels


def wait_for_status(page: Any, text: str) -> None:
    until(page, "(text) => document.getElementById('status').textContent.includes(text)", text)


def wait_for_reviewed(page: Any, number: int) -> None:
    until(page, "(n) => document.getElementById('reviewed')?.textContent === String(n)", number)


def click_bar(page: Any, depth: str, genus: str) -> None:
    """Click on the bar of a genus. Playwright cannot: a line has no height, so it counts as invisible."""
    bar = f"""() => {{
      const path = document.querySelector("svg a[*|href*='{depth}'][*|href*='name={genus}'] path");
      path.scrollIntoView({{ block: "center" }});
      const box = path.getBoundingClientRect();
      return [box.left + box.width / 4, box.top + box.height / 2];
    }}"""
    page.mouse.click(*page.evaluate(bar))


def drag_box(page: Any, share: tuple[float, float, float, float]) -> None:
    """Drag over the viewer from (x0, y0) to (x1, y1), in fractions of its width and height."""
    box = page.locator("#viewer").bounding_box()
    x0, y0, x1, y1 = (
        box["x" if k % 2 == 0 else "y"] + box["width" if k % 2 == 0 else "height"] * share[k] for k in range(4)
    )
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2, steps=4)
    page.mouse.move(x1, y1, steps=4)
    page.mouse.up()


def test_labels_change_counts(page: Any, server: ViewServer, results: Path) -> None:
    """View, label, undo and draw: the counts on the pages and in the tables follow."""
    before = pd.read_csv(results / "counts.csv").set_index("sample_id")
    page.goto(server.url)
    page.wait_for_selector("#counts tbody tr")
    assert page.evaluate(CONTRAST) == []
    picture(page, "view-well")

    # A bar of the chart links to the specimens of its sample and genus.
    sample, genus = "6407/6-5 1200 mDC", "deflandrea"
    click_bar(page, "1200", genus)
    until(page, "document.activeElement?.id === 'grid' && document.querySelectorAll('.cell').length > 0")
    assert page.eval_on_selector("#name", "box => box.value") == genus
    assert page.eval_on_selector("#sample", "box => box.value") == sample
    shown = int(before.loc[sample, genus])
    wait_for_status(page, f"{shown} specimens")
    counted = int(before[genus].sum())
    wait_for_reviewed(page, counted)

    # Five are labelled: by a number key, by the first letters of a name, two at once and one as not a fossil. One step is undone.
    palette = page.locator("#palette button").all_inner_texts()
    other = next(place for place, text in enumerate(palette[:9], 1) if genus.capitalize() not in text)
    page.keyboard.press(str(other))
    page.keyboard.type("tas")
    page.wait_for_selector("#choices li[aria-selected=true]")
    page.keyboard.press("Enter")
    wait_for_status(page, "Tasmanites")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("0")
    wait_for_status(page, "2 specimens: not a fossil")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Delete")
    wait_for_reviewed(page, counted - 5)
    assert page.locator(".cell .label:visible").count() == 5
    assert page.evaluate(CONTRAST) == []
    picture(page, "view-specimens")
    page.keyboard.press("Control+z")
    wait_for_reviewed(page, counted - 4)
    labels = written(results, 4)
    assert sorted(labels.values())[:2] == ["", ""]
    assert "tasmanites" in labels.values()

    # A fossil that the detector missed is drawn on the slide.
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[data-ready]")
    page.wait_for_selector("#panel .neighbours img")
    until(page, "Number(document.getElementById('boxes').dataset.shown) > 0")
    assert "p-value" in page.locator("#panel").inner_text()
    assert page.evaluate(CONTRAST) == []
    if SCREENSHOTS:
        page.wait_for_timeout(1200)  # the viewer moves to the object and loads its tiles
    picture(page, "view-slide")
    page.locator("#draw").click()
    drag_box(page, (0.1, 0.6, 0.3, 0.8))
    page.wait_for_selector("dialog[open]")
    page.keyboard.type(genus)
    page.keyboard.press("Enter")
    wait_for_status(page, "missed-0001")
    (drawn,) = read_missed(results)
    assert drawn.genus == genus
    x0, y0, x1, y1 = drawn.box
    assert min(x1 - x0, y1 - y0) > 10
    page.select_option("#name", genus)
    wait_for_reviewed(page, counted - 3)

    # The well page shows the new counts, and so do the tables after a report.
    page.goto(server.url)
    row = page.locator(f"#counts tr[data-genus={genus}] td")
    row.first.wait_for()
    assert row.all_inner_texts()[1:4] == [str(counted), str(counted - 3), "1"]
    done = subprocess.run(
        [sys.executable, "-m", "slidepipe.cli", "report", str(results)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = pd.read_csv(results / "counts.csv").set_index("sample_id")
    assert (after[genus] == before[genus]).all()  # the raw counts do not change
    assert after[f"reviewed_{genus}"].sum() == counted - 3
    assert after.loc[sample, f"reviewed_{genus}"] == shown - 3
    assert (after.loc[sample, "labelled"], after.loc[sample, "missed"]) == (4, 1)
    report = (results / "report.html").read_text(encoding="utf-8")
    assert "4 objects have a label, and 1 fossils were drawn by hand" in report
    assert (
        f'<i>{taxon_name(genus)}</i></td><td class="number">{shown}</td><td class="number">{shown - 3}</td>' in report
    )


def test_killed_server_loses_no_label(page: Any, finished: Path, tmp_path: Path) -> None:
    """Labels that were saved before the server was killed are there after a restart, and can be undone."""
    results = tmp_path / "results"
    shutil.copytree(finished, results, ignore=shutil.ignore_patterns(LABELS_FILE))
    with serving(results) as first:
        port = str(first.port)
        open_grid(page, first, "name=all&sort=certain")
        for _ in range(3):
            page.keyboard.press("0")
        wait_for_status(page, "not a fossil")
        until(page, "document.querySelectorAll('.cell.rejected').length === 3")
        lines = "(await (await fetch('/api/labels')).json()).labels"
        until(page, f"(async () => Object.keys({lines}).length === 3)()")
        first.kill()
        kept = written(results, 3)
        page.keyboard.press("0")  # there is no server: the page reports it and takes the label back
        until(page, "document.getElementById('alert').textContent.startsWith('Not saved')")
        assert page.locator(".cell.rejected").count() == 3
        until(page, "document.getElementById('alert').textContent.includes('The server does not answer')")
    with (results / LABELS_FILE).open("a") as file:
        file.write("6407_6-5 1200 mDC:00001,ta")  # as if the server had been killed while it wrote
    with serving(results, "--port", port):
        until(
            page, "document.getElementById('alert').textContent.startsWith('Not saved')"
        )  # until the message is dismissed
        page.locator("#dismiss").click()
        until(page, "document.getElementById('alert').hidden")
        page.locator("#grid").focus()
        page.keyboard.press("0")
        wait_for_status(page, "not a fossil")
        until(page, f"(async () => Object.keys({lines}).length === 4)()")
        assert kept.items() <= written(results, 4).items()
        page.reload()
        until(page, "document.querySelectorAll('.cell.rejected').length === 4")
        page.keyboard.press("Control+z")  # labels from before the kill can still be undone
        until(page, "document.querySelectorAll('.cell.rejected').length === 3")


def test_two_tabs_keep_each_others_labels(page: Any, server: ViewServer, results: Path) -> None:
    """Two tabs may label at the same time; an undo keeps newer labels of the other tab."""
    other = page.context.new_page()
    open_grid(page, server, "name=all&sort=certain")
    open_grid(other, server, "name=all&sort=certain")
    for _ in range(4):
        page.keyboard.press("0")
        other.keyboard.press("End")
        other.keyboard.press("1")
        other.keyboard.press("Shift+ArrowLeft")
        other.keyboard.press("2")
    wait_for_status(other, "2 specimens")
    until(page, "document.querySelectorAll('.cell.rejected').length === 4")
    written(results, 6)
    # Each tab shows the labels of the other.
    other.keyboard.press("Home")
    until(other, "document.querySelectorAll('.cell.rejected').length === 4")
    # An undo in one tab does not undo newer labels of the other.
    other.keyboard.press("1")
    wait_for_status(other, ": ")
    first = page.locator("#cell-0").get_attribute("title")
    until(page, "document.querySelectorAll('.cell.rejected').length === 3")
    for _ in range(4):
        page.keyboard.press("Control+z")
    wait_for_status(page, "another tab has labelled since")
    genera = page.evaluate("JSON.parse(document.getElementById('page').dataset.settings).genera")
    assert written(results, 3)[first] == genera[0]
    other.close()


def test_drag_selects_many(page: Any, server: ViewServer, results: Path) -> None:
    """A rectangle selects the specimens in it; one label and one undo apply to all."""
    open_grid(page, server, "name=unknown&sort=near")
    start, end = page.locator("#cell-0").bounding_box(), page.locator("#cell-11").bounding_box()
    columns = page.evaluate(
        "new Set([...document.querySelectorAll('.cell')].map((cell) => cell.style.transform.split(',')[0])).size"
    )
    page.mouse.move(start["x"] + 20, start["y"] + 20)
    page.mouse.down()
    page.mouse.move(end["x"] + 40, end["y"] + 40, steps=6)
    page.mouse.up()
    wide = 11 % columns + 1
    selected = page.locator(".cell[aria-selected=true]").count()
    assert selected == wide * (11 // columns + 1) > 1
    page.locator("#not-a-fossil").click()
    wait_for_status(page, f"{selected} specimens: not a fossil")
    assert set(written(results, selected).values()) == {""}
    page.locator("#undo").click()
    wait_for_status(page, "Undone")
    written(results, 0)


def test_new_genus_can_be_named(page: Any, server: ViewServer, results: Path) -> None:
    """A genus that is not in the reference set can be typed."""
    open_grid(page, server, "name=unknown&sort=near")
    page.keyboard.type("wetzeliella")
    page.wait_for_selector("#choices li.new")
    page.keyboard.press("Enter")
    wait_for_status(page, "Wetzeliella")
    assert list(written(results, 1).values()) == ["wetzeliella"]


def test_unsaved_label_is_reported_until_dismissed(page: Any, server: ViewServer, results: Path) -> None:
    """If the disk is full, the page takes the label back and shows a message until it is dismissed."""
    resource = pytest.importorskip("resource", reason="no limits on what a process may write")
    open_grid(page, server, "name=all&sort=certain")
    page.keyboard.press("0")
    wait_for_status(page, "not a fossil")
    kept = written(results, 1)
    limit, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, hard))  # as if the disk were full
    try:
        name = page.locator(".cell.current").get_attribute("title")
        page.keyboard.press("1")
        until(page, "document.getElementById('alert').textContent.startsWith('Not saved')")
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, hard))
    message = page.locator("#alert").inner_text()
    assert name in message
    assert "labels.csv: cannot be written" in message
    assert page.evaluate("document.documentElement.scrollHeight") <= 800
    assert page.locator(".cell .label:visible").count() == 1
    assert written(results, 1) == kept
    # The next label is saved; that does not hide the message about the lost one.
    page.keyboard.press("2")
    until(page, "document.querySelectorAll('.cell .label:not([hidden])').length === 2")
    until(page, "(async () => Object.keys((await (await fetch('/api/labels')).json()).labels).length === 2)()")
    assert page.locator("#alert").inner_text().startswith("Not saved")
    page.locator("#dismiss").click()
    assert page.locator("#alert").is_hidden()


def test_pending_labels_are_written_before_leaving(page: Any, server: ViewServer, results: Path) -> None:
    """Labels that are still waiting are written before another page opens."""
    open_grid(page, server, "name=all&sort=certain")
    for _ in range(5):
        page.keyboard.press("Shift+Delete")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[data-ready]")
    assert set(written(results, 5).values()) == {WRONG_BOX}


def test_confirm_needs_visible_names(page: Any, server: ViewServer, results: Path) -> None:
    """Space confirms the genus that is shown, but nothing while names are hidden."""
    open_grid(page, server, "name=tasmanites&sort=uncertain")
    page.keyboard.press("Space")
    wait_for_status(page, "1 confirmed")
    assert list(written(results, 1).values()) == ["tasmanites"]
    page.locator("#hide-names").check()
    page.locator("#grid").focus()
    assert "Tasmanites" not in page.locator(".cell .name").all_inner_texts()
    page.keyboard.press("Space")
    wait_for_status(page, "Names are hidden")
    written(results, 1)


def test_slide_page_by_keyboard(page: Any, server: ViewServer, results: Path) -> None:
    """Zoom, move, step, reject, draw, delete and undo work without a mouse."""
    page.goto(f"{server.url}/slide/1")
    page.wait_for_selector("#viewer[data-ready]")
    um = float(page.locator("#scale").get_attribute("data-um"))
    page.locator("#viewer").focus()
    assert page.evaluate("document.activeElement.getAttribute('role')") == "application"
    for _ in range(3):
        page.keyboard.press("+")
    until(page, "(um) => Number(document.getElementById('scale').dataset.um) < um", um)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("0")
    until(page, "(um) => Number(document.getElementById('scale').dataset.um) === um", um)
    page.keyboard.press(".")
    page.wait_for_selector("#panel #wrong-box")
    until(page, "(um) => Number(document.getElementById('scale').dataset.um) < um", um)  # the scan is enlarged
    page.keyboard.press("Delete")
    wait_for_status(page, "not a fossil")
    assert list(written(results, 1).values()) == [""]
    page.keyboard.press("Shift+Delete")
    wait_for_status(page, "wrong box")
    assert list(written(results, 1).values()) == [WRONG_BOX]
    page.keyboard.press("n")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Enter")
    wait_for_status(page, "missed-0001")
    (drawn,) = read_missed(results)
    page.locator("#wrong-box").click()
    until(page, "document.getElementById('panel').textContent.includes('This box is deleted')")
    assert read_missed(results) == []
    assert (
        page.evaluate("document.activeElement.getAttribute('role')") == "application"
    )  # the button with the focus is gone
    page.locator("#undo").click()
    wait_for_status(page, "Undone")
    assert read_missed(results) == [drawn]


def test_filters_hide_boxes(page: Any, server: ViewServer) -> None:
    """Boxes of other states and genera are hidden."""
    page.goto(f"{server.url}/slide/0")
    page.wait_for_selector("#viewer[data-ready]")
    until(page, "Number(document.getElementById('boxes').dataset.shown) > 100")
    page.locator(".state[value=unknown]").uncheck()
    until(page, "Number(document.getElementById('boxes').dataset.shown) < 100")
    page.select_option("#name", "tasmanites")
    until(page, "Number(document.getElementById('boxes').dataset.shown) < 10")


def test_html_in_names_and_missing_scan(page: Any, crowded: ViewServer) -> None:
    """Names with HTML in them are text on every page; without its scan a slide still shows boxes and crops."""
    page.goto(crowded.url)
    page.wait_for_selector("#counts tbody tr")
    assert page.locator("img").count() == 0
    open_grid(page, crowded, "name=all")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[data-ready]")
    page.wait_for_selector("#panel .crop")
    assert "The scan cannot be shown" in page.locator("#missing").inner_text()
    assert EVIL in page.locator("#panel h2").inner_text()
    assert EVIL in page.title()
    assert page.locator("#draw").is_disabled()
    until(page, "Number(document.getElementById('boxes').dataset.shown) > 0")


@pytest.mark.parametrize("size", [(820, 1180), (390, 844)], ids=["tablet", "phone"])
@pytest.mark.parametrize("path", ["/", "/grid?name=unknown", "/slide/0"])
def test_narrow_screen_has_no_horizontal_scrolling(
    browser: Any, server: ViewServer, path: str, size: tuple[int, int]
) -> None:
    """On a tablet and a phone no page is wider than the screen."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, has_touch=True)
    tablet = context.new_page()
    tablet.goto(server.url + path)
    tablet.wait_for_selector("#counts tbody tr, .cell img, #viewer[data-ready]")
    assert tablet.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert tablet.evaluate(CONTRAST) == []
    if path.startswith("/grid"):  # a tap goes to a specimen; with the button, a drag of the finger selects
        tablet.touchscreen.tap(200, tablet.locator("#cell-1").bounding_box()["y"] + 40)
        until(tablet, "document.querySelector('.cell.current').dataset.place !== '0'")
        tablet.locator("#drag-select").tap()
        assert tablet.locator("#drag-select").get_attribute("aria-pressed") == "true"
    if SCREENSHOTS and path != "/" and size[0] == 820:
        tablet.screenshot(path=Path(SCREENSHOTS) / f"tablet{path[:3].replace('/', '-')}.png")
    context.close()


def test_grid_draws_only_visible_specimens(page: Any, crowded: ViewServer) -> None:
    """Of more than a thousand specimens only those near the visible part are elements of the page."""
    open_grid(page, crowded, "name=all&sort=depth")
    total = int(page.locator("#status").inner_text().split()[0])
    assert total > 1500
    assert page.locator(".cell").count() < 150
    page.keyboard.press("End")
    until(page, "(last) => document.querySelector('.cell.current')?.dataset.place === String(last)", total - 1)
    assert page.locator(".cell").count() < 150
