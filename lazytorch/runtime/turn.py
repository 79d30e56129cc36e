"""A lock that tells whether another thread had it: what it did in the meantime may be enough."""

from __future__ import annotations

import threading


class Turn:
    """`with turn as waited`: one thread at a time, which may enter again."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __enter__(self) -> bool:
        waited = not self.lock.acquire(blocking=False)
        if waited:
            self.lock.acquire()
        return waited

    def __exit__(self, *raised: object) -> None:
        self.lock.release()
