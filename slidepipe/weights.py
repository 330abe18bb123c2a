"""Weights files: fetch them from the Hugging Face hub, verify them, and load them strictly.

Random weights are never used instead: weights that are missing, unreadable or do not fit raise a `WeightsError`.
Torch, safetensors and huggingface_hub are imported inside the functions, so that importing this module is quick.
"""

from __future__ import annotations

import argparse
import codecs
import hashlib
import os
import re
import socket
import urllib.parse
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidepipe.errors import WeightsError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

ENTRIES = ("teacher", "student", "model_ema", "state_dict_ema", "state_dict", "model")
"""Entries of training checkpoints that contain a network, in order of preference."""

PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""Prefixes that training adds to the keys (data parallel, compiled, multi-crop)."""

DROPPED = (
    "head.",
    "head_dist.",
    "fc.",
    "fc_norm.",
    "classifier.",
    "dino_head.",
    "ibot_head.",
    "projection_head.",
    "projector.",
    "predictor.",
    "decoder",
    "mask_token",
)
"""Beginnings of keys that an embedding does not need: classifiers, projection heads, decoders. Other extra keys are errors."""

NOT_NEEDED = ("num_batches_tracked",)
"""Ends of keys that may be missing: counters that are used in training only."""

WIDTHS = {192: "Tiny", 384: "Small", 768: "Base", 1024: "Large", 1280: "Huge", 1408: "Giant", 1536: "Giant"}
"""Embedding widths of the usual vision transformers."""


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub.

    Attributes:
        repo: the repository, `OWNER/NAME`.
        filename: path of the file in the repository.
        revision: commit, tag or branch; None for the default branch.
    """

    repo: str
    filename: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}{'@' + self.revision if self.revision else ''}: {self.filename}"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_sha256(path: Path, expected: str | None) -> str:
    """Return the SHA-256 of a file, after comparing it with the expected one.

    The hub's cache names a large file after its SHA-256. For such a file, the name is compared, too.

    Args:
        path: the file.
        expected: SHA-256 given by the user, as hexadecimal digits, or None.

    Raises:
        WeightsError: the file cannot be read, or its SHA-256 differs.
    """
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: the weights cannot be read ({error.strerror}). Check the path") from error
    blob = path.resolve().name
    cached = re.fullmatch(r"[0-9a-f]{64}", blob) is not None
    for wanted in (expected.lower() if expected else None, blob if cached else None):
        if wanted is not None and wanted != found:
            fix = f"Delete {path.resolve()} and run again to download it" if cached else "Get the file again"
            raise WeightsError(f"{path}: checksum mismatch: SHA-256 is {found}, expected {wanted}. {fix}")
    return found


