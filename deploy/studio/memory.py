"""How the process gives memory back, so that it stays flat under load."""

from __future__ import annotations

import contextlib
import ctypes

# Of glibc's malloc.h.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE = 128 * 1024


def give_back_freely() -> None:
    """Pictures go back to the system when they are freed, and threads share two arenas; nothing on other libraries.

    By itself glibc raises the size that it maps apart to that of the largest picture seen, and keeps what is smaller in
    as many heaps as there are threads: they fragment, and grow.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_ARENA_MAX, 2)
