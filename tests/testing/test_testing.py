"""The conformance checks: good plugins pass, and for each check there is a plugin that fails it."""

from unittest.mock import patch

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict, field_serializer
from scipy import ndimage

from slidepipe import plugins
from slidepipe.errors import PluginError, SlidepipeError
from slidepipe.interfaces import Backbone, Decisions, Detections, Detector, Head
from slidepipe.plugins import registry
from slidepipe.testing import (
    CheckFailure,
    check_backbone,
    check_detector,
    check_head,
    pytest_params,
    run_checks,
)
from slidepipe.testing import command as check_command


@pytest.fixture(autouse=True)
def _fresh_registry():
    with patch.dict(registry.registered_classes, clear=True):
        yield


class Tones(Backbone):
    """A good backbone: mean and spread of the three channels."""

    name = "tones"
    dim = 6
    input_px = 16
    license = "Apache-2.0"
    source = "these tests"

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")
        gain: float = 1.0

    def __init__(self, settings):
        self.settings = settings
        self.loaded = False

    def load(self, device):
        self.loaded = True
        return self

    def embed(self, crops):
        values = crops.astype(np.float32) * np.float32(self.settings.gain)
        return np.concatenate([values.mean(axis=(1, 2)), values.std(axis=(1, 2))], axis=1)


class Nearest(Head):
    """A good head: nearest centre, conformal p-values from distances to it."""

    name = "nearest"

    def fit(self, embeddings, genera, alpha):
        self.names = np.unique(genera)
        self.alpha, self.references = alpha, embeddings
        self.centres = np.stack([embeddings[genera == name].mean(axis=0) for name in self.names])
        own = np.searchsorted(self.names, genera)
        distances = np.linalg.norm(embeddings - self.centres[own], axis=1)
        self.calibration = [np.sort(distances[own == number]) for number in range(len(self.names))]
        return self

    def predict(self, embeddings):
        distances = np.linalg.norm(embeddings[:, None] - self.centres, axis=2).reshape(-1, len(self.names))
        best = distances.argmin(axis=1)
        distance = distances[np.arange(len(best)), best].astype(np.float64)
        ranks = [
            (1 + (self.calibration[genus] >= value).sum()) / (len(self.calibration[genus]) + 1)
            for genus, value in zip(best, distance, strict=True)
        ]
        p_value = np.array(ranks, np.float64).reshape(-1)
        to_all = np.linalg.norm(embeddings[:, None] - self.references, axis=2).reshape(-1, len(self.references))
        neighbours = to_all.argsort(axis=1)[:, :3].astype(np.int64)
        return Decisions(
            genus=self.names[best],
            accepted=p_value > self.alpha,
            p_value=p_value,
            distance=distance,
            neighbours=neighbours,
            neighbour_distances=np.take_along_axis(to_all, neighbours, axis=1).astype(np.float64),
        )


class Dark(Detector):
    """A good detector: connected dark pixels."""

    name = "dark"
    mpp = 2.0
    halo_um = 120.0
    align_px = 1

    def detect(self, region):
        dark = (region.rgb.mean(axis=2) < 200) & region.scanned
        labels, _ = ndimage.label(dark)
        slices = [found for found in ndimage.find_objects(labels) if found is not None]
        boxes = np.array([[s[1].start, s[0].start, s[1].stop, s[0].stop] for s in slices], np.float64).reshape(-1, 4)
        area = np.array([(labels[s] == number + 1).sum() for number, s in enumerate(slices)], np.float64)
        around = ndimage.binary_dilation(~region.scanned)
        cut = np.array([(around & (labels == number + 1)).any() for number in range(len(slices))], np.bool_)
        keep = area > 20
        boxes = boxes[keep]
        owner = (boxes[:, :2] + boxes[:, 2:]) / 2
        return Detections(boxes, owner, area[keep], np.full(len(boxes), 0.9), cut[keep])


@pytest.mark.parametrize("check", pytest_params(check_backbone(Tones, {"gain": 0.5})))
def test_good_backbone(check):
    check()


@pytest.mark.parametrize("check", pytest_params(check_head(Nearest)))
def test_good_head(check):
    check()


