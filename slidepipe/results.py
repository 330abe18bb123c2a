"""Read a RESULTS folder: the tables as data frames, and the crops and embeddings of single objects."""

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

#: Columns of the CSV files that are read as text, even if a name looks like a number.
_NAMES = ("slide_id", "sample_id", "well", "sample_type", "genus", "object_id", "region", "reason")


class Results:
    """The results of one well. A table is read when it is first used; pixels and embeddings are read per object.

    Args:
        path: the RESULTS folder.

    Attributes:
        path: the RESULTS folder, absolute.
        manifest: how the results were made.
        object_table: reads parts of `objects.parquet`.

    Raises:
        ResultsError: `path` holds no finished results.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()  # arrays are read later, perhaps from another working directory
        manifest = read_manifest(self.path)
        if manifest is None:
            raise ResultsError(
                f"{self.path}: no results here ({MANIFEST} is missing). Give the folder that a run wrote with --out"
            )
        if manifest.tables is None:
            raise ResultsError(
                f"{self.path}: the run was interrupted while it wrote the tables. Run the same command again"
            )
        self.manifest = manifest
        self.object_table = ObjectTable(self.path)
        self._readers: dict[str, CropReader] = {}

    @functools.cached_property
    def objects(self) -> pd.DataFrame:
        """`objects.parquet`, one row per object. Use `object_table` to read parts of it."""
        return self.object_table.read()

    @functools.cached_property
    def counts(self) -> pd.DataFrame:
        """`counts.csv`, one row per sample."""
        return self._csv("counts.csv")

    @functools.cached_property
    def counts_slides(self) -> pd.DataFrame:
        """`counts_slides.csv`, one row per slide."""
        return self._csv("counts_slides.csv")

    @functools.cached_property
    def counts_long(self) -> pd.DataFrame:
        """`counts_long.csv`, one row per sample and genus, with percentage and interval."""
        return self._csv("counts_long.csv")

    @functools.cached_property
    def diversity(self) -> pd.DataFrame:
        """`diversity.csv`, one row per sample, over the genera of the reference set."""
        return self._csv("diversity.csv")

    @functools.cached_property
    def ranges(self) -> pd.DataFrame:
        """`ranges.csv`, top and base of each genus."""
        return self._csv("ranges.csv")

    @functools.cached_property
    def spike(self) -> pd.DataFrame:
        """`spike.csv`, fossils per gram of spiked samples."""
        return self._csv("spike.csv")

    @functools.cached_property
    def accuracy(self) -> pd.DataFrame:
        """`accuracy.csv`, precision and recall of each genus, if objects were reviewed."""
        return self._csv("accuracy.csv")

    @functools.cached_property
    def corrected(self) -> pd.DataFrame:
        """`corrected.csv`, raw and corrected counts of the well and of each sample."""
        return self._csv("corrected.csv")

    @functools.cached_property
    def failures(self) -> pd.DataFrame:
        """`failures.csv`, the slides and regions that could not be analysed, with the reasons."""
        return self._csv("failures.csv")

    def crop(self, object_id: str) -> UInt8Array:
        """Return the crop of one object.

        Args:
            object_id: the object, named as in `objects.parquet`.

        Returns:
            uint8 (h, w, 3) sRGB.

        Raises:
            ResultsError: there is no such object, or its pixels could not be read from the slide.
        """
        data = self.jpeg(object_id)
        if not data:
            raise ResultsError(
                f"{object_id}: has no crop, because its pixels could not be read from the slide. See failures.csv"
            )
        return decode_crop(data)

    def jpeg(self, object_id: str) -> bytes:
        """Return the crop of one object as JPEG bytes.

        If the run did not store crops, it is cut from the slide.

        Args:
            object_id: the object, named as in `objects.parquet`.

        Returns:
            The bytes of the JPEG; empty if the pixels cannot be read.

        Raises:
            ResultsError: there is no such object.
        """
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
        """Return the embedding of one object.

        Args:
            object_id: the object, named as in `objects.parquet`.

        Returns:
            float32 (D,); NaN if the pixels of the object could not be read.

        Raises:
            ResultsError: there is no such object.
        """
        slide_id, row = self._locate(object_id)
        return np.asarray(self.embeddings(slide_id)[row], np.float32)

    def embeddings(self, slide_id: str) -> zarr.Array[Any]:
        """Return the embeddings of a slide's objects, in the order of the object table.

        Args:
            slide_id: the slide, named as in `counts_slides.csv`.

        Returns:
            A Zarr array, float32 (N, D), which is read when it is indexed.

        Raises:
            ResultsError: there is no such slide, or its embeddings are not those of the tables.
        """
        self._check_slide(slide_id)
        group = SlideStore.in_results(self.path, slide_id).read("embeddings")
        array = group["embeddings"]
        if not isinstance(array, zarr.Array):
            raise ResultsError(f"{self.path}: the embeddings of {slide_id} are damaged. Run the same command again")
        return array

    def crop_reader(self, slide_id: str) -> CropReader:
        """Return the stored crops of a slide, by row of the object table.

        Raises:
            ResultsError: there is no such slide, or its crops are not those of the tables.
        """
        if slide_id not in self._readers:  # checked once per slide, because thousands of crops may be read
            self._check_slide(slide_id)
            self._readers[slide_id] = SlideStore.in_results(self.path, slide_id).crops()
        return self._readers[slide_id]

    @functools.cached_property
    def _slides(self) -> dict[str, SlideRecord]:
        return self.manifest.slides_by_id

    @functools.lru_cache(maxsize=8)  # noqa: B019  # the cache lives as long as the results
    def _boxes(self, slide_id: str) -> IntArray:
        boxes = SlideStore.in_results(self.path, slide_id).read_array("boxes", "boxes")
        return boxes.reshape(-1, 4).astype(np.int64)

    def _check_slide(self, slide_id: str) -> None:
        if slide_id not in self._slides:
            raise ResultsError(f"{slide_id}: no such slide in {self.path}. Use a slide_id of counts_slides.csv")
        store = SlideStore.in_results(self.path, slide_id)
        # An interrupted run with other settings may have changed the store and not yet the tables.
        for stage, wanted in self._slides[slide_id].fingerprints.items():
            if not store.is_done(stage, wanted):
                raise ResultsError(
                    f"{self.path}: the stored {stage} of {slide_id} do not belong to the tables, because a run was interrupted. "
                    "Run the same command again"
                )

    def _csv(self, name: str) -> pd.DataFrame:
        try:
            # A well may be called NA and a slide 0012: names are read as text, and only an empty cell is missing.
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
                f"{object_id}: no such object in {self.path}. Use an object_id of objects.parquet, SLIDE_ID:NUMBER"
            )
        return found.slide_id, found.row
