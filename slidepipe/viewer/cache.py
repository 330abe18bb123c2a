"""A cache of bytes that never holds more than it may."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class BytesCache:
    """The most recently used values, together at most ``most_bytes``. It may be used from several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._held_bytes = most_bytes, 0
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def held_bytes(self) -> int:
        """Bytes of all values held."""
        return self._held_bytes

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The value of ``key``, made by ``make`` if it is not held. What ``make`` raises is passed on, and nothing is kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = (
            make()
        )  # outside the lock: two threads may make the same, which is better than one waiting for the other
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._held_bytes += len(value)
            while self._held_bytes > self._most_bytes and len(self._values) > 1:
                _, dropped = self._values.popitem(last=False)
                self._held_bytes -= len(dropped)
        return value
