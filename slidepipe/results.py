"""Reading a RESULTS folder: the tables as data frames, crops and embeddings of any object when they are asked for."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from slidepipe.classification.object_table import ObjectTable
from slidepipe.crops.cut import CropSpec, cut_crop, decode_crop, encode_crop
from slidepipe.errors import ResultsError, SlideError
from slidepipe.interfaces import Float32Array, IntArray, UInt8Array
from slidepipe.slides.handles import cached_slide
from slidepipe.store.arrays import CropReader
from slidepipe.store.manifest import MANIFEST, SlideRecord, read_manifest
from slidepipe.store.object_id import ObjectId
from slidepipe.store.slide_store import SlideStore

#: Columns of the CSV files that hold names, whatever these look like.
_NAMES = ("slide_id", "sample_id", "well", "sample_type", "genus", "object_id", "region", "reason")


class Results:
    """The results of one well; tables are read at first use, pixels and embeddings object by object.

    Raises:
        ResultsError: ``path`` holds no finished results.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()  # arrays are read later, when the working directory may be another
        manifest = read_manifest(self.path)
        if manifest is None:
            raise ResultsError(
                f"{self.path}: no results here ({MANIFEST} is missing). Give the folder that a run wrote with --out"
            )
        if manifest.tables is None:
            raise ResultsError(
                f"{self.path}: its run was cut short while writing tables. Give the same run command again"
            )
        self.manifest = manifest
        self.object_table = ObjectTable(self.path)
        self._readers: dict[str, CropReader] = {}

    @functools.cached_property
    def objects(self) -> pd.DataFrame:
        """All of ``objects.parquet``, one row per object; :attr:`object_table` reads parts of it."""
        return self.object_table.read()

    @functools.cached_property
    def counts(self) -> pd.DataFrame:
        """``counts.csv``: one row a sample."""
        return self._csv("counts.csv")

    @functools.cached_property
    def counts_slides(self) -> pd.DataFrame:
        """``counts_slides.csv``: one row a slide."""
        return self._csv("counts_slides.csv")

    @functools.cached_property
    def counts_long(self) -> pd.DataFrame:
        """``counts_long.csv``: one row a sample and genus, with percentage and interval."""
        return self._csv("counts_long.csv")

    @functools.cached_property
    def diversity(self) -> pd.DataFrame:
        """``diversity.csv``: one row a sample, among the trained genera."""
        return self._csv("diversity.csv")

    @functools.cached_property
    def ranges(self) -> pd.DataFrame:
        """``ranges.csv``: top and base of each genus."""
        return self._csv("ranges.csv")

    @functools.cached_property
    def spike(self) -> pd.DataFrame:
        """``spike.csv``: fossils a gram, where samples were spiked."""
        return self._csv("spike.csv")

    @functools.cached_property
    def accuracy(self) -> pd.DataFrame:
        """``accuracy.csv``: precision and recall of each genus, where objects were reviewed."""
        return self._csv("accuracy.csv")

    @functools.cached_property
    def corrected(self) -> pd.DataFrame:
        """``corrected.csv``: raw and corrected counts, for the whole well and each sample."""
        return self._csv("corrected.csv")

    @functools.cached_property
    def failures(self) -> pd.DataFrame:
        """``failures.csv``: what could not be analysed, and why."""
        return self._csv("failures.csv")

    def crop(self, object_id: str) -> UInt8Array:
        """The crop of one object: uint8 (h, w, 3) sRGB.

        Raises:
            ResultsError: no such object, or its pixels could not be read from the slide.
        """
        data = self.jpeg(object_id)
        if not data:
            raise ResultsError(f"{object_id}: has no crop, its pixels could not be read from the slide")
        return decode_crop(data)

    def jpeg(self, object_id: str) -> bytes:
        """The crop of one object as JPEG; cut from the slide where crops were not kept, empty where that cannot be read."""
        slide_id, row = self._locate(object_id)
        stored = self.crop_reader(slide_id).jpeg(row)
        store = SlideStore.in_results(self.path, slide_id)
        if stored or store.attributes("crops").get("kept", True):
            return stored
        record = self._slides[slide_id]
        settings = self.manifest.settings["crops"]
        spec = CropSpec(settings["margin"], settings["long_side_px"], settings["jpeg_quality"])
        try:
            slide = cached_slide(Path(record.path), record.opened.mpp, record.opened.identity)
            return encode_crop(cut_crop(slide, self._boxes(slide_id)[row], spec), spec)
        except SlideError:
            return b""

    def embedding(self, object_id: str) -> Float32Array:
        """The embedding of one object: float32 (D,)."""
        slide_id, row = self._locate(object_id)
        return np.asarray(self.embeddings(slide_id)[row], np.float32)

    def embeddings(self, slide_id: str) -> zarr.Array[Any]:
        """The embeddings of a slide's objects, in the order of the object table: lazy float32 (N, D)."""
        self._check_slide(slide_id)
        group = SlideStore.in_results(self.path, slide_id).read("embeddings")
        array = group["embeddings"]
        if not isinstance(array, zarr.Array):
            raise ResultsError(f"{self.path}: the embeddings of {slide_id} are no array. Run the same command again")
        return array

    def crop_reader(self, slide_id: str) -> CropReader:
        """The stored crops of a slide, by row of the object table."""
        if slide_id not in self._readers:  # looked at once: pictures are asked for by the thousand
            self._check_slide(slide_id)
            self._readers[slide_id] = SlideStore.in_results(self.path, slide_id).crops()
        return self._readers[slide_id]

    @functools.cached_property
    def _slides(self) -> dict[str, SlideRecord]:
        return self.manifest.slides_by_id

    @functools.lru_cache(maxsize=8)  # noqa: B019  # as long-lived as the results themselves
    def _boxes(self, slide_id: str) -> IntArray:
        boxes = SlideStore.in_results(self.path, slide_id).read_array("boxes", "boxes")
        return boxes.reshape(-1, 4).astype(np.int64)

    def _check_slide(self, slide_id: str) -> None:
        if slide_id not in self._slides:
            raise ResultsError(f"{slide_id}: no such slide in {self.path}. Slides are named as in counts_slides.csv")
        store = SlideStore.in_results(self.path, slide_id)
        # A run with other settings that was cut short may have changed the store and not yet the tables.
        for stage, wanted in self._slides[slide_id].fingerprints.items():
            if not store.is_done(stage, wanted):
                raise ResultsError(
                    f"{self.path}: the {stage} of {slide_id} are not those that the tables were made from: a run was cut short. "
                    "Give the same run command again"
                )

    def _csv(self, name: str) -> pd.DataFrame:
        try:
            # A well may be called NA, a slide 0012: names are text, and only an empty cell is none.
            return pd.read_csv(
                self.path / name,
                dtype=dict.fromkeys(_NAMES, str),
                keep_default_na=False,
                na_values=[""],
            )
        except OSError as error:
            raise ResultsError(f"{self.path / name}: cannot be read ({error}). Run the same command again") from error

    def _locate(self, object_id: str) -> tuple[str, int]:
        found = ObjectId.parse(object_id)
        if (
            found is None
            or found.slide_id not in self._slides
            or found.row >= (self._slides[found.slide_id].objects or 0)
        ):
            raise ResultsError(
                f"{object_id}: no such object in {self.path}. Objects are named SLIDE_ID:NUMBER, as in objects.parquet"
            )
        return found.slide_id, found.row
