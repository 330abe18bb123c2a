"""The stored stages of one slide: `RESULTS/slides/SLIDE_ID/`, a Zarr group with one group per published stage.

A stage (`boxes`, `crops` or `embeddings`) is written under a temporary name, flushed to the disk and renamed into place. Its
attributes hold a fingerprint of everything that the stage depends on. A stage is done if it is published with the fingerprint
that the settings of the run give. An interrupted run therefore never leaves a stage that looks complete but is not. Until all
parts of a stage are there, they wait in `.parts/`, one file per task.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr

from slidepipe.errors import ResultsError
from slidepipe.store.arrays import CropReader, read_array
from slidepipe.store.files import flush_folder, flush_tree, read_json, temporary_path, write_json

#: Name of a stage in the store. Which stages there are is defined in `slidepipe.pipeline.stages`.
StageName = str


@dataclass(frozen=True)
class SlideStore:
    """The stored stages of one slide.

    Attributes:
        folder: the slide's folder in RESULTS. It need not exist before the first stage is published.
    """

    folder: Path

    @classmethod
    def in_results(cls, results: Path, slide_id: str) -> Self:
        """Return the store of the slide `slide_id` in a RESULTS folder."""
        return cls(results / "slides" / slide_id)

    # -- published stages -----------------------------------------------------------------------------------------------

    def attributes(self, stage: StageName) -> dict[str, Any]:
        """Return the attributes of a published stage; empty if it is not published or its attributes cannot be read."""
        attributes = read_json(self.folder / stage / "zarr.json").get("attributes")
        return attributes if isinstance(attributes, dict) else {}

    def is_done(self, stage: StageName, fingerprint: str) -> bool:
        """Return whether the stage is published with this fingerprint and all its files have the size they were written with.

        The sizes are checked because Zarr reads a missing chunk as zeros.
        """
        attributes = self.attributes(stage)
        sizes = attributes.get("files")
        if attributes.get("fingerprint") != fingerprint or not isinstance(sizes, dict):
            return False
        try:
            return all((self.folder / stage / name).stat().st_size == size for name, size in sizes.items())
        except OSError:
            return False

    def publish(
        self,
        stage: StageName,
        fingerprint: str,
        attributes: Mapping[str, Any],
        write: Callable[[zarr.Group], None],
    ) -> None:
        """Write a stage under a temporary name, flush it and rename it into place. An older version is replaced.

        Args:
            stage: the stage to publish.
            fingerprint: the hash of everything that the stage depends on.
            attributes: what is stored about the stage besides its arrays.
            write: a function that writes the arrays of the stage into the empty group that it receives.

        Raises:
            OSError: the stage cannot be written. Nothing of it stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "zarr.json").exists():
            write_json(self.folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})
        target = self.folder / stage
        part = temporary_path(target)
        try:
            group = zarr.open_group(part, mode="w-", zarr_format=3)
            write(group)
            files = {
                path.relative_to(part).as_posix(): path.stat().st_size
                for path in sorted(part.rglob("*"))
                if path.is_file()
            }
            del files["zarr.json"]  # The attributes are stored in this file, so its size is not known yet.
            group.attrs.put({**attributes, "fingerprint": fingerprint, "files": files})
            flush_tree(part)
            if target.exists():
                old = temporary_path(target)
                target.rename(old)
                part.rename(target)
                shutil.rmtree(old, ignore_errors=True)
            else:
                part.rename(target)
            flush_folder(self.folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def unpublish(self, *stages: StageName) -> None:
        """Delete published stages and their parts, for example because the stage that they depend on is redone."""
        for stage in stages:
            for parts in (self.folder / ".parts").glob(f"{stage}-*"):
                shutil.rmtree(parts, ignore_errors=True)
            if (self.folder / stage).exists():
                # Rename it first, so that a half-deleted stage cannot look complete.
                old = temporary_path(self.folder / stage)
                (self.folder / stage).rename(old)
                flush_folder(self.folder)
                shutil.rmtree(old, ignore_errors=True)

    def read(self, stage: StageName) -> zarr.Group:
        """Open a published stage for reading.

        Raises:
            ResultsError: it is not published, or it cannot be read.
        """
        try:
            return zarr.open_group(self.folder / stage, mode="r", zarr_format=3)
        except (OSError, ValueError) as error:
            raise ResultsError(
                f"{self.folder / stage}: cannot be read ({error}). Run the same command again to rebuild it"
            ) from error

    def read_array(self, stage: StageName, name: str) -> npt.NDArray[Any]:
        """Read one array of a published stage into memory.

        Raises:
            ResultsError: the stage is not published, or it cannot be read.
        """
        return read_array(self.read(stage), name)

    def crops(self) -> CropReader:
        """Return a reader of the published crops.

        Raises:
            ResultsError: the crops are not published, or they cannot be read.
        """
        return CropReader(self.read("crops"))

    # -- parts: one file per task, joined when all are there --------------------------------------------------------------

    def part_path(self, stage: StageName, fingerprint: str, part: int) -> Path:
        """Return the file of one part of a stage that is not published yet."""
        return self._parts_folder(stage, fingerprint) / f"{part:05d}.npz"

    def save_part(self, stage: StageName, fingerprint: str, part: int, **arrays: npt.NDArray[Any]) -> None:
        """Write the arrays of one part of a stage to a file, completely or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        path = self.part_path(stage, fingerprint, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        try:
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def load_part(self, stage: StageName, fingerprint: str, part: int) -> dict[str, npt.NDArray[Any]]:
        """Read the arrays of one part of a stage.

        Raises:
            OSError: the part does not exist or cannot be read.
        """
        with self.part_path(stage, fingerprint, part).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)

    def delete_parts(self, stage: StageName, fingerprint: str) -> None:
        """Delete the parts of a stage, for example because it is published now."""
        shutil.rmtree(self._parts_folder(stage, fingerprint), ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / ".parts").rmdir()

    def delete_other_parts(self, wanted: Mapping[StageName, str]) -> None:
        """Delete parts that belong to other settings.

        Args:
            wanted: the fingerprint of each stage with the settings of this run. Parts with these fingerprints are kept.
        """
        kept = {self._parts_folder(stage, fingerprint).name for stage, fingerprint in wanted.items()}
        for parts in (self.folder / ".parts").glob("*"):
            if parts.name not in kept:
                shutil.rmtree(parts, ignore_errors=True)

    def _parts_folder(self, stage: StageName, fingerprint: str) -> Path:
        return self.folder / ".parts" / f"{stage}-{fingerprint[:16]}"
