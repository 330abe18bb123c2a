from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slidepipe.classification.reference_set import DEBRIS, ReferenceSet
from slidepipe.config import Config, parse_config
from slidepipe.errors import ResultsError
from slidepipe.pipeline.flow import run_well
from slidepipe.results import Results
from slidepipe.review.draw import sample_review
from slidepipe.review.labels import JOURNAL_COLUMNS, LABELS_FILE, WITHDRAWN, WRONG_BOX
from slidepipe.review.references import (
    file_of_object,
    find_reviewed,
    join_reviewed,
    object_of_file,
)
from slidepipe.store.manifest import read_manifest
from slidepipe.store.object_id import MissedId


@pytest.fixture(scope="module")
def reviewed(colour_well: Path, test_plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    config = parse_config(
        {
            "reference": colour_well / "reference",
            "plugins": [test_plugins],
            "backbone": {"name": "mean-colour", "orientations": 1},
            "head": {"name": "knn", "settings": {"metric": "euclidean"}},
            "run": {"scheduler": "threads", "workers": 1},
        },
        "test",
    )
    out = tmp_path_factory.mktemp("reviewed") / "results"
    run_well(colour_well / "well", out, config)
    rows = sample_review(out, 1000)
    rows["genus"] = [name if number % 6 else "a new genus" for number, name in enumerate(rows["candidate"])]
    rows.to_csv(out / "review.csv", index=False)
    return config, out


def test_reviewed_objects_serve_other_slides(colour_well: Path, reviewed: tuple[Config, Path]) -> None:
    """Reviewed objects become neighbours of objects on other slides only."""
    config, out = reviewed
    again = config.model_copy(update={"reference_results": (out,)})
    assert run_well(colour_well / "well", out, again).redone
    assert not run_well(colour_well / "well", out, again).redone
    review = pd.read_csv(out / "review.csv")
    slide_of = {str(out.resolve() / crop): name for crop, name in zip(review["crop"], review["slide_id"], strict=True)}
    genus_of = {str(out.resolve() / crop): name for crop, name in zip(review["crop"], review["genus"], strict=True)}
    across = 0
    for slide_id, nearest in zip(*(Results(out).objects[name] for name in ("slide_id", "nearest")), strict=True):
        for neighbour in nearest if nearest is not None else ():
            if neighbour["reference"] in slide_of:
                assert slide_of[neighbour["reference"]] != slide_id
                assert genus_of[neighbour["reference"]] == neighbour["genus"] != "a new genus"
                assert Path(neighbour["reference"]).exists()
                across += 1
    assert across > 0


def test_unusable_reference_results(colour_well: Path, reviewed: tuple[Config, Path], tmp_path: Path) -> None:
    """Results that cannot serve as references are an error before any work starts."""
    config, out = reviewed
    with pytest.raises(ResultsError, match="no reviewed objects here"):
        run_well(colour_well / "well", tmp_path / "r", config.model_copy(update={"reference_results": (tmp_path,)}))
    other = {"name": "mean-colour", "views": 8}
    with pytest.raises(ResultsError, match="was embedded with another backbone"):
        find_reviewed([out], ["amberina"], other, tmp_path / "r")
    assert find_reviewed([out], ["amberina"], other, out)  # this run's own results are embedded again


def write_journal(
    results: Path, lines: list[tuple[str, str]], boxes: dict[str, tuple[int, int, int, int]] | None = None
) -> None:
    """Write a journal as the viewer does, from lines of object id and label."""
    objects = Results(results).objects.set_index("object_id")
    rows = []
    for name, genus in lines:
        box = (boxes or {}).get(name, (1, 2, 30, 40))
        if name in objects.index and name not in (boxes or {}):
            box = tuple(objects.loc[name, ["x0", "y0", "x1", "y1"]])
        rows.append([name, genus, name.rpartition(":")[0], *box, "", "2026-01-01T00:00:00+00:00"])
    pd.DataFrame(rows, columns=list(JOURNAL_COLUMNS)).to_csv(results / LABELS_FILE, index=False)


def test_objects_outside_draw(
    colour_well: Path, reviewed: tuple[Config, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Objects labelled outside a draw join by their box."""
    config, _ = reviewed
    out = tmp_path / "results"
    run_well(colour_well / "well", out, config)
    backbone = {key: read_manifest(out).backbone[key] for key in ("name", "views")}
    genera = sorted({path.name for path in (colour_well / "reference").iterdir()})
    objects = Results(out).objects
    names = objects["object_id"].tolist()
    genus = next(name for name in genera if not name.startswith("_"))
    write_journal(
        out,
        [
            (names[0], genus), (names[1], genus.upper()), (names[2], WRONG_BOX), (names[3], genus), (names[3], WITHDRAWN),
            (names[4], "not a fossil"), (str(MissedId(objects["slide_id"][0], 1)), genus), (names[5], "another genus"),
        ],
    )  # fmt: skip
    found = find_reviewed([out], genera, backbone, tmp_path / "other")
    assert {(item.file, item.genus) for item in found} == {
        (file_of_object(out.resolve(), names[0]), genus),
        (file_of_object(out.resolve(), names[1]), genus),
        (file_of_object(out.resolve(), names[4]), DEBRIS),
    }
    dim = Results(out).embedding(names[0]).size
    alone = ReferenceSet(*np.zeros((2, 1, dim), np.float32), np.array([genus]), np.array(["a.jpg"]), "f", None)
    joined = join_reviewed(alone, found)
    assert joined.all.genera.tolist() == [genus] * 3  # one object of debris is too few for a class
    assert np.array_equal(joined.all.embeddings[1:], np.stack([Results(out).embedding(name) for name in names[:2]]))
    assert np.array_equal(joined.all.crop_like[1:], joined.all.embeddings[1:])  # an object exists only as a crop
    assert object_of_file(joined.all.files[1]) == (out.resolve(), names[0])
    assert len(joined.without_slide(found[0].slide).files) < 3

    # Another detector gives other ids. The box identifies the object; an object that is not detected is left out with a warning.
    moved, gone = tuple(objects.loc[0, ["x0", "y0", "x1", "y1"]]), (1, 2, 3, 4)
    later = objects.loc[objects["slide_id"] == objects["slide_id"][0], "object_id"].iloc[-1]
    write_journal(out, [(later, genus), (names[1], genus)], {later: moved, names[1]: gone})
    joined = join_reviewed(alone, find_reviewed([out], genera, backbone, tmp_path / "other"))
    assert np.array_equal(joined.all.embeddings[1:], [Results(out).embedding(names[0])])
    assert "1 labelled objects are no longer among the detections" in caplog.text

    # A run uses them, and the next run finds nothing to do.
    write_journal(out, [(name, genus) for name in names])
    again = config.model_copy(update={"reference_results": (out,)})
    assert run_well(colour_well / "well", out, again).redone
    assert not run_well(colour_well / "well", out, again).redone
    neighbours = {near["reference"] for row in Results(out).objects["nearest"] if row is not None for near in row}
    assert any(object_of_file(name) for name in neighbours)