def fetch(candidates: Sequence[HubFile], what: str) -> Path:
    """Return the path of the first of several hub files that exists. It is downloaded unless the hub's cache has it.

    The environment variables `HF_ENDPOINT`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` are read at the time of the call.

    Args:
        candidates: files that may contain the weights, the preferred one first.
        what: name of the backbone, for messages.

    Raises:
        WeightsError: no file can be fetched. The message states the reasons and how to get the file by hand.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    unreachable = None if offline else _connection_problem(endpoint)
    reasons: list[str] = []
    for file in candidates:
        try:
            return _download(file, endpoint, cache_only=offline or unreachable is not None)
        except LocalEntryNotFoundError as error:
            if offline:
                reasons.append(f"{file} is not in the cache and HF_HUB_OFFLINE is set")
            else:
                reason = f"{file}: the hub cannot be reached ({unreachable or _root_cause(error)})"
                raise _not_available(what, [reason], candidates) from error
        except GatedRepoError:
            reasons.append(f"{file} requires that you accept its terms and log in (set HF_TOKEN)")
        except RepositoryNotFoundError:
            reasons.append(f"{file}: no such public repository (404)")
        except RevisionNotFoundError:
            reasons.append(f"{file}: no such revision (404)")
        except EntryNotFoundError:
            reasons.append(f"{file}: no such file (404)")
        except HFValidationError as error:
            raise WeightsError(f"weights of {what}: {file.repo!r} is not of the form OWNER/NAME") from error
        except Exception as error:  # errors of the HTTP library that the client of the hub uses
            raise _not_available(what, [f"{file}: download failed ({_root_cause(error)})"], candidates) from error
    raise _not_available(what, reasons, candidates)


def _download(file: HubFile, endpoint: str, *, cache_only: bool) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            file.repo,
            file.filename,
            revision=file.revision,
            endpoint=endpoint,
            cache_dir=os.environ.get("HF_HUB_CACHE") or None,
            local_files_only=cache_only,
        )
    )


def _connection_problem(endpoint: str) -> str | None:
    """Return why the hub cannot be reached, or None. Without a network, the client of the hub would retry for a minute."""
    if urllib.request.getproxies():
        return None  # the proxy may reach hosts that this machine cannot
    parts = urllib.parse.urlsplit(endpoint)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=10).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _not_available(what: str, reasons: Sequence[str], candidates: Sequence[HubFile]) -> WeightsError:
    best = candidates[0]
    return WeightsError(
        f"weights of {what} cannot be fetched: {'; '.join(reasons)}. On a machine with a network, "
        f"run `hf download {best.repo} {best.filename}`, then give the file with --weights FILE"
    )


def _root_cause(error: BaseException) -> str:
    """Return the type and the first line of the error that caused another one."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def read_checkpoint(path: Path) -> Any:
    """Read a .pth (zip or legacy pickle) or .safetensors file onto the CPU. Its content, not its name, decides the format.

    `torch.load(weights_only=True)` is always used. It unpickles only tensors, plain containers and the harmless objects
    that training scripts store (an argparse namespace, NumPy numbers).

    Raises:
        WeightsError: the file is missing, empty, truncated, in another format, or contains Python objects.
    """
    import pickle

    import torch

    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise WeightsError(f"{path}: the weights cannot be read ({error.strerror}). Check the path") from error
    if start[8:9] == b"{":  # a safetensors header: its length in 8 bytes, then JSON
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: truncated or damaged safetensors file ({error}). Get it again") from error
    if not start.startswith((b"PK", b"\x80")):
        kind = "is empty" if not start else "is not a weights file (neither .pth nor .safetensors)"
        if start.startswith(b"version https"):
            kind = "is a Git LFS pointer, not the file that it points to"
        elif start.lstrip().lower().startswith(b"<"):
            kind = "is a web page, not weights"
        raise WeightsError(f"{path}: the file {kind}. Get the weights again")
    try:
        # Pass an open file, because torch decides by the suffix if it is given a path.
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # does not change what is read
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            f"{path}: the file contains Python objects ({found[1]}), which are not loaded for safety. "
            "Save only the state_dict and use that file"
            if found
            else f"{path}: truncated or damaged .pth file. Get it again"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: truncated or damaged .pth file ({_root_cause(error)}). Get it again") from error