@pytest.mark.parametrize("check", pytest_params(check_detector(Dark)))
def test_good_detector(check):
    check()


def failures(checks):
    """Names of the checks that fail, each with its message."""
    failed = {}
    for check in checks:
        try:
            check()
        except CheckFailure as failure:
            failed[check.name] = str(failure)
        except PluginError as error:
            failed[check.name] = str(error)
    return failed


class Loads(Tones):
    def load(self, device):
        return type(self)(self.settings)


class Nothing(Tones):
    def embed(self, crops):
        """Forget to return."""


class Shape(Tones):
    def embed(self, crops):
        return super().embed(crops)[:, :5]


class Dtype(Tones):
    def embed(self, crops):
        return super().embed(crops).astype(np.float64)


class Finite(Tones):
    def embed(self, crops):
        with np.errstate(divide="ignore", invalid="ignore"):
            return super().embed(crops) / super().embed(crops).std(axis=1, keepdims=True)


class Empty(Tones):
    def embed(self, crops):
        return super().embed(crops) if len(crops) else np.zeros(0, np.float32)


class Batch(Tones):
    def embed(self, crops):
        values = super().embed(crops)
        return values - values.mean(axis=0) if len(values) else values


class Order(Tones):
    def embed(self, crops):
        values = super().embed(crops)
        return values[values[:, 0].argsort()]


class Drifts(Tones):
    calls = 0

    def embed(self, crops):
        self.calls += 1
        return super().embed(crops) + np.float32(self.calls)


class RandomWeights(Tones):
    def load(self, device):
        self.weights = np.random.default_rng().normal(0, 1, (6, 6)).astype(np.float32)
        return self

    def embed(self, crops):
        return super().embed(crops) @ self.weights


class Writes(Tones):
    def embed(self, crops):
        if crops.flags.writeable:
            crops //= 2
        return super().embed(crops)


class Constant(Tones):
    def embed(self, crops):
        return np.ones((len(crops), 6), np.float32)


class WrongFit(Tones):
    fit = "stretch"


class WrongHash(Tones):
    weights_sha256 = "abc"


