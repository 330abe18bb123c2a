"""The stage "embed": one embedding per object."""

from time import perf_counter

import numpy as np

from slidepipe.config import Config
from slidepipe.crops.cut import decode_crop
from slidepipe.embedding.embed import join_embeddings
from slidepipe.errors import SlidepipeError
from slidepipe.interfaces import Float32Array
from slidepipe.pipeline.engine import Task, Work
from slidepipe.pipeline.fingerprints import EMBEDDINGS_VERSION
from slidepipe.pipeline.jobs import SlideJob, SlideState
from slidepipe.pipeline.specs import EmbedSpec
from slidepipe.pipeline.stages.stage import Expect, Stage
from slidepipe.pipeline.tasks import embed_by
from slidepipe.slides.geometry import SlideMeta
from slidepipe.store.arrays import write_embedding_parts
from slidepipe.store.object_id import ObjectId

_NAME = "embed"


def _depends_on(job: SlideJob, meta: SlideMeta, before: str) -> tuple[object, ...]:
    return before, job.embed.digest()


def _work(state: SlideState, config: Config, expect: Expect) -> Work:
    job = state.job
    if job is None:
        return
    started = perf_counter()
    objects = state.count_objects()
    expect(objects)
    # A part is a batch, so that batches, and with them rounding, do not depend on the workers.
    parts = -(-objects // job.embed.batch)
    embedding = [Task(embed_part, (job, part), gpu=True, counts_for=_NAME) for part in range(parts)]
    if job.embed.companion is not None:  # on the workers without a GPU, if there are any
        embedding += [Task(embed_companion_part, (job, parts, part), counts_for=_NAME) for part in range(parts)]
    yield embedding
    yield [Task(publish_embeddings, (job, parts, perf_counter() - started))]


# -- tasks --------------------------------------------------------------------------------------------------------------


def embed_part(job: SlideJob, part: int) -> int:
    """Embed the stored crops of one part with the backbone. An object without a crop gets NaN.

    Returns:
        the number of objects of the part.
    """
    return _embed_part(job, job.embed, part, part)


def embed_companion_part(job: SlideJob, parts: int, part: int) -> int:
    """Embed the stored crops of one part with the companion backbone.

    Args:
        job: the work on the slide.
        parts: the number of parts of the slide. The result is stored as part number `parts` + `part`.
        part: number of the part.

    Returns:
        0: progress counts an object once, with the backbone.
    """
    if job.embed.companion is None:
        raise SlidepipeError("this run has no companion backbone")
    _embed_part(job, job.embed.companion, part, parts + part)
    return 0


def _embed_part(job: SlideJob, spec: EmbedSpec, part: int, stored_as: int) -> int:
    wanted = job.fingerprints["embeddings"]
    reader = job.store.crops()
    start, stop = part * spec.batch, min((part + 1) * spec.batch, len(reader))
    if job.store.part_path("embeddings", wanted, stored_as).exists():
        return stop - start
    jpegs = reader.jpegs(start, stop)
    kept = [row for row, jpeg in enumerate(jpegs) if jpeg]
    names = [str(ObjectId(job.slide_id, start + row)) for row in kept]
    embeddings = embed_by(spec, [decode_crop(jpegs[row]) for row in kept], names)
    every = np.full((len(jpegs), embeddings.shape[1]), np.nan, np.float32)
    every[kept] = embeddings
    job.store.save_part("embeddings", wanted, stored_as, embeddings=every)
    return stop - start


def publish_embeddings(job: SlideJob, parts: int, seconds: float) -> None:
    """Join the parts of a slide and publish its embeddings.

    Args:
        job: the work on the slide.
        parts: the number of parts.
        seconds: how long the stage took.
    """
    wanted = job.fingerprints["embeddings"]
    objects = int(job.store.attributes("crops")["objects"])

    def load(part: int) -> Float32Array:
        return job.store.load_part("embeddings", wanted, part)["embeddings"]

    own = (load(part) for part in range(parts))
    companion = (load(parts + part) for part in range(parts))
    whole = own if job.embed.companion is None else map(join_embeddings, own, companion)
    attributes = {"objects": objects, "seconds": round(seconds, 3)}
    job.store.publish("embeddings", wanted, attributes, lambda group: write_embedding_parts(group, whole, objects))
    job.store.delete_parts("embeddings", wanted)


EMBED = Stage(
    name=_NAME,
    stored="embeddings",
    version=EMBEDDINGS_VERSION,
    unit="object",
    depends_on=_depends_on,
    work=_work,
)
