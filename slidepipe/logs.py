"""Log messages on stderr: one line per event, as text or as JSON."""

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object per line: `time`, `level`, `event`, `message`, and the facts of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Stderr(logging.Handler):
    """Write lines to stderr, above the progress bars if any are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")  # if nothing has imported it, no bars are shown
        if tqdm is None:
            print(self.format(record), file=sys.stderr)  # noqa: T201  # the only place that prints messages
        else:
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


def wanted_format(arguments: Sequence[str]) -> LogFormat:
    """Return the log format that a command line asks for.

    It is needed before the arguments are parsed, because errors in the arguments are reported in this format too.

    Args:
        arguments: the arguments of the command line, unparsed.
    """
    asked = "text"
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option == "--":
            break
        if option == "--log-format":
            asked = value
        elif option.startswith("--log-format="):
            asked = option.partition("=")[2]
    return "json" if asked == "json" else "text"


def configure_logging(log_format: LogFormat, level: int) -> None:
    """Send log messages to stderr. A later call replaces the settings of an earlier one.

    Args:
        log_format: "text" or "json".
        level: lowest level that is shown, for example `logging.WARNING`.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stderr)]:
        root.removeHandler(handler)
    handler = _Stderr()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter("slidepipe: %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(log_format == "json")  # then warnings of libraries are JSON lines too
