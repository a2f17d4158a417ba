"""Images are built once for all tests that run them."""

from support.built_images import built, storage

__all__ = ["built", "storage"]
