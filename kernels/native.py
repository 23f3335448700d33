"""How the CPU-native loops are compiled, by Numba, when they are first called, and kept on disk for the next time.

The compiled code lies beside the module, or in `NUMBA_CACHE_DIR`. It is made anew when any file of this package has
changed: Numba itself looks at the file of the function that Python calls, and not at what that calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.types.misc import unliteral

# reassoc lets sums use vector lanes; contract allows fused multiply-add. Not nnan: a NaN must show.
FASTMATH = {"reassoc", "contract", "nsz"}


@cache
def _sources() -> str:
    """A digest of the package's files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        # Nobody counts references: who calls from Python holds the arrays, no memory is asked for here, and threads
        # that count in one place would wait for each other.
        how = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
        try:
            dispatcher = numba.njit(cache=True, **how, **options)(function)
            dispatcher._cache._cache_file._source_stamp = _sources()
        except RuntimeError:  # there is no folder to keep it in
            dispatcher = numba.njit(**how, **options)(function)
        template = dispatcher.get_call_template

        def one_type(args: Any, kws: Any) -> Any:
            """A literal 0 is any number of its type. Numba would compile for it apart, and all that is called so."""
            return template(tuple(map(unliteral, args)), {name: unliteral(kind) for name, kind in kws.items()})

        dispatcher.get_call_template = one_type
        return dispatcher

    return decorate


compiled = _compiled(fastmath=FASTMATH)
# Written out where it is called, which for a few lines is compiled sooner than a call.
inlined = _compiled(fastmath=FASTMATH, inline="always")
# Rounded as it is written, nothing reordered or fused: so replayed steps give the bits of dense ones. Where fastmath is
# not said to be off, Numba takes over that of whichever caller is compiled first. LLVM puts it into its callers, for
# what is called for each row would cost a twentieth more.
rounded = _compiled(fastmath=False, forceinline=True)
rounded_inlined = _compiled(fastmath=False, inline="always")
