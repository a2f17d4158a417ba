"""The fields of a protobuf message in its bytes, for who leaves large ones where they lie.

Only lengths and tags are read here. What a field means is protobuf's business: whoever meets
something unusual hands the message to protobuf's own parser.
"""

from google.protobuf.message import DecodeError

BYTES = 2  # the wire type of strings, bytes and messages: a length and so many bytes


def tag_of(number: int, kind: int = BYTES) -> int:
    """The tag of a field; one byte in a message for numbers up to 15."""
    return number << 3 | kind


def length(data: bytes, place: int) -> tuple[int, int]:
    """The length that begins at `place` and where its field's bytes begin; beyond the message when
    it is cut off or longer than four bytes, which no message that a server takes needs."""
    size = shift = 0
    for byte in data[place : place + 4]:
        place += 1
        size |= (byte & 127) << shift
        if byte < 128:
            return size, place
        shift += 7
    return 0, len(data) + 1


def varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and where it ends. Raises DecodeError."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise DecodeError("a number that does not end")


def field(data: bytes, place: int) -> tuple[int, int]:
    """The tag of the field that begins at `place`, and where the next one begins.

    Raises DecodeError.
    """
    tag, place = varint(data, place)
    match tag & 7:
        case 0:
            _, place = varint(data, place)
        case 1:
            place += 8
        case 2:
            size, place = varint(data, place)
            place += size
        case 5:
            place += 4
        case 3 | 4:  # a group's begin and end: what is in it is walked like the rest
            pass
        case _:
            raise DecodeError("a wire type that there is not")
    return tag, place


def written(number: int, size: int) -> bytes:
    """What stands before the `size` bytes of a field of this number, 1 to 15."""
    if size < 128:  # in one go, for there may be thousands
        return bytes((tag_of(number), size))
    head = bytearray([tag_of(number)])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head)
