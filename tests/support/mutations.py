"""Messages that were damaged on their way, for tests of what reads them."""

import random
from collections.abc import Sequence


def mutated(data: bytes, chance: random.Random, interesting: Sequence[bytes]) -> bytes:
    """A copy with a few bytes changed, cut out, doubled or put in, some of them `interesting`."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(made))
        length = chance.randint(1, 8)
        match chance.randint(0, 4):
            case 0:
                del made[at : at + length]
            case 1:
                made[at:at] = made[at : at + length]
            case 2:
                made[at:at] = chance.choice(interesting)
            case 3 if at < len(made):
                made[at] ^= 1 << chance.randint(0, 7)
            case _:
                made[at : at + 1] = bytes([chance.choice((0, 0x7F, 0x80, 0xFF))])
    return bytes(made)
