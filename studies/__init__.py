"""One file a question: `python -m studies` lists them."""

import sys

if sys.argv[:1] == ["-m"]:  # a command of this package starts, and its imports take seconds
    from studies.lab.stopping import at_once

    at_once()
