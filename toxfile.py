"""A plugin of tox: environments that share a folder share what is installed there.

tox empties a folder where it finds the name of another environment. Here all that have torch share one folder and one
list of dependencies (`[testenv]` in tox.ini), so that it is filled once, whichever comes first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from tox.plugin import impl
from tox.tox_env.info import Info
from tox.tox_env.python.virtual_env.runner import VirtualEnvRunner
from tox.tox_env.register import ToxEnvRegister


class FolderInfo(Info):
    """What tox remembers of a folder, with the folder's name in the place of the environment's."""

    def compare(self, value: Any, section: str, sub_section: str | None = None) -> AbstractContextManager[Any]:
        """As tox does, which recreates an environment where this differs from what it remembers."""
        if isinstance(value, dict) and "name" in value:
            value = value | {"name": self._path.parent.name}
        return super().compare(value, section, sub_section)


class SharedFolder(VirtualEnvRunner):
    """A virtual environment that other names may have made."""

    @staticmethod
    def id() -> str:
        """Its name in tox.ini, under `runner`."""
        return "shared folder"

    @property
    def cache(self) -> FolderInfo:
        """What tox remembers."""
        return FolderInfo(self.env_dir)


@impl
def tox_register_tox_env(register: ToxEnvRegister) -> None:
    """Let tox.ini name it."""
    register.add_run_env(SharedFolder)
