"""The YOLO detector: output layouts, suppression, and tiles that satisfy the invariant of detectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slidepipe import plugins
from slidepipe.errors import PluginError, SettingsError, WeightsError
from slidepipe.interfaces import Region
from slidepipe.testing import check_detector, pytest_params
from slidepipe_plugins.yolo.boxes import layout_of, overlaps, parse, remove_duplicates, suppress

onnx = pytest.importorskip("onnx", reason="onnx makes the models of these tests")
pytest.importorskip("onnxruntime", reason="the optional extra yolo is not installed")

SIDE = 96
STEP = 8
WINDOW = 40
BOX = 56.0


def write_model(path, layout="v8", side=SIDE, dtype="FLOAT", free=False, decoy=False, level=0.45, bright=False):
    """Write a model that reports a box of 56 x 56 pixels where the mean darkness over 40 x 40 pixels is high, on a grid of 8.

    "v8" gives (1, 5, N); "v5" (1, N, 7), two classes, the second never; "end2end" (1, N, 6).
    """
    helper, kinds = onnx.helper, onnx.TensorProto
    cells = side // STEP
    count = cells * cells
    middle = (np.arange(cells, dtype=np.float32) + 0.5) * STEP
    x, y = (axis.reshape(1, 1, count) for axis in np.meshgrid(middle, middle))
    size = np.full((1, 1, count), BOX, np.float32)
    zeros, ones = np.zeros((1, 1, count), np.float32), np.ones((1, 1, count), np.float32)
    scores = {"v8": ["score"], "v5": ["ones", "score", "zeros"], "end2end": ["score", "zeros"]}[layout]
    constants = {"x": x, "y": y, "w": size, "h": size, "zeros": zeros, "ones": ones}
    constants |= {"x0": x - size / 2, "y0": y - size / 2, "x1": x + size / 2, "y1": y + size / 2}
    constants |= {"twenty": np.float32([20.0]), "level": np.float32([level]), "shape": np.int64([1, 1, count])}
    corners = ["x0", "y0", "x1", "y1"] if layout == "end2end" else ["x", "y", "w", "h"]
    scale = [255.0] if dtype == "UINT8" else [1.0]
    constants["scale"] = np.float32(scale)
    pad = (WINDOW - STEP) // 2
    nodes = [
        helper.make_node("Cast", ["images"], ["as_float"], to=kinds.FLOAT),
        helper.make_node("Div", ["as_float", "scale"], ["pixels"]),
        helper.make_node("ReduceMean", ["pixels", "channels"], ["grey"], keepdims=1),
        helper.make_node(
            "AveragePool", ["grey"], ["mean"], kernel_shape=[WINDOW] * 2, strides=[STEP] * 2, pads=[pad] * 4
        ),
        helper.make_node("Sub", ["mean", "level"] if bright else ["level", "mean"], ["dark"]),
        helper.make_node("Mul", ["dark", "twenty"], ["steep"]),
        helper.make_node("Sigmoid", ["steep"], ["likely"]),
        helper.make_node("Reshape", ["likely", "shape"], ["score"]),
        helper.make_node("Concat", [*corners, *scores], ["columns"], axis=1),
        helper.make_node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["columns" if layout == "v8" else "rows"], ["output"]),
    ]
    constants["channels"] = np.int64([1])
    sides = ["height", "width"] if free else [side, side]
    outputs = [helper.make_tensor_value_info("output", kinds.FLOAT, [1, "a", "b"])]
    if decoy:
        outputs.insert(0, helper.make_tensor_value_info("mean", kinds.FLOAT, [1, 1, "c", "d"]))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", getattr(kinds, dtype), [1, 3, *sides])],
        outputs,
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def lavish(tmp_path_factory):
    """A model that reports many boxes on a dark object, so that neighbouring tiles report different boxes."""
    return write_model(tmp_path_factory.mktemp("yolo") / "lavish.onnx", level=0.75)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("yolo") / "toy.onnx")


def detector(path, **settings):
    return plugins.create("detector", f"yolo:{path}", settings)


def region(side=192, discs=((60, 60), (130, 100)), unscanned=None):
    y, x = np.mgrid[:side, :side]
    rgb = np.full((side, side, 3), 240, np.uint8)
    for centre_x, centre_y in discs:
        rgb[np.hypot(x - centre_x, y - centre_y) < 22] = 60
    scanned = np.ones((side, side), np.bool_)
    if unscanned is not None:
        rgb[unscanned], scanned[unscanned] = 240, False
    return Region(rgb, scanned, 1.0)


@pytest.mark.parametrize(
    "settings", [{"mpp": 2.0}, {"mpp": 2.0, "overlap_px": 40, "iou": 0.2}, {"mpp": 1.5, "overlap_px": 28, "score": 0.5}]
)
def test_conformance(lavish, settings):
    for check in check_detector(lambda: detector(lavish, **settings)):
        check()


def test_conformance_fails_without_halo(lavish):
    class WithoutHalo(type(detector(lavish))):
        @property
        def halo_um(self):
            return 1.0

        @halo_um.setter
        def halo_um(self, value):
            """Ignore the value."""

    def without_halo():
        made = detector(lavish, mpp=2.0)
        made.__class__ = WithoutHalo
        return made

    checks = check_detector(without_halo, expected_failures={"independence of blocks": "the halo is too small"})
    check = next(param for param in pytest_params(checks) if param.id == "independence-of-blocks")
    with pytest.raises(AssertionError, match="depend on how the slide is cut"):
        check.values[0]()


@pytest.mark.parametrize("layout", ["v5", "v8", "end2end"])
@pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16", "UINT8"])
def test_export_layouts(tmp_path, layout, dtype):
    path = write_model(tmp_path / "toy.onnx", layout, dtype=dtype)
    found = detector(path).detect(region())
    order = found.boxes[:, 0].argsort()
    middles = (found.boxes[order, :2] + found.boxes[order, 2:]) / 2
    assert np.abs(middles - [[60, 60], [130, 100]]).max() <= STEP
    assert np.array_equal(found.owner[order], middles)
    assert (found.score > 0.9).all()
    assert found.area == pytest.approx(np.pi / 4 * BOX**2)
    assert not found.cut.any()


def test_tile_size(tmp_path):
    path = write_model(tmp_path / "free.onnx", free=True)
    made = detector(path, tile_px=SIDE, overlap_px=20)
    assert (made.tile_px, made.align_px) == (SIDE, SIDE - 40)
    assert len(made.detect(region()).boxes) == 2
    assert detector(path).tile_px == 640


def test_other_outputs_are_ignored(tmp_path):
    path = write_model(tmp_path / "decoy.onnx", decoy=True)
    assert len(detector(path).detect(region()).boxes) == 2


def test_classes_and_invert(tmp_path):
    path = write_model(tmp_path / "two.onnx", "v5")
    assert len(detector(path, classes=[0]).detect(region()).boxes) == 2
    assert len(detector(path, classes=[1]).detect(region()).boxes) == 0
    path = write_model(tmp_path / "bright.onnx", level=0.55, bright=True)
    assert len(detector(path, invert=True).detect(region()).boxes) == 2
    assert len(detector(path).detect(region()).boxes) > 2


def test_unscanned_pixels(toy):
    found = detector(toy).detect(region(unscanned=np.s_[:, 140:]))
    cut = {bool(centre < 100): bool(mark) for centre, mark in zip(found.owner[:, 0], found.cut, strict=True)}
    assert cut == {True: False, False: True}
    blank = np.full((192, 192, 3), 0, np.uint8)  # black would be an object to the model
    assert len(detector(toy).detect(Region(blank, np.zeros((192, 192), np.bool_), 1.0)).boxes) == 0


def test_object_in_four_tiles(toy):
    made = detector(toy, overlap_px=24)
    for x in range(40, 150, 7):
        assert len(made.detect(region(discs=((x, x),))).boxes) == 1, x


@pytest.mark.parametrize(
    ("shape", "side", "layout"),
    [
        ((1, 25200, 85), 640, "v5"),
        ((1, 25200, 6), 640, "v5"),
        ((1, 102000, 9), 1280, "v5"),
        ((1, 84, 8400), 640, "v8"),
        ((1, 5, 8400), 640, "v8"),
        ((1, 8400, 5), 640, "v8"),
        ((1, 8400, 84), 640, "v8"),
        ((1, 300, 6), 640, "end2end"),
        ((1, 1008, 6), 128, "v5"),
        ((1, 3, 80, 80), 640, None),
        ((1, 4, 100), 640, None),
        ((1, 100, 4), 640, None),
        ((2, 25200, 85), 640, None),
    ],
)
def test_layout_of(shape, side, layout):
    assert layout_of(shape, side, side) == layout


def test_parse():
    boxes = np.array([[10.0, 20.0, 30.0, 60.0]])
    v5 = np.array([[[20, 40, 20, 40, 0.5, 0.1, 0.8]]], np.float64)
    v8 = np.array([[[20, 40, 20, 40, 0.05, 0.4]] * 9], np.float64).transpose(0, 2, 1)
    end = np.array([[[10, 20, 30, 60, 0.4, 1]]], np.float64)
    for output, layout in ((v5, "v5"), (v8, "v8"), (end, "end2end")):
        for classes, score in ((None, 0.4), ((1,), 0.4), ((0,), 0.0)):
            found, scores = parse(output, layout, classes)
            assert np.allclose(found[:1], boxes)
            assert scores[0] == pytest.approx(score)


def scattered(count):
    corners = arrays.arrays(np.float64, (count, 2), elements=st.integers(0, 60).map(float))
    sizes = arrays.arrays(np.float64, (count, 2), elements=st.integers(1, 30).map(float))
    scores = arrays.arrays(np.float64, count, elements=st.sampled_from([0.3, 0.5, 0.5001, 0.9]))
    tiles = arrays.arrays(np.float64, count, elements=st.integers(0, 3).map(float))
    return st.tuples(corners, sizes, scores, tiles).map(
        lambda made: (np.concatenate([made[0], made[0] + made[1]], axis=1), made[2], made[3])
    )


some_boxes = st.integers(0, 12).flatmap(scattered)


@given(some_boxes)
def test_suppress(made):
    boxes, scores, _ = made
    keep = suppress(boxes, scores, 0.45)
    among = overlaps(boxes[keep], boxes[keep]) - np.eye(int(keep.sum()))
    assert (among <= 0.45).all()
    for lost in np.flatnonzero(~keep):
        rivals = overlaps(boxes[lost][None], boxes[keep])[0] > 0.45
        assert (scores[keep][rivals] >= scores[lost]).any()


@given(some_boxes, some_boxes)
def test_remove_duplicates(left, right):
    far = right[0] + 1000.0
    boxes = np.concatenate([left[0], far])
    scores, tiles = np.concatenate([left[1], right[1]]), np.concatenate([left[2], right[2]])
    together = remove_duplicates(boxes, scores, tiles)
    apart = np.concatenate([remove_duplicates(*left), remove_duplicates(far, right[1], right[2])])
    assert np.array_equal(together, apart)
    order = np.random.default_rng(len(boxes)).permutation(len(boxes))
    shuffled = remove_duplicates(boxes[order], scores[order], tiles[order])
    unlike = {tuple(box) for box in boxes[together]}  # boxes that are equal in all may change places
    assert {tuple(box) for box in boxes[order][shuffled]} == unlike or len(np.unique(boxes, axis=0)) < len(boxes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap_px": 48}, r"overlap_px 48 leaves no core of tiles of 96 px\. Reduce overlap_px"),
        ({"tile_px": 640}, r"tile_px is 640, but .*toy\.onnx takes 96 x 96\. Remove tile_px"),
        ({"mpp": 0}, "setting mpp: .*greater than 0"),
        ({"classes": []}, "classes is empty"),
        ({"scores": 0.1}, "has no setting scores. Known settings: mpp, score, "),
    ],
)
def test_settings_errors(toy, settings, message):
    with pytest.raises(SettingsError, match=message):
        detector(toy, **settings)


def test_model_file_errors(tmp_path, toy):
    with pytest.raises(WeightsError, match=r"absent\.onnx: no such model file\. Check the path after yolo:"):
        detector(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(toy.read_bytes()[:300])
    with pytest.raises(WeightsError, match=r"broken\.onnx: not an ONNX model that onnxruntime can run"):
        detector(tmp_path / "broken.onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    for name, shape, message in (
        ("flat", [1, 3], r"the input of the model is \[1, 3\]\. Export it with an input of one image"),
        ("map", [1, 3, 96, 96], ""),
    ):
        graph = helper.make_graph(
            [helper.make_node("Identity", ["images"], ["output"])],
            name,
            [helper.make_tensor_value_info("images", kinds.FLOAT, shape)],
            [helper.make_tensor_value_info("output", kinds.FLOAT, shape)],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / name)
        if message:
            with pytest.raises(WeightsError, match=message):
                detector(tmp_path / name)
        else:
            with pytest.raises(PluginError, match=r"outputs of shape \(1, 3, 96, 96\) are not those of a YOLO model"):
                detector(tmp_path / name).detect(region())
    with pytest.raises(PluginError, match=r"Write yolo:FILE\.onnx"):
        plugins.create("detector", "yolo")


def test_weights_sha256(tmp_path, toy):
    other = write_model(tmp_path / "other.onnx", side=64)
    assert detector(toy).weights_sha256 != detector(other).weights_sha256
