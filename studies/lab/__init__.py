"""What studies share: specification, sweep, command line."""
