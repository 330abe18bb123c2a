"""The answers of the server over real connections, and the requests that it must reject."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from slidepipe import viewer
from slidepipe.errors import SettingsError
from slidepipe.review.labels import LABELS_FILE, WRONG_BOX, read_labels, read_missed
from slidepipe.viewer.access import is_loopback
from slidepipe.viewer.server import serve
from tests.synthetic import genus_names, make_well
from tests.viewer.view_server import ViewServer, serving

pytest.importorskip("starlette", reason="slidepipe[view] is not installed")
pytest.importorskip("uvicorn", reason="slidepipe[view] is not installed")

GENUS = genus_names(4)[0]
EVIL = "<img src=x onerror=alert(1)>'\"&"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view") / "results"
    return make_well(
        folder, samples=5, genera=4, statuses={0: "failed", 2: "partial"}, name=lambda slide: f"{slide} {EVIL}"
    )


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[ViewServer]:
    with serving(made) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_labels(made: Path) -> None:
    (made / LABELS_FILE).unlink(missing_ok=True)


def first_object(server: ViewServer) -> str:
    return str(server.ask("/api/object/0").json["object_id"])


def test_failures_come_first_on_well_page(server: ViewServer) -> None:
    """The well page shows failures before the chart; pages, scripts and pictures open."""
    page = server.ask("/")
    assert page.status == 200
    text = page.body.decode()
    assert text.index("Not analysed") < text.index("<svg") < text.index('id="samples"')
    assert "1 failed, 1 partial" in text
    assert "/grid?name=" in text[text.index("<svg") : text.index("</svg>")]  # bars link to specimens
    for path in (
        "/grid",
        "/slide/1",
        "/static/grid.js",
        "/static/vendor/openseadragon.min.js",
        "/thumb/3.jpg",
        "/crop/3.jpg",
    ):
        assert server.ask(path).status == 200, path


def test_scripts_build_no_html_and_no_ids() -> None:
    """Scripts make elements, never HTML text, and take ids of objects from the server."""
    scripts = sorted((Path(viewer.__file__).parent / "static").glob("*.js"))
    assert len(scripts) >= 8
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "padStart", "lastIndexOf"):
            assert word not in text, f"{script.name}: {word}"


def test_text_is_compressed_but_pictures_are_not(server: ViewServer) -> None:
    """Pages and data are compressed; JPEGs, which are compressed already, are not."""
    asked = {"Accept-Encoding": "gzip"}
    for path in ("/", "/api/objects?name=all", "/static/vendor/openseadragon.min.js"):
        assert server.ask(path, headers=asked).headers.get("content-encoding") == "gzip", path
    for path in ("/thumb/3.jpg", "/crop/3.jpg"):
        assert "content-encoding" not in server.ask(path, headers=asked).headers


def test_pages_load_nothing_from_other_servers(server: ViewServer) -> None:
    """The security policy forbids other servers, and no page links to one."""
    for path in ("/", "/grid", "/slide/1"):
        answer = server.ask(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        text = answer.body.decode()
        for mark in ('src="http', "src='http", 'href="http', "href='http", "//cdn"):
            assert mark not in text.replace('xlink:href="http://www.w3.org', ""), (path, mark)


def test_html_in_slide_name_is_escaped(server: ViewServer) -> None:
    """A slide name with HTML in it is shown as text."""
    for path in ("/", "/slide/1"):
        text = server.ask(path).body.decode()
        assert "<img src=x" not in text
        assert "&lt;img src=x" in text
    answer = server.ask("/api/slide/1")
    assert EVIL in answer.json["slide_id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../app.py", "/static/%2e%2e/app.py", "/static/..%2f..%2fapp.py", "/static/%2e%2e%2f%2e%2e%2fcli.py",
        "/static//etc/passwd", "/thumb/../../etc/passwd", "/thumb/%2e%2e%2fmanifest.json.jpg", "/tile/../0/0_0.jpg",
        "/slide/..%2f..%2fmanifest.json", "/../manifest.json", "/manifest.json", "/thumb/-1.jpg", "/thumb/999999.jpg",
        "/reference/0/7.jpg", "/slide/99", "/tile/1/99/0_0.jpg", "/api/object/..%2f1",
    ],
)  # fmt: skip
def test_no_path_reaches_other_files(server: ViewServer, path: str) -> None:
    """No address reaches a file outside the viewer, or an object or slide that does not exist."""
    answer = server.ask(path)
    assert answer.status in (400, 404), (path, answer.status)
    assert b"root:" not in answer.body
    assert b'slidepipe": "' not in answer.body


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_other_sites_are_rejected(server: ViewServer, made: Path, headers: dict[str, str]) -> None:
    """Requests that a page of another site makes, or that name another host, read and write nothing."""
    name = first_object(server)
    assert server.ask("/api/objects", headers=headers).status in (403, 421)
    assert server.ask("/thumb/0.jpg", headers=headers).status in (403, 421)
    body = {"labels": [{"object_id": name, "label": GENUS}]}
    assert server.ask("/api/labels", body, headers).status in (403, 421)
    assert not (made / LABELS_FILE).exists()


def test_form_of_other_page_cannot_label(server: ViewServer, made: Path) -> None:
    """A body that is not JSON is rejected, because a form of another site can send it."""
    body = json.dumps({"labels": [{"object_id": first_object(server), "label": ""}]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert server.ask("/api/labels", body, {"Content-Type": kind}).status == 415
    assert not (made / LABELS_FILE).exists()


def test_own_pages_are_answered(server: ViewServer, made: Path) -> None:
    """A label from the viewer's own page is saved as the reference set spells it, with the reviewer's name."""
    name = first_object(server)
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    answer = server.ask(
        "/api/labels", {"labels": [{"object_id": name, "label": GENUS.upper()}], "reviewer": "anna"}, own
    )
    assert answer.status == 200
    assert read_labels(made) == {name: GENUS}  # as the reference set spells it
    assert ",anna,20" in (made / LABELS_FILE).read_text()
    assert server.ask("/api/objects", headers={"Host": f"localhost:{server.port}"}).status == 200


@pytest.mark.parametrize(
    "label",
    ["(withdrawn)", "_debris", "=1+1", "a\nb", "x" * 121, " "],
)
def test_invalid_labels_are_rejected(server: ViewServer, made: Path, label: str) -> None:
    """Labels that cannot be a genus are rejected; a blank one means "not a fossil", as in the file."""
    answer = server.ask("/api/labels", {"labels": [{"object_id": first_object(server), "label": label}]})
    assert answer.status == (200 if label == " " else 400)  # blank is "not a fossil", as in the file
    assert (made / LABELS_FILE).exists() == (label == " ")


def test_words_for_not_a_fossil_are_normalised(server: ViewServer, made: Path) -> None:
    """The server keeps a label as `labels.csv` will be read."""
    name = first_object(server)

    def send(label: str | None, **more: object) -> list[str]:
        answer = server.ask("/api/labels", {"labels": [{"object_id": name, "label": label}], **more})
        assert answer.status == 200
        assert server.ask("/api/labels").json["labels"] == read_labels(made)
        return list(answer.json["left_out"])

    assert send("Debris") == []
    assert read_labels(made) == {name: ""}
    assert send("Wrong box", expected=["debris"]) == []
    assert read_labels(made) == {name: WRONG_BOX}
    assert send("none", expected=[GENUS]) == [name]
    rows = server.ask("/api/counts").json["genera"]
    assert WRONG_BOX not in [row["genus"] for row in rows]


@pytest.mark.parametrize("genus", ["debris", "None", "not a fossil", "wrong box"])
def test_drawn_box_needs_a_genus(server: ViewServer, made: Path, genus: str) -> None:
    """A drawn box is not saved, and not relabelled, with a label that is not a genus: it would be lost."""
    slide = server.ask("/api/slide/1").json
    x0, y0, _, _ = slide["bounds"]
    body = {"slide_id": slide["slide_id"], "genus": genus, "box": [x0, y0, x0 + 50, y0 + 60]}
    rejected = server.ask("/api/missed", body)
    assert rejected.status == 400
    assert "is not a genus" in rejected.json["error"]
    assert not (made / LABELS_FILE).exists()
    kept = server.ask("/api/missed", {**body, "genus": GENUS}).json["object_id"]
    assert server.ask("/api/labels", {"labels": [{"object_id": kept, "label": genus}]}).status == 400
    assert [item.genus for item in read_missed(made)] == [GENUS]


def test_labels_of_changed_boxes_are_not_shown(server: ViewServer, made: Path) -> None:
    """A label whose object has another box now is not shown, and is counted as stale."""
    name = first_object(server)
    (made / LABELS_FILE).write_text(
        f"object_id,genus,slide_id,x0,y0,x1,y1,who,when\n{name},{GENUS},a,1,2,3,4,,2026-01-01\n"
    )
    assert server.ask("/api/labels").json["labels"] == {}
    assert server.ask("/api/counts").json["stale"] == 1
    assert server.ask("/api/labels", {"labels": [{"object_id": name, "label": GENUS}]}).status == 200
    assert server.ask("/api/labels").json["labels"] == {name: GENUS}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/labels", "not json", 400),
        ("/api/labels", {"labels": [], "more": 1}, 400),
        ("/api/labels", {"labels": [{"object_id": "../../etc:00001", "label": "a"}]}, 404),
        ("/api/labels", {"labels": [{"object_id": "x:missed-0009", "label": None}]}, 404),
        ("/api/missed", {"slide_id": "../..", "box": [600, 300, 700, 400], "genus": "a"}, 404),
    ],
)
def test_invalid_requests_write_nothing(server: ViewServer, made: Path, path: str, body: object, status: int) -> None:
    """Invalid requests are answered with an error and write no label."""
    assert server.ask(path, body).status == status
    assert not (made / LABELS_FILE).exists()


def test_drawn_box_must_lie_on_scan(server: ViewServer, made: Path) -> None:
    """A drawn box outside the scanned part, or too small, is rejected; a valid one can be deleted."""
    slide = server.ask("/api/slide/1").json
    x0, y0, x1, y1 = slide["bounds"]
    ask = {"slide_id": slide["slide_id"], "genus": GENUS}
    for box in (
        [x0 - 1, y0, x0 + 50, y0 + 50],
        [x0, y0, x0 + 2, y0 + 50],
        [x0 + 50, y0, x0, y0 + 50],
        [x0, y0, x1 + 1, y1],
    ):
        assert server.ask("/api/missed", {**ask, "box": box}).status == 400
    answer = server.ask("/api/missed", {**ask, "box": [x0, y0, x0 + 50, y0 + 60]})
    assert answer.status == 200
    (item,) = read_missed(made)
    assert (item.object_id, item.box) == (answer.json["object_id"], (x0, y0, x0 + 50, y0 + 60))
    gone = server.ask("/api/labels", {"labels": [{"object_id": item.object_id, "label": None}]})
    assert gone.status == 200
    assert read_missed(made) == []


def test_counts_follow_labels(server: ViewServer, made: Path) -> None:
    """A label changes the reviewed counts at once."""

    def counts() -> dict[str, tuple[int, int]]:
        return {row["genus"]: (row["count"], row["reviewed"]) for row in server.ask("/api/counts").json["genera"]}

    before = counts()
    assert all(count == reviewed for count, reviewed in before.values())
    objects = pd.read_parquet(made / "objects.parquet")
    accepted = objects[objects["state"] == "accepted"]
    name, genus = accepted["object_id"].iloc[0], str(accepted["genus"].iloc[0])
    other = next(other for other in before if other != genus)
    server.ask("/api/labels", {"labels": [{"object_id": name, "label": other}]})
    after = counts()
    assert after[genus] == (before[genus][0], before[genus][1] - 1)
    assert after[other] == (before[other][0], before[other][1] + 1)


def test_objects_are_selected_and_sorted(server: ViewServer, made: Path) -> None:
    """Each query returns the selected objects in the requested order."""
    objects = pd.read_parquet(made / "objects.parquet")
    genus = str(objects["genus"].dropna().iloc[0])

    def ids(query: str) -> list[int]:
        return list(server.ask(f"/api/objects?{query}").json["number"])

    answer = server.ask("/api/objects?name=all&sort=far").json
    assert answer["object_id"] == objects["object_id"].iloc[answer["number"]].tolist()
    wanted = objects[objects["genus"] == genus]
    certain = ids(f"name={genus}&sort=certain")
    assert objects["p_value"].iloc[certain].is_monotonic_decreasing
    assert set(certain) == set(wanted.index)
    assert objects["p_value"].iloc[ids(f"name={genus}&sort=uncertain")].is_monotonic_increasing
    assert objects["distance"].iloc[ids("name=unknown&sort=near")].is_monotonic_increasing
    assert objects["depth_m"].iloc[ids("name=all&sort=depth")].is_monotonic_increasing
    shuffled = ids("name=all&sort=random&seed=3")
    assert sorted(shuffled) == list(range(len(objects)))
    assert shuffled != sorted(shuffled)
    assert ids("name=all&sort=review") == []
    sample = str(objects["sample_id"].iloc[-1]).replace(" ", "%20")
    assert set(ids(f"name=all&sample={sample}")) == set(
        objects.index[objects["sample_id"] == objects["sample_id"].iloc[-1]]
    )
    name = str(wanted["object_id"].iloc[0])
    server.ask("/api/labels", {"labels": [{"object_id": name, "label": ""}]})
    assert ids("name=all&labelled=yes") == [int(wanted.index[0])]
    assert int(wanted.index[0]) not in ids("name=all&labelled=no")
    assert server.ask("/api/objects?sort=sideways").status == 400


def test_missing_scan_is_reported(server: ViewServer) -> None:
    """Without the scan the objects of a slide are still sent, with the reason why the scan cannot be shown."""
    slide = server.ask("/api/slide/1").json
    assert "no such file" in slide["missing"]
    assert len(slide["boxes"]) == len(slide["number"]) > 0
    answer = server.ask("/tile/1/8/0_0.jpg")
    assert answer.status == 404
    assert b"no such file" in answer.body
    assert server.ask("/slide/0").status == 200  # the failed slide has a page that says why it is empty
    assert server.ask("/api/slide/0").status == 404


def test_rewritten_results_are_read_again(tmp_path: Path, made: Path) -> None:
    """While a run writes the tables the server reports it; afterwards it reads them again."""
    folder = tmp_path / "r"
    shutil.copytree(made, folder)
    with serving(folder) as running:
        assert running.ask("/thumb/0.jpg?v=done").status == 200
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "tables": None}))
        rejected = running.ask("/api/objects")
        assert rejected.status == 503
        assert "Run the same command again" in rejected.json["error"]
        (folder / "manifest.json").write_text(json.dumps({**manifest, "tables": "other"}))
        assert running.ask("/api/objects").json["version"] == "other"
        assert running.ask("/thumb/0.jpg?v=done").status == 409


def test_other_machines_need_token(made: Path) -> None:
    """If other machines can reach the server, every request needs the token, and the cookie to write."""
    with serving(made, "--host", "0.0.0.0", "--port", "0") as running:  # noqa: S104  # the test is about such addresses
        token = running.address.partition("token=")[2]
        assert len(token) >= 30
        for path in ("/", "/grid", "/api/objects", "/thumb/0.jpg", "/static/grid.js", "/?token=wrong", "/?token="):
            assert running.ask(path).status == 401, path
        cookie_name = f"slidepipe_token_{running.port}"
        assert running.ask("/", headers={"Cookie": f"{cookie_name}=wrong"}).status == 401
        body = {"labels": [{"object_id": "x:00000", "label": ""}]}
        assert running.ask(f"/api/labels?token={token}", body).status == 401  # writing needs the cookie
        entered = running.ask(f"/grid?name=all&token={token}")
        assert entered.status == 303
        assert entered.headers["location"] == "/grid?name=all"  # the token leaves the address bar
        assert running.ask(f"//evil.example/?token={token}").headers.get("location", "/").startswith("/evil")
        cookie = entered.headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert "samesite=strict" in cookie.lower()
        inside = {"Cookie": cookie.partition(";")[0]}
        assert running.ask("/grid", headers=inside).status == 200
        assert running.ask("/grid", headers={**inside, "Host": "evil.example"}).status == 421
        assert running.ask("/grid", headers={**inside, "Origin": "http://evil.example"}).status == 403


def test_invalid_host_port_or_folder_is_an_error(made: Path, tmp_path: Path, server: ViewServer) -> None:
    """A port in use, an unknown host and a missing folder are errors that name the option."""
    with pytest.raises(SettingsError, match="the server cannot listen there"):
        serve(made, "127.0.0.1", server.port, None, print)
    with pytest.raises(SettingsError, match="not an address of this machine"):
        serve(made, "no.such.host.invalid", 0, None, print)
    with pytest.raises(SettingsError, match="no such folder"):
        serve(made, "127.0.0.1", 0, tmp_path / "gone", print)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "example.org")] == [  # noqa: S104
        True, True, True, False, False, False,
    ]  # fmt: skip
