"""A backbone with random weights: the control that shows what the network scores before any training."""

import functools
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from slidepipe.errors import PluginError
from slidepipe.interfaces import Backbone
from slidepipe.pipeline import tasks
from slidepipe.pipeline.specs import PluginSpec

if TYPE_CHECKING:
    import torch


@functools.lru_cache(maxsize=1)
def random_backbone(plugin: PluginSpec, device: str) -> Backbone | None:
    """Return a backbone whose own weights are replaced by random ones, the same ones on every worker.

    The modules that an embedding calls are recorded, so this works for any backbone that runs a torch network.

    Args:
        plugin: the backbone.
        device: device to load it on.

    Returns:
        The loaded backbone; None if it runs no torch network.

    Raises:
        PluginError: the weights of a module cannot be drawn at random.
    """
    # A separate instance is loaded, because the cached one must keep its weights.
    backbone = tasks.get_backbone.__wrapped__(plugin, device)
    if "torch" not in sys.modules:
        return None
    import torch

    modules = _called_modules(backbone)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        drawn = _draw_weights(modules)
    except RuntimeError as error:
        raise PluginError(f"{plugin.name}: its weights cannot be drawn at random ({error})") from error
    finally:
        torch.random.set_rng_state(state)
    return backbone if drawn else None


def _called_modules(backbone: Backbone) -> "list[torch.nn.Module]":
    """Return the modules that an embedding calls, in the order of their first call."""
    import torch

    called: dict[int, torch.nn.Module] = {}

    def record(module: torch.nn.Module, arguments: object) -> None:
        called.setdefault(id(module), module)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(record)
    try:
        backbone.embed(np.full((1, backbone.input_px, backbone.input_px, 3), 128, np.uint8))
    finally:
        hook.remove()
    return list(called.values())


def _draw_weights(modules: "Iterable[torch.nn.Module]") -> bool:
    """Draw the parameters of modules at random; return False if they have no parameters."""
    import torch

    drawn = False
    with torch.no_grad():
        for module in modules:
            reset = getattr(module, "reset_parameters", None)  # torch declares it on some modules only
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(0, 0.02)
            drawn |= any(True for _ in module.parameters(recurse=False))
    return drawn
