"""How a run speaks on stderr: a line an event, as text or as JSON."""

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``event``, ``message``, and the facts of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
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
    """Writes lines to stderr, above the progress bars where some are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")  # where nothing has imported it, no bars are shown
        if tqdm is None:
            print(self.format(record), file=sys.stderr)  # noqa: T201  # this is where lines go out
        else:
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


def wanted_format(arguments: Sequence[str]) -> LogFormat:
    """The form that a command line asks for, seen before it is parsed: what is wrong with it is told in that form too."""
    asked = "text"
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option == "--":
            break
        if option == "--log-format":
            asked = value
        elif option.startswith("--log-format="):
            asked = option.partition("=")[2]
    return "json" if asked == "json" else "text"


def speak(log_format: LogFormat, level: int) -> None:
    """Let slidepipe tell of its events on stderr: those of ``level`` and above. The last call decides."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stderr)]:
        root.removeHandler(handler)
    handler = _Stderr()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter("slidepipe: %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(log_format == "json")  # a warning of a library is a line of the same kind
