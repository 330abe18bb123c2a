import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from slidepipe import plugins
from slidepipe.cli import main
from slidepipe.config import parse_config
from slidepipe.embedding.embed import embed_crops
from slidepipe.errors import ResultsError, SettingsError
from slidepipe.pipeline.specs import embed_spec
from slidepipe.results import Results
from slidepipe.search import index as search
from slidepipe.store.arrays import write_embeddings
from slidepipe.store.slide_store import SlideStore
from tests.synthetic import make_well


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_well(tmp_path_factory.mktemp("search") / "r", 4, 4, statuses={2: "failed"})


@settings(deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(1, 30),
    st.sampled_from(["cosine", "euclidean"]),
    st.integers(0, 99),
)
def test_nearest_equals_brute_force(rows: int, dim: int, top: int, metric: search.Metric, seed: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(0, 1, (rows, dim)).astype(np.float32)
    lost = rng.random(rows) < 0.2
    embeddings[lost] = 0
    query = rng.normal(0, 1, dim)
    wide = embeddings.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = (
            wide @ query / lengths / np.linalg.norm(query)
            if metric == "cosine"
            else np.linalg.norm(wide - query, axis=1)
        )
    kept = [row for row in np.argsort(-scores if metric == "cosine" else scores, kind="stable") if not lost[row]][:top]
    found, values = search.nearest(embeddings, lengths.astype(np.float32), query, top, metric)
    np.testing.assert_allclose(values, scores[kept], rtol=1e-9)
    assert len(set(found.tolist())) == len(found) == len(kept)
    assert not lost[found].any()


def test_nearest_does_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.normal(0, 1, (500, 8)).astype(np.float32)
    lengths = np.linalg.norm(embeddings, axis=1)
    whole = search.nearest(embeddings, lengths, embeddings[7].astype(float), 9, "cosine")
    monkeypatch.setattr(search, "_BLOCK_ROWS", 64)
    parts = search.nearest(embeddings, lengths, embeddings[7].astype(float), 9, "cosine")
    assert whole[0].tolist() == parts[0].tolist()
    assert whole[0][0] == 7


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_search_finds_same_kind_without_query(well: Path, metric: search.Metric) -> None:
    objects = Results(well).objects
    genus = objects["genus"].value_counts().index[0]
    query = objects.loc[objects["genus"] == genus, "object_id"].iloc[-1]
    hits = search.search([well], query, top=5, metric=metric)
    assert len(hits) == 5
    assert query not in hits["object_id"].tolist()
    assert set(hits["genus"]) == {genus}
    column = hits["similarity" if metric == "cosine" else "distance"]
    assert column.is_monotonic_decreasing if metric == "cosine" else column.is_monotonic_increasing
    first = hits.iloc[0]
    own, other = (np.asarray(Results(well).embedding(name), float) for name in (query, first["object_id"]))
    exact = (
        own @ other / np.linalg.norm(own) / np.linalg.norm(other) if metric == "cosine" else np.linalg.norm(own - other)
    )
    assert column.iloc[0] == pytest.approx(exact, abs=1e-6)
    row = objects.set_index("object_id").loc[first["object_id"]]
    assert first[["slide_id", "x0", "y1", "genus"]].tolist() == row[["slide_id", "x0", "y1", "genus"]].tolist()


def test_search_in_several_folders(well: Path, tmp_path: Path) -> None:
    other = make_well(tmp_path / "other", 2, 4, seed=6, well="15/9-19 A")
    query = Results(well).objects["object_id"].iloc[0]
    hits = search.search([well, other], query, top=10_000)
    assert set(hits["results"]) == {str(well), str(other)}
    assert len(hits) == len(Results(well).objects) + len(Results(other).objects) - 1
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["backbone"]["weights_sha256"] = "00"
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultsError, match=r"embedded with another backbone .*weights_sha256"):
        search.search([well, other], query)


