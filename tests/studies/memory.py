"""What a fresh process calls to have its memory measured; it imports nothing that takes time."""

from collections.abc import Callable


def bytes_held(count: str) -> Callable[[], bytes]:
    """A call that needs so much memory."""
    return lambda: b"1" * int(count)
