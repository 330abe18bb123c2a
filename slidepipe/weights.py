"""Weight files: fetched from the Hugging Face hub or named by the user, verified, and loaded strictly.

Never random weights: what cannot be had, cannot be read or does not fit is a :class:`WeightsError` that says what to
do.
Torch, safetensors and huggingface_hub are imported inside the functions, so that importing this module stays light.
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
"""Entries under which training checkpoints keep a network, the one to prefer first."""

PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""Wrappers that training leaves before the keys (data parallel, compiled, multi-crop)."""

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
"""Starts of keys that no embedding needs: classifiers, projection heads, decoders. Any other extra key is an error."""

NOT_NEEDED = ("num_batches_tracked",)
"""Ends of keys that may be missing: counters that do nothing outside training."""

WIDTHS = {192: "Tiny", 384: "Small", 768: "Base", 1024: "Large", 1280: "Huge", 1408: "Giant", 1536: "Giant"}
"""Embedding widths of the usual vision transformers."""


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub.

    Attributes:
        repo: "OWNER/NAME".
        filename: path in the repository.
        revision: commit, tag or branch; None is the default branch.
    """

    repo: str
    filename: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}{'@' + self.revision if self.revision else ''}: {self.filename}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_sha256(path: Path, expected: str | None) -> str:
    """Hash a file and compare.

    A file in the hub's cache is compared with its own name there too: for large files the hub's name is their SHA-256.

    Returns:
        The SHA-256, hex.

    Raises:
        WeightsError: the file cannot be read, or its hash is another.
    """
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: the weights cannot be read ({error.strerror}); check the path") from error
    blob = path.resolve().name
    cached = re.fullmatch(r"[0-9a-f]{64}", blob) is not None
    for wanted in (expected.lower() if expected else None, blob if cached else None):
        if wanted is not None and wanted != found:
            remedy = f"delete {path.resolve()} and run again to fetch it anew" if cached else "get the file again"
            raise WeightsError(f"{path}: checksum mismatch: SHA-256 is {found}, expected {wanted}; {remedy}")
    return found


def fetch(candidates: Sequence[HubFile], what: str) -> Path:
    """Fetch the first of several hub files that exists, through the hub's cache.

    ``HF_ENDPOINT``, ``HF_HUB_CACHE`` and ``HF_HUB_OFFLINE`` are respected as they are at the time of the call.

    Args:
        candidates: where the weights may be, best first.
        what: whose weights, for messages.

    Raises:
        WeightsError: none can be had; the message says why and how to get them by hand.
    """
    from huggingface_hub import hf_hub_download
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
    unreachable = None if offline else _unreachable(endpoint)
    reasons: list[str] = []
    for file in candidates:
        try:
            return Path(
                hf_hub_download(
                    file.repo,
                    file.filename,
                    revision=file.revision,
                    endpoint=endpoint,
                    cache_dir=os.environ.get("HF_HUB_CACHE") or None,
                    local_files_only=offline or unreachable is not None,
                )
            )
        except LocalEntryNotFoundError as error:
            if offline:
                reasons.append(f"{file} is not in the cache and HF_HUB_OFFLINE is set")
            else:
                raise _cannot(
                    what, [f"{file}: the hub cannot be reached ({unreachable or _root(error)})"], candidates
                ) from error
        except GatedRepoError:
            reasons.append(f"{file} asks you to accept its terms and log in (set HF_TOKEN)")
        except RepositoryNotFoundError:
            reasons.append(f"{file}: no such public repository (404)")
        except RevisionNotFoundError:
            reasons.append(f"{file}: no such revision (404)")
        except EntryNotFoundError:
            reasons.append(f"{file}: no such file (404)")
        except HFValidationError as error:
            raise WeightsError(f"weights of {what}: {file.repo!r} is not of the form OWNER/NAME") from error
        except Exception as error:  # the HTTP library beneath the hub's client is not ours to name
            raise _cannot(what, [f"{file}: download failed ({_root(error)})"], candidates) from error
    raise _cannot(what, reasons, candidates)


def _unreachable(endpoint: str) -> str | None:
    """Why no connection to the hub can be made, or None: on a machine without a network its client would retry for a minute."""
    if urllib.request.getproxies():
        return None  # a proxy may reach what this machine cannot
    parts = urllib.parse.urlsplit(endpoint)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=10).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _cannot(what: str, reasons: Sequence[str], candidates: Sequence[HubFile]) -> WeightsError:
    best = candidates[0]
    return WeightsError(
        f"weights of {what} cannot be had: {'; '.join(reasons)}; where there is a network, "
        f"run `hf download {best.repo} {best.filename}`, then give the file with --weights FILE"
    )


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def read_checkpoint(path: Path) -> Any:
    """Read a .pth (zip or legacy pickle) or .safetensors file onto the CPU; told apart by content, not by name.

    Only tensors, plain containers and the harmless leftovers of training scripts (an argparse namespace, NumPy numbers)
    are unpickled: ``torch.load(weights_only=True)``, always.

    Raises:
        WeightsError: the file is missing, empty, truncated, of another kind, or holds Python objects.
    """
    import pickle

    import torch

    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise WeightsError(f"{path}: the weights cannot be read ({error.strerror}); check the path") from error
    if start[8:9] == b"{":  # a safetensors header: its length in 8 bytes, then JSON
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: truncated or damaged safetensors file ({error}); get it again") from error
    if not start.startswith((b"PK", b"\x80")):
        kind = "is empty" if not start else "is no weight file (neither .pth nor .safetensors)"
        if start.startswith(b"version https"):
            kind = "is a Git LFS pointer, not the file it points to"
        elif start.lstrip().lower().startswith(b"<"):
            kind = "is a web page, not weights"
        raise WeightsError(f"{path}: the file {kind}; get the weights again")
    try:
        # An open file rather than a path: torch goes by the name's ending where it is given one.
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # read or refused all the same
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            f"{path}: the file holds Python objects ({found[1]}), which are not loaded for safety; "
            "save its state_dict alone and give that"
            if found
            else f"{path}: truncated or damaged .pth file; get it again"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: truncated or damaged .pth file ({_root(error)}); get it again") from error


def _harmless() -> list[Any]:
    """Types that the DINO training script leaves in its checkpoints beside tensors."""
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
    """Take the network out of what a file holds: the teacher (or student) of a training checkpoint, or the file itself.

    The prefixes ``module.`` and ``backbone.`` go; where some keys carry ``backbone.``, what does not is a projection
    head and goes too, as long as it is on the list of what no embedding needs (:data:`DROPPED`).

    Args:
        checkpoint: as :func:`read_checkpoint` gives it.
        path: for messages.
        entry: the entry to take ("student"); None takes the first of :data:`ENTRIES` that is there.

    Raises:
        WeightsError: the file holds no network, or not the entry asked for.
    """
    import torch

    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path}: the file holds a {type(checkpoint).__name__}, not a dictionary of weights")
    entries = [key for key, value in checkpoint.items() if isinstance(value, Mapping)]
    if entry is not None:
        if entry not in entries:
            raise WeightsError(f"{path}: the checkpoint has no entry {entry!r}; it has: {', '.join(entries) or 'none'}")
        checkpoint = checkpoint[entry]
    else:
        checkpoint = next((checkpoint[key] for key in ENTRIES if key in entries), checkpoint)
    state = {str(key): value for key, value in checkpoint.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise WeightsError(f"{path}: no weights in the file; its entries: {', '.join(map(str, checkpoint)) or 'none'}")
    while True:
        prefix = next((prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in state)), None)
        if prefix is None:
            return state
        # Keys beside the prefix stay as they are: the strict comparison judges them.
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def looks_like(state: Mapping[str, torch.Tensor]) -> str:
    """Say in words which network a state dict is, from its keys and shapes."""
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
    """Compare a network with a state dict.

    Returns:
        None where it fits; else the missing, unexpected and misshapen keys, the first five of each.
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
    """Load a state dict into a network, every key accounted for.

    Raises:
        WeightsError: a key is missing, unexpected (and not in :data:`DROPPED`) or of another shape, or a weight is not
            finite. The message says which network the file looks like.
    """
    wanted = network.state_dict()
    wrong = misfit(wanted, state)
    if wrong is not None:
        file_network, own_network = looks_like(state), looks_like(wanted)
        told = f"the file looks like {file_network}, {what} is {own_network}; " if file_network != own_network else ""
        raise WeightsError(f"{path}: the weights do not fit {what}: {told}keys: {wrong}")
    bad = [key for key in wanted if key in state and not bool(state[key].isfinite().all())]
    if bad:
        raise WeightsError(f"{path}: weights that are not finite: {', '.join(bad[:5])}; get the file again")
    network.load_state_dict({key: state.get(key, value) for key, value in wanted.items()}, strict=True)
