"""A run: how a well of slides becomes tables. Start reading at `slidepipe.pipeline.flow`.

- `flow`: the main flow on one screen.
- `plan`: which slides there are, and what each of them needs.
- `specs`, `jobs`, `fingerprints`: what a run builds, the work on one slide, and what decides if stored results are reused.
- `stages`: the stages detect, crop and embed.
- `process`, `progress`, `status`: working on all slides at the same time, and reporting it.
- `reference`: the reference set of a run.
- `tables`, `summary`: what a run writes.
- `engine`, `cluster`, `workers`, `tasks`: running tasks with Dask, and what runs in a worker.
- `survey`: many wells.
"""
