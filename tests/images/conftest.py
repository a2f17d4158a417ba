"""Images are built once for all tests that run them."""

from support.built_images import built, built_large, storage

__all__ = ["built", "built_large", "storage"]
