"""How Numba compiles the CPU-native loops, when they are first called, and keeps them on disk for the next time.

The compiled code is kept beside the module, or in `NUMBA_CACHE_DIR`. When any file of this package changes, everything
is compiled again: Numba alone checks only the file of the function that Python calls, not those of the functions that
this one calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile
from numba.core.types.misc import unliteral

# reassoc lets sums use vector lanes; contract allows fused multiply-add. Without nnan, because a NaN must show.
FASTMATH = {"reassoc", "contract", "nsz"}


@cache
def _sources() -> str:
    """A digest of all files of the package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _CacheFile(IndexDataCacheFile):
    """Numba's files of compiled code, without its index: each signature's file has a name of its own.

    Numba numbers the files, and an index says which number has which signature. Two processes that compile at the same
    moment give the same number to two signatures, and then one loads the other's code.

    What cannot be read counts as absent, and is compiled. A file may be cut short, or come from an earlier version of
    this package: it is a pickle, which names classes that may be gone.
    """

    def save(self, key: Any, data: Any) -> None:
        """Keep the code of this key, in place of an earlier version's."""
        self._save_data(self._name(key), (self._stamp(key), data))

    def load(self, key: Any) -> Any:
        """The code of this key; None if there is none."""
        try:
            stamp, data = self._load_data(self._name(key))
            return data if stamp == self._stamp(key) else None
        except Exception:
            return None

    def _stamp(self, key: Any) -> tuple[Any, ...]:
        return self._version, self._source_stamp, key

    def _name(self, key: Any) -> str:
        signature, processor, _ = key  # and the function's own code, which changes
        digest = hashlib.sha256(repr((signature, processor)).encode()).hexdigest()[:16]
        return f"{self._index_name.removesuffix('.nbi')}.{digest}.nbc"


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        # Reference counting is off (_nrt): the Python caller keeps the arrays alive, these loops allocate no memory,
        # and threads that update the same count would wait for each other.
        how = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
        try:
            dispatcher = numba.njit(cache=True, **how, **options)(function)
            cache = dispatcher._cache
            cache._cache_file = _CacheFile(cache._cache_path, cache._impl.filename_base, _sources())
        except RuntimeError:  # no folder can be written
            dispatcher = numba.njit(**how, **options)(function)
        template = dispatcher.get_call_template

        def one_type(args: Any, kws: Any) -> Any:
            """Treat a literal such as 0 as any number of its type: else Numba compiles each callee once more for it."""
            return template(tuple(map(unliteral, args)), {name: unliteral(kind) for name, kind in kws.items()})

        dispatcher.get_call_template = one_type
        return dispatcher

    return decorate


compiled = _compiled(fastmath=FASTMATH)
# Copied into the caller: for a few lines this compiles faster than a call.
inlined = _compiled(fastmath=FASTMATH, inline="always")
# Compiled apart, and copied into its callers by LLVM. If a function that compiled code calls were only `compiled`, the
# process that compiles both would run the function's own code, and one that loads the caller from the cache the copy
# that was optimized with the caller: they may round differently.
llvm_inlined = _compiled(fastmath=FASTMATH, forceinline=True)
# Rounded exactly as written, nothing reordered or fused, so that replayed steps give the same bits as dense ones. The
# `fastmath=False` is needed: without it Numba uses the setting of the caller that is compiled first. `forceinline` lets
# LLVM inline the code: a call for each row would cost 5 % more.
rounded = _compiled(fastmath=False, forceinline=True)
rounded_inlined = _compiled(fastmath=False, inline="always")
