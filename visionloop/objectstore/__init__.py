"""Objects in a folder or in an S3-compatible bucket, behind one small interface.

    store = open_store("file:///var/lib/visionloop")      # embedded default
    store = open_store("s3://bucket/prefix")              # endpoint and keys: AWS_* variables

Everything durable in the suite goes through here: blobs, snapshots, bundles, aliases, feedback.
Two conditional writes carry all coordination: `put_if_absent` (claims, commit markers) and
`compare_and_swap` (aliases). A store that lacks them is refused when it is opened for writing.
"""

from visionloop.objectstore.account import S3Account
from visionloop.objectstore.base import ObjectStat, ObjectStore, StoredObject
from visionloop.objectstore.open import open_existing_store, open_store

__all__ = [
    "ObjectStat",
    "ObjectStore",
    "S3Account",
    "StoredObject",
    "open_existing_store",
    "open_store",
]
