"""The plugin registry: find, import and build backbones, heads, detectors and slide readers.

Plugins are found by the entry points of installed packages, or in a Python file that the user names with `--plugin`.
Built-in plugins are discovered through the same entry points as third-party plugins. Listing plugins reads the metadata
of the packages and imports no plugin.

The name of a plugin can carry an argument after a colon: `timm:vit_tiny_patch16_224` or `yolo:FILE.onnx`. The entry
point is the part before the colon. The class sets `takes_argument = True` and receives the keyword `argument`.
"""

from slidepipe.plugins.creation import build, create, get_class
from slidepipe.plugins.kinds import KINDS, Kind, PluginKind
from slidepipe.plugins.local_files import register_file, register_files, registered_files
from slidepipe.plugins.registry import PluginInfo, find, list_plugins

__all__ = [
    "KINDS",
    "Kind",
    "PluginInfo",
    "PluginKind",
    "build",
    "create",
    "find",
    "get_class",
    "list_plugins",
    "register_file",
    "register_files",
    "registered_files",
]
