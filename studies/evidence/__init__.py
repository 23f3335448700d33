"""The claims, the results' schema, statistics and provenance: plain data and mathematics, no torch."""
