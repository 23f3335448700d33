"""dotbias beside other libraries, on the same ratings: `python -m bench.peers`, or `tox run -e peers`.

`declared.py` says who takes part and how, `environments.py` makes an environment for each, `runners/` holds what runs
inside them, `conversation.py` talks to them, and `__main__.py` lets them take turns.
"""
