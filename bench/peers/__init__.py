"""dotbias and other libraries on the same ratings: `python -m bench.peers`, or `tox run -e peers`.

`declared.py` lists the libraries and their settings, `environments.py` makes an environment for each, `runners/` has
the code that runs inside them, `conversation.py` talks to it, and `__main__.py` runs them in turns.
"""
