"""Commands that are stopped, killed and refused."""

import sys

if sys.argv[:1] == ["-m"]:  # as in studies/__init__.py, for tests.faults.toy
    from studies.lab.stopping import at_once

    at_once()
