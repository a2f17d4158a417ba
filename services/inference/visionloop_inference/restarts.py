"""How long a process that died stays dead: growing pauses, and when they begin anew.

A process that dies as soon as it runs must not eat the machine; one that was killed after a while
of good work must be back at once, for on a machine of few cores there is no other.
"""

FIRST_PAUSE = 0.1  # seconds
STEADY_SECONDS = 20.0  # a process that lived so long begins anew with the first pause


def next_pause(before: float, lived: float, longest: float) -> float:
    """Seconds until a process is started again that lived `lived` seconds.

    `before` is the pause that it had itself, 0 for none.
    """
    if lived > STEADY_SECONDS or not before:
        return min(FIRST_PAUSE, longest)
    return min(2 * before, longest)
