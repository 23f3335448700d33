"""The lesson as a library, in the lesson's own words."""
