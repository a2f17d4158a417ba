"""What the demo promises, and whether the run kept it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visionloop.demo.load import Request

PARITY_LIMIT = 1e-3
FEWEST_DURING_SWAP = 20
WORSE_ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Promise:
    """One sentence, and whether it held."""

    sentence: str
    kept: bool


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """The background load in numbers."""

    sent: int
    failed: int
    wrong_version: int
    during_swap: int
    p50_ms: float
    p99_ms: float


def count_requests(
    requests: Sequence[Request], versions: tuple[int, int], promoted: float, after_seconds: float
) -> tuple[RequestCounts, float]:
    """The counts, and the time of the new version's first answer.

    A version is wrong when it is neither of the two, when the new one answers before its promotion,
    or when the old one answers a request that was sent after the new one's first answer. "During
    the swap" lasts from the promotion until `after_seconds` after that answer.
    """
    old, new = versions
    answered = [r for r in requests if not r.error]
    swapped = min((r.answered for r in answered if r.version == new), default=math.inf)

    def wrong(request: Request) -> bool:
        if request.version == old:
            return request.sent > swapped
        return request.version != new or request.answered < promoted

    times = sorted(r.milliseconds for r in answered)
    counts = RequestCounts(
        sent=len(requests),
        failed=len(requests) - len(answered),
        wrong_version=sum(map(wrong, answered)),
        during_swap=sum(promoted <= r.answered <= swapped + after_seconds for r in requests),
        p50_ms=quantile(times, 0.50),
        p99_ms=quantile(times, 0.99),
    )
    return counts, swapped


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value with at least this share of the values at or below it; nan for none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def mcnemar_worse(only_old_right: int, only_new_right: int) -> float:
    """One-sided exact McNemar p: how likely so many losses are if the new model is no worse.

    Under the null each discordant item is a fair coin (McNemar 1947).
    """
    discordant = only_old_right + only_new_right
    tail = sum(math.comb(discordant, k) for k in range(only_old_right, discordant + 1))
    return tail / (1 << discordant)


def promises(report: dict[str, Any], worse_p: float) -> list[Promise]:
    """Every promise with its figures, judged from report.json's own content."""
    requests, rounds = report["requests"], report["rounds"]
    parity = max(r["parity_max_abs_probability_difference"] for r in rounds)
    served, last = report["served_version_at_end"], rounds[-1]["version"]
    return [
        Promise(
            f"no request failed ({requests['failed']} of {requests['sent']})",
            requests["sent"] > 0 and requests["failed"] == 0,
        ),
        Promise(
            f"no request got a wrong version ({requests['wrong_version']})",
            requests["wrong_version"] == 0,
        ),
        Promise(
            f"the load went through the swap ({requests['during_swap']} requests, at least "
            f"{FEWEST_DURING_SWAP})",
            requests["during_swap"] >= FEWEST_DURING_SWAP,
        ),
        Promise(
            f"the last promoted version is served (version {served})",
            len(rounds) == 2 and served == last,
        ),
        Promise(
            f"the exported file answers like the network (largest difference {parity:.1e}, "
            f"limit {PARITY_LIMIT:.0e})",
            parity <= PARITY_LIMIT,
        ),
        Promise(
            "on the first round's test items the second model is not worse "
            f"(one-sided McNemar p = {worse_p:.2f} > {WORSE_ALPHA})",
            worse_p > WORSE_ALPHA,
        ),
    ]
