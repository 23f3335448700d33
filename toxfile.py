"""A tox plugin: environments that share a folder share the packages installed there.

tox empties a folder that has the name of another environment in it. Here all environments with torch share one folder
and one list of dependencies (`[testenv]` in tox.ini), so the first one fills it for all.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from tox.plugin import impl
from tox.tox_env.info import Info
from tox.tox_env.python.virtual_env.runner import VirtualEnvRunner
from tox.tox_env.register import ToxEnvRegister


class FolderInfo(Info):
    """The record that tox has of a folder, with the folder's name instead of the environment's."""

    def compare(self, value: Any, section: str, sub_section: str | None = None) -> AbstractContextManager[Any]:
        """As in tox, which recreates an environment if this differs from its record."""
        if isinstance(value, dict) and "name" in value:
            value = value | {"name": self._path.parent.name}
        return super().compare(value, section, sub_section)


class SharedFolder(VirtualEnvRunner):
    """A virtual environment that another name may have made."""

    @staticmethod
    def id() -> str:
        """Its name in tox.ini, under `runner`."""
        return "shared folder"

    @property
    def cache(self) -> FolderInfo:
        """The record of tox."""
        return FolderInfo(self.env_dir)


@impl
def tox_register_tox_env(register: ToxEnvRegister) -> None:
    """Make it available in tox.ini."""
    register.add_run_env(SharedFolder)
