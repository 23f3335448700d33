"""Makes an environment for each list of requirements, once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ENVIRONMENTS = Path(__file__).parents[2] / ".tox" / "peers"


class NoEnvironmentError(RuntimeError):
    """An environment could not be made: the message is pip's last line."""


def python_of(requirements: Path | None, environments: Path = ENVIRONMENTS) -> str:
    """The interpreter of the environment with `requirements`, which is made if it is missing.

    NAME.txt is installed with dependencies; then NAME-alone.txt, if there is one, without. None means this interpreter.

    Raises:
        NoEnvironmentError: pip cannot install them.
    """
    if requirements is None:
        return sys.executable
    alone = requirements.with_name(f"{requirements.stem}-alone.txt")
    lists = [(requirements, []), *([(alone, ["--no-deps"])] if alone.exists() else [])]
    folder = environments / requirements.stem
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = "\n".join([sys.version, *(path.read_text(encoding="utf-8") for path, _ in lists)])
    made = folder / "made.txt"
    if made.exists() and made.read_text(encoding="utf-8") == wanted:
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False)
    for path, options in lists:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            *options,
            "-r",
            str(path),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise NoEnvironmentError(
                f"pip cannot install {path.name}: {errors[-1] if errors else 'pip gives no reason'}"
            )
    made.write_text(wanted, encoding="utf-8")
    return str(python)
