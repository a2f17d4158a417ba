"""Groups of pictures that show the same, by the rule of labeling-ingest's duplicate search.

That rule also caps a group's size and leaves images out of a snapshot instead. Here nothing is left
out: whatever a chain of likenesses joins stays together, which is the stricter of the two.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bench.accuracy.subjects import Picture
from visionloop import images
from visionloop_labeling.duplicates import HashIndex, confirm, fingerprint


def groups(pictures: Sequence[Picture]) -> list[int]:
    """The number of each picture's group. Takes about a millisecond and a half a picture."""
    index, thumbnails = HashIndex(), dict[int, bytes]()
    pairs: list[tuple[int, int]] = []
    for place, picture in enumerate(pictures):
        found = fingerprint(images.decode(picture.data))
        if found is None:
            continue
        alike = confirm(found, index.candidates(found.hashes), thumbnails)
        pairs += [(place, likeness.key) for likeness in alike]
        index.add([place], found.hashes[:1])
        thumbnails[place] = found.thumbnail.tobytes()
    return _components(len(pictures), pairs)


def _components(size: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    edges = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    return [int(number) for number in connected_components(edges, directed=False)[1]]
