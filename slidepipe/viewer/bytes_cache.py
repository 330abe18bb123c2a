"""A cache of byte strings with a size limit."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class BytesCache:
    """A least-recently-used cache that may be used from several threads.

    Args:
        max_bytes: largest total size of the stored values. A single value that is larger is stored alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._size_bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def size_bytes(self) -> int:
        """Total size of the stored values."""
        return self._size_bytes

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return the value of a key; make and store it if it is not there.

        Args:
            key: the key.
            make: makes the value. If it raises an error, the error is passed on and nothing is stored.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Made without the lock: two threads may make the same value, which is better than one waiting for the other.
        value = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._size_bytes += len(value)
            while self._size_bytes > self._max_bytes and len(self._values) > 1:
                _, removed = self._values.popitem(last=False)
                self._size_bytes -= len(removed)
        return value
