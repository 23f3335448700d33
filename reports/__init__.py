"""Results in, HTML out."""
