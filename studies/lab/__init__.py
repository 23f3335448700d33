"""The code that studies share: specification, sweep, command line."""
