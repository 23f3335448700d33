"""Triton's interpreter, a third faster."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Change the interpreter, after `tests/conftest.py` has chosen it: Triton reads the choice when it is imported."""
    try:
        import triton.language as tl
        from triton.runtime import interpreter
    except ImportError:  # Triton is available on Linux
        return
    patch_lang = interpreter._patch_lang

    def patch_once(kernel: Any) -> Any:
        """Replace the names of `triton.language` that a kernel sees by the interpreter's, unless they are replaced.

        Triton goes through all of them again at each call of a function within a kernel, a third of its time.
        """
        seen = [lang for lang in (tl, tl.core) if any(value is lang for value in kernel.__globals__.values())]
        if seen and not any(tl.core.is_builtin(lang.load) for lang in seen):
            return interpreter._LangPatchScope()  # nothing to restore
        return patch_lang(kernel)

    interpreter._patch_lang = patch_once  # type: ignore[assignment]