def test_index_is_rebuilt_when_embeddings_change(tmp_path: Path) -> None:
    folder = make_well(tmp_path / "r", 2, 3)
    search.open_index(Results(folder))
    index = folder / ".search" / "embeddings.npy"
    before = index.stat().st_mtime_ns
    search.open_index(Results(folder))
    assert index.stat().st_mtime_ns == before
    slide_id = Results(folder).manifest.slides[0].slide_id
    changed = np.asarray(Results(folder).embeddings(slide_id)[...], np.float32)
    changed[0] = np.nan
    store = SlideStore.in_results(folder, slide_id)
    store.publish("embeddings", "again", {}, lambda group: write_embeddings(group, changed))
    opened = search.open_index(Results(folder))
    assert opened.lengths[0] == 0
    assert (opened.lengths[1:] > 0).all()
    assert opened.object_id(len(opened.lengths) - 1).startswith(opened.slide_ids[-1])
    with pytest.raises(ResultsError, match="has no embedding"):
        search.search([folder], f"{slide_id}:00000")


def test_search_in_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_well(tmp_path / "r", 2, 3)
    written = search.open_index(Results(folder))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (folder / ".search" / "index.json").unlink()
    monkeypatch.setattr(search, "write_index", refuse)
    held = search.open_index(Results(folder))
    np.testing.assert_array_equal(held.embeddings, written.embeddings)
    np.testing.assert_array_equal(held.lengths, written.lengths)


@pytest.fixture
def colours(tmp_path: Path, test_plugins: Path) -> Path:
    """A well whose crops are embedded by a backbone that exists, as a run would have."""
    folder = make_well(tmp_path / "r", 2, 4)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"] = {
        "plugins": [str(test_plugins)],
        "backbone": {"name": "mean-colour", "isolate": False, "companion": None},
    }
    config = parse_config(manifest["settings"], "test")
    plugins.register_files(config.plugins)
    spec = embed_spec(config)
    backbone = plugins.create("backbone", "mean-colour").load("cpu")
    manifest["backbone"] = {**spec.identity(), "weights_sha256": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    results = Results(folder)
    for slide in manifest["slides"]:
        names = [f"{slide['slide_id']}:{row:05d}" for row in range(slide["objects"])]
        embedded = embed_crops(backbone, [results.crop(name) for name in names], names, spec.orientations, spec.batch)
        store = SlideStore.in_results(folder, slide["slide_id"])
        store.publish("embeddings", "mean", {}, lambda group, made=embedded: write_embeddings(group, made))
    return folder


def test_embed_image_equals_run(colours: Path, tmp_path: Path) -> None:
    name = Results(colours).objects["object_id"].iloc[3]
    slide_id, _, row = name.rpartition(":")
    image = tmp_path / "mine.jpg"
    image.write_bytes(Results(colours).crop_reader(slide_id).jpeg(int(row)))
    hits = search.search([colours], str(image), top=3, metric="euclidean")
    assert hits["object_id"].iloc[0] == name
    assert hits["distance"].iloc[0] == pytest.approx(0, abs=1e-4)


def test_changed_backbone_is_an_error(colours: Path, tmp_path: Path) -> None:
    manifest = json.loads((colours / "manifest.json").read_text())
    manifest["backbone"]["version"] = "an older one"
    (colours / "manifest.json").write_text(json.dumps(manifest))
    image = tmp_path / "mine.jpg"
    image.write_bytes(Results(colours).crop_reader(manifest["slides"][0]["slide_id"]).jpeg(0))
    with pytest.raises(ResultsError, match=r"has changed since the run .*version"):
        search.search([colours], str(image))


def test_search_command_writes_page_and_table(well: Path, tmp_path: Path) -> None:
    query = Results(well).objects["object_id"].iloc[0]
    done = CliRunner().invoke(main, ["search", str(well), query, "--top", "7", "--out", str(tmp_path / "s")])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "s" / "search.csv")
    assert table["rank"].tolist() == list(range(1, 8))
    page = (tmp_path / "s" / "search.html").read_text(encoding="utf-8")
    assert re.findall(r"<figcaption><b>(\d)", page) == list("1234567")
    assert all(name in page for name in table["object_id"])
    assert page.count("data:image/jpeg") == 8


@pytest.mark.parametrize("query", ["nothing.jpg", "6407_6-5 9999 mDC:00000"])
def test_unknown_query_is_one_line_error(well: Path, query: str) -> None:
    with pytest.raises(SettingsError, match="neither an image file nor an object"):
        search.search([well], query)
    done = CliRunner().invoke(main, ["search", str(well), query])
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1