class InvariantByName(Tones):
    """The embedding of this backbone depends on the orientation, although it declares the opposite."""

    orientation_invariant = True

    def embed(self, crops):
        return super().embed(crops[:, :, : crops.shape[2] // 2] if len(crops) else crops)


class InvariantByText(Tones):
    orientation_invariant = "yes"


class EmptyVersion(Tones):
    version = ""


class NoLicence(Tones):
    license = ""


class LosesSettings(Tones):
    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")
        gain: float = 2.0

        @field_serializer("gain")
        def rounded(self, gain):
            return round(gain / 10)


@pytest.mark.parametrize(
    ("plugin", "check", "message"),
    [
        (Loads, "CPU works", r"load returned Loads\. It must return self"),
        (Nothing, "CPU works", "embed returned NoneType"),
        (Shape, "shape", r"embeddings of 1 crops have shape \(1, 5\)\. It must be \(1, 6\)"),
        (Dtype, "dtype", "embed returned dtype float64"),
        (Finite, "finite", "black and white crops is not finite"),
        (Empty, "empty batch", r"no crops gave float32 \(0,\)"),
        (Batch, "batch invariance", "depends on the other crops of the batch"),
        (Order, "order", "not in the order of the crops"),
        (Drifts, "determinism", "embedding the same crops twice gives different embeddings"),
        (RandomWeights, "determinism", r"after loading again, .*random weights\?"),
        (Writes, "crops untouched", "embed changes the crops"),
        (Constant, "tells crops apart", "different crops have the same embedding"),
        (NoLicence, "attributes", "attribute license is empty"),
        (WrongFit, "attributes", "fit is 'stretch'. It must be 'squeeze' or 'pad'"),
        (WrongHash, "attributes", "weights_sha256 is 'abc'. It must be None or 64 hexadecimal digits"),
        (InvariantByText, "attributes", "orientation_invariant is 'yes'. It must be True or False"),
        (InvariantByName, "orientation invariance", "depends on the orientation of its crop"),
        (EmptyVersion, "optional members", "version is ''. It must be None or a text"),
        (LosesSettings, "settings round trip", "settings change when written to JSON"),
    ],
)
def test_failing_backbone(plugin, check, message):
    with pytest.raises(CheckFailure, match=message):
        next(one for one in check_backbone(plugin) if one.name == check)()


def test_heavy_import(tmp_path, monkeypatch):
    source = (
        "import sys\n{first}class Heavy:\n    name = 'heavy'\n    dim = input_px = 1\n    license = source = 'x'\n"
        "    def load(self, device): return self\n    def embed(self, crops): ...\n"
    )
    for first, message in (("import torch\n", "imports torch. Move the import into"), ("", None), ("1/0\n", None)):
        (tmp_path / "heavy.py").write_text(
            source.format(first=first.replace("1/0", "len(sys.argv) > 1 and sys.argv[1].startswith('{') and 1/0"))
        )
        registry.registered_classes.clear()
        plugins.register_file(tmp_path / "heavy.py")
        checks = check_backbone(plugins.get_class("backbone", "heavy"))
        message = failures(one for one in checks if "torch" in one.name).get("discovery imports no torch")
        if message:
            assert message in message
        elif first:
            assert "cannot be imported in a new process" in message
            assert "ZeroDivisionError" in message
        else:
            assert message is None


class FitsAnother(Nearest):
    def fit(self, embeddings, genera, alpha):
        return Nearest().fit(embeddings, genera, alpha)


def altered(field, change):
    class Altered(Nearest):
        def predict(self, embeddings):
            decisions = super().predict(embeddings)
            values = {name: getattr(decisions, name) for name in Decisions.__annotations__}
            return Decisions(**{**values, field: change(values[field])})

    return Altered


class AnswersAlways(Nearest):
    def predict(self, embeddings):
        decisions = super().predict(embeddings)
        values = {name: getattr(decisions, name) for name in Decisions.__annotations__}
        return Decisions(**{**values, "accepted": np.ones(len(embeddings), np.bool_)})


class AlphaReversed(Nearest):
    def predict(self, embeddings):
        self.alpha = 0.4 if self.alpha < 0.2 else 0.01
        return super().predict(embeddings)


class Moody(Nearest):
    fits = 0

    def fit(self, embeddings, genera, alpha):
        Moody.fits += 1
        return super().fit(embeddings + np.float32(0.3 * Moody.fits), genera, alpha)


class ByBatch(Nearest):
    def predict(self, embeddings):
        return super().predict(embeddings - embeddings.mean(axis=0) if len(embeddings) else embeddings)


class Unnamed(Nearest):
    name = ""


@pytest.mark.parametrize(
    ("plugin", "check", "message"),
    [
        (Unnamed, "attributes", "attribute name is empty"),
        (FitsAnother, "attributes", "It must return self"),
        (altered("p_value", lambda p: p[:, None]), "fields", "for 40 objects, p_value has shape"),
        (altered("distance", lambda d: d * np.nan), "fields", "distance is not finite"),
        (altered("accepted", list), "fields", "accepted is list, not an array"),
        (altered("genus", lambda g: np.char.add(g, "?")), "known genera", r"Azolla\?.* is not in the reference set"),
        (altered("p_value", lambda p: p + 1), "p-values", "not between 0 and 1"),
        (altered("neighbours", lambda n: n + 200), "neighbours", "no row of the reference set"),
        (altered("neighbour_distances", lambda d: -d), "neighbours", "the neighbours are not nearest first"),
        (altered("accepted", lambda a: a & False), "accepts", "only 0% of objects like the references are accepted"),
        (altered("genus", lambda g: np.roll(g, 13)), "accepts", "of well separated objects get the right genus"),
        (AnswersAlways, "abstains", "100% of objects far from every reference"),
        (AlphaReversed, "alpha", "a larger alpha accepts an object"),
        (ByBatch, "order", "depends on the other objects of the call"),
        (Moody, "determinism", "changes when the head is fitted again"),
    ],
)
def test_failing_head(plugin, check, message):
    with pytest.raises(CheckFailure, match=message):
        next(one for one in check_head(plugin) if one.name == check)()


class Tiled(Dark):
    """Looks at tiles of the region it is given: what it finds depends on where regions start and end."""

    def detect(self, region):
        cut = region.rgb.copy()
        cut[::100] = 255
        return super().detect(type(region)(cut, region.scanned, region.mpp))


class ShortSighted(Dark):
    halo_um = 4.0


class Shifted(Dark):
    def detect(self, region):
        found = super().detect(region)
        return Detections(found.boxes - 40.0, found.owner, found.area, found.score, found.cut)


class Blind(Dark):
    def detect(self, region):
        found = super().detect(region)
        return Detections(*(getattr(found, name)[:0] for name in Detections.__annotations__))


class Imagines(Dark):
    def detect(self, region):
        one = np.array([[5.0, 5.0, 9.0, 9.0]])
        return Detections(one, np.array([[7.0, 7.0]]), np.array([9.0]), np.array([0.5]), np.array([False]))


class WrongTypes(Dark):
    def detect(self, region):
        found = super().detect(region)
        return Detections(found.boxes.astype(np.int64), found.owner, found.area, found.score, found.cut)


class NeverCut(Dark):
    def detect(self, region):
        found = super().detect(region)
        return Detections(found.boxes, found.owner, found.area, found.score, np.zeros(len(found.cut), np.bool_))


class AlwaysCut(Dark):
    def detect(self, region):
        found = super().detect(region)
        return Detections(found.boxes, found.owner, found.area, found.score, np.ones(len(found.cut), np.bool_))


class Scores(Dark):
    def detect(self, region):
        found = super().detect(region)
        return Detections(found.boxes, found.owner, found.area, found.score * 100, found.cut)


class Areas(Dark):
    def detect(self, region):
        found = super().detect(region)
        return Detections(found.boxes, found.owner, found.area * 100, found.score, found.cut)


class Unsteady(Dark):
    def detect(self, region):
        found = super().detect(region)
        return Detections(
            found.boxes, found.owner, found.area, np.random.default_rng().random(len(found.cut)), found.cut
        )


class Paints(Dark):
    def detect(self, region):
        found = super().detect(region)
        region.rgb[:] = 0
        return found


class OwnsTooFew(Dark):
    def detect_owned(self, region, core):
        found = self.detect(region)
        return Detections(*(getattr(found, name)[:1] for name in Detections.__annotations__))


class NoScale(Dark):
    mpp = 2.0
    align_px = "1"


@pytest.mark.parametrize(
    ("plugin", "check", "message"),
    [
        (NoScale, "attributes", "attribute align_px is '1'"),
        (Blind, "finds objects", "no object is found in a field with"),
        (WrongTypes, "fields", r"boxes is int64 .*It must be float64"),
        (Shifted, "boxes", "a box extends beyond the region"),
        (Scores, "boxes", "score is not between 0 and 1"),
        (Areas, "boxes", "an area is not in"),
        (Imagines, "nothing where nothing is", "1 objects are found in an empty field"),
        (NeverCut, "cut at unscanned pixels", "cut is False for an object that touches"),
        (AlwaysCut, "cut at unscanned pixels", "cut is True for an object that is not near"),
        (Unsteady, "determinism", "different objects: score differs"),
        (Paints, "region untouched", "detect changes the region"),
        (OwnsTooFew, "owned objects", "detect_owned and detect find different objects in a core"),
        (Tiled, "independence of blocks", "depend on how the slide is cut into blocks"),
        (ShortSighted, "independence of blocks", "depend on how the slide is cut into blocks"),
        (Blind, "independence of blocks", "so blocks cannot be compared"),
    ],
)
def test_failing_detector(plugin, check, message):
    with pytest.raises(CheckFailure, match=message):
        next(one for one in check_detector(plugin) if one.name == check)()


def test_every_check_has_failing_plugin():
    shown = {
        kind: {mark.args[1][row][1] for mark in test.pytestmark for row in range(len(mark.args[1]))}
        for kind, test in (
            ("backbone", test_failing_backbone),
            ("head", test_failing_head),
            ("detector", test_failing_detector),
        )
    }
    elsewhere = {
        "discovery imports no torch",
        "settings round trip",
        "optional members",
    }  # common to the three, shown on backbones
    assert {check.name for check in check_backbone(Tones)} - shown["backbone"] == {"discovery imports no torch"}
    assert {check.name for check in check_head(Nearest)} - shown["head"] == elsewhere
    assert {check.name for check in check_detector(Dark)} - shown["detector"] == elsewhere


def test_expected_failure():
    reason = "batch normalisation in training mode"
    params = pytest_params(check_backbone(Batch, expected_failures={"batch invariance": reason, "dtype": "not so"}))
    marks = {param.values[0].name: param.marks for param in params}
    assert marks["batch invariance"][0].kwargs == {"reason": reason, "strict": True}
    assert not marks["order"]
    with pytest.raises(ValueError, match=r"unknown check batch\. Known checks: discovery imports no torch, "):
        check_backbone(Batch, expected_failures={"batch": reason})


def test_plugin_from_function():
    assert not failures(check_backbone(lambda: Tones(Tones.Settings(gain=3))))
    with pytest.raises(ValueError, match="settings and weights are for a class"):
        check_backbone(lambda: Tones(Tones.Settings()), {"gain": 3})


BAD = """
import numpy as np
from slidepipe.interfaces import Backbone
class Bad(Backbone):
    name = "bad"
    dim = input_px = 4
    license = source = "x"
    def load(self, device): return self
    def embed(self, crops): raise RuntimeError("out\\nof luck")
"""


def test_run_checks(tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text(BAD)
    plugins.register_file(tmp_path / "bad.py")
    results = {result.name: result for result in run_checks("backbone", "bad")}
    assert results["settings round trip"].ok
    assert results["attributes"].status == "passed"
    assert not results["shape"].ok
    assert results["shape"].reason == "it raised RuntimeError: out of luck"
    with pytest.raises(PluginError, match="unknown backbone 'worse'"):
        list(run_checks("backbone", "worse"))


def run_command(*arguments):
    return CliRunner().invoke(check_command.check, [str(argument) for argument in arguments])


def test_command(tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text(BAD)
    result = run_command("bad", "--plugin", tmp_path / "bad.py")
    assert result.exit_code == 2
    assert "passed  settings round trip\n" in result.output
    assert "failed  shape: it raised RuntimeError: out of luck\n" in result.output
    assert result.output.rstrip().endswith("bad failed 10 of 15 checks")
    good = (tmp_path / "good.py").relative_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    good.write_text(BAD.replace('"bad"', '"good"').replace('raise RuntimeError("out\\nof luck")', GOOD_BODY))
    result = run_command("good", "--plugin", good)
    assert result.exit_code == 0, result.output
    assert result.output.rstrip().endswith("good passed all 15 checks")


GOOD_BODY = "return crops.reshape(len(crops), 16, 3)[:, :4].sum(axis=2).astype(np.float32)"


def test_command_errors(tmp_path, monkeypatch):
    (tmp_path / "two.py").write_text(
        BAD + "class Same:\n    name = 'bad'\n    def fit(self, e, g, a): ...\n    def predict(self, e): ...\n"
    )
    (tmp_path / "settings.yaml").write_text("gain: 3")
    (tmp_path / "list.yaml").write_text("- gain")
    (tmp_path / "broken.yaml").write_text("gain: [")
    plugin = ("--plugin", tmp_path / "two.py")
    for arguments, message in (
        (("bad",), "is a backbone and a head. Choose one with --kind"),
        (("worse",), "unknown plugin 'worse'. Available: bad"),
        (("bad", "--kind", "backbone", "--settings", tmp_path / "settings.yaml"), "has no settings. Remove gain"),
        (("bad", "--kind", "backbone", "--settings", tmp_path / "list.yaml"), "Write 'name: value' lines"),
        (("bad", "--kind", "backbone", "--settings", tmp_path / "broken.yaml"), "not valid YAML"),
        (("bad", "--kind", "backbone", "--settings", tmp_path / "absent.yaml"), "cannot be read"),
    ):
        result = run_command(*arguments, *plugin)
        assert isinstance(result.exception, SlidepipeError)
        assert message in str(result.exception)