def _harmless() -> list[Any]:
    """Return the types that the DINO training script stores in its checkpoints in addition to tensors."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")},
        codecs.encode,
    ]


def network_state(checkpoint: Any, path: Path, entry: str | None = None) -> State:
    """Return the state dict of the network in a checkpoint: that of the teacher or student, or the file itself.

    Prefixes of the keys (`PREFIXES`) are removed. A key without the prefix that other keys have belongs to a projection
    head. It is kept, and `load_strictly` ignores it only if it starts as one of `DROPPED`.

    Args:
        checkpoint: as `read_checkpoint` returns it.
        path: the file, for messages.
        entry: the entry to use, for example `student`. None uses the first of `ENTRIES` that exists.

    Raises:
        WeightsError: the file contains no network, or not the given entry.
    """
    import torch

    if not isinstance(checkpoint, Mapping):
        raise WeightsError(
            f"{path}: the file contains a {type(checkpoint).__name__}, not a dictionary of weights. Save the state_dict"
        )
    entries = [key for key, value in checkpoint.items() if isinstance(value, Mapping)]
    if entry is not None:
        if entry not in entries:
            raise WeightsError(
                f"{path}: the checkpoint has no entry {entry!r}. Choose one of its entries: {', '.join(entries) or 'none'}"
            )
        checkpoint = checkpoint[entry]
    else:
        checkpoint = next((checkpoint[key] for key in ENTRIES if key in entries), checkpoint)
    state = {str(key): value for key, value in checkpoint.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise WeightsError(
            f"{path}: no weights in the file. Its entries are: {', '.join(map(str, checkpoint)) or 'none'}. "
            "Give a file with a state_dict"
        )
    while True:
        prefix = next((prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in state)), None)
        if prefix is None:
            return state
        # Keys without the prefix are kept; `load_strictly` decides about them.
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def looks_like(state: Mapping[str, torch.Tensor]) -> str:
    """Return in words which network a state dict is for, judged by its keys and shapes."""
    for key, name in (
        ("layer1.0.conv1.weight", "a ResNet"),
        ("stages.0.blocks.0.conv_dw.weight", "a ConvNeXt"),
        ("conv_stem.weight", "a MobileNet or EfficientNet"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", "a Swin transformer"),
    ):
        if key in state:
            return f"{name} ({len(state)} tensors)"
    patch = next((value for key, value in state.items() if key.endswith("patch_embed.proj.weight")), None)
    blocks = {int(match[1]) for key in state if (match := re.search(r"(?:^|\.)blocks\.(\d+)\.", key))}
    if patch is not None and patch.ndim == 4 and blocks:
        width, _, patch_px, _ = patch.shape
        name = f"ViT-{WIDTHS[width]}" if width in WIDTHS else "a vision transformer"
        return f"{name}/{patch_px} ({width} wide, patch {patch_px}, {len(blocks)} blocks)"
    return f"an unknown network ({len(state)} tensors, the first {next(iter(state), 'none')})"


def misfit(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> str | None:
    """Compare the state dict of a network with that of a file.

    Args:
        wanted: the state dict of the network.
        state: the state dict of the file.

    Returns:
        None if it fits; otherwise the missing, unexpected and misshapen keys in words, the first five of each.
    """
    missing = [key for key in wanted if key not in state and not key.endswith(NOT_NEEDED)]
    unexpected = [key for key in state if key not in wanted and not key.startswith(DROPPED)]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    parts = [
        f"{len(keys)} {word} ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    return ", ".join(parts) or None


def load_strictly(network: torch.nn.Module, state: State, what: str, path: Path) -> None:
    """Load a state dict into a network. Every key must fit.

    Args:
        network: the network, which is changed in place.
        state: the state dict of the file.
        what: name of the backbone, for messages.
        path: the file, for messages.

    Raises:
        WeightsError: a key is missing, unexpected (and not one of `DROPPED`) or of another shape, or a weight is not
            finite. The message states which network the file looks like.
    """
    wanted = network.state_dict()
    wrong = misfit(wanted, state)
    if wrong is not None:
        file_network, own_network = looks_like(state), looks_like(wanted)
        hint = f"the file looks like {file_network}, {what} is {own_network}; " if file_network != own_network else ""
        raise WeightsError(f"{path}: the weights do not fit {what}: {hint}keys: {wrong}. Give the weights of {what}")
    bad = [key for key in wanted if key in state and not bool(state[key].isfinite().all())]
    if bad:
        raise WeightsError(f"{path}: weights are not finite: {', '.join(bad[:5])}. Get the file again")
    network.load_state_dict({key: state.get(key, value) for key, value in wanted.items()}, strict=True)
