"""Fast ops for embedding-dot-bias models: each with a reference, a CPU-native and a Triton implementation."""
