"""Two small charts as inline SVG that follow the page's colours (light, dark, print)."""

from collections.abc import Sequence
from dataclasses import dataclass

from visionloop.demo.load import Request


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a reliability diagram: mean confidence, share that was right, items."""

    confidence: float
    accuracy: float
    items: int


def reliability_bins(
    confidences: Sequence[float], right: Sequence[bool], bins: int = 10
) -> list[Bin]:
    """Equal-width bins over 0..1; empty ones are left out."""
    filled: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for confidence, hit in zip(confidences, right, strict=True):
        filled[min(int(confidence * bins), bins - 1)].append((confidence, hit))
    return [
        Bin(
            confidence=sum(c for c, _ in members) / len(members),
            accuracy=sum(hit for _, hit in members) / len(members),
            items=len(members),
        )
        for members in filled
        if members
    ]


def reliability(bins: Sequence[Bin], label: str) -> str:
    """Confidence to the right, share right upwards; on the diagonal a probability means itself."""
    size, margin = 220, 34
    most = max((b.items for b in bins), default=1)

    def x(value: float) -> float:
        return margin + value * size

    def y(value: float) -> float:
        return 8 + (1 - value) * size

    parts = [
        f'<svg class="square" viewBox="0 0 {size + margin + 20} {size + margin + 12}" role="img" '
        f'aria-label="{label}">',
        f'<rect x="{x(0)}" y="{y(1)}" width="{size}" height="{size}" class="frame"/>',
        f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}" class="ideal"/>',
    ]
    parts += [
        f'<circle cx="{x(b.confidence):.1f}" cy="{y(b.accuracy):.1f}" '
        f'r="{3 + 9 * (b.items / most) ** 0.5:.1f}" class="dot">'
        f"<title>{b.items} items: confidence {b.confidence:.0%}, right {b.accuracy:.0%}</title>"
        "</circle>"
        for b in bins
    ]
    for tick in (0, 0.5, 1):
        parts.append(f'<text x="{x(tick)}" y="{y(0) + 14}" class="tick middle">{tick:.0%}</text>')
        parts.append(f'<text x="{x(0) - 4}" y="{y(tick) + 4}" class="tick end">{tick:.0%}</text>')
    parts.append(f'<text x="{x(0.5)}" y="{y(0) + 28}" class="tick middle">confidence</text></svg>')
    return "".join(parts)


def latency(requests: Sequence[Request], swapped: float, old_version: int) -> str:
    """Every request as a dot: seconds since the load began, milliseconds to the answer."""
    width, height, margin = 900, 180, 46
    start = min(r.sent for r in requests)
    span = max(r.sent for r in requests) - start or 1.0
    top = max(r.milliseconds for r in requests) * 1.05

    def x(seconds: float) -> float:
        return margin + seconds / span * width

    def y(milliseconds: float) -> float:
        return 8 + (1 - milliseconds / top) * height

    parts = [
        f'<svg viewBox="0 0 {width + margin + 20} {height + 36}" role="img" '
        'aria-label="Latency of every background request over time">',
        f'<rect x="{x(0)}" y="8" width="{width}" height="{height}" class="frame"/>',
    ]
    parts += [
        f'<circle cx="{x(r.sent - start):.1f}" cy="{y(r.milliseconds):.1f}" r="1.6" '
        f'class="{_kind(r, old_version)}"/>'
        for r in requests
    ]
    at = x(swapped - start)
    parts.append(f'<line x1="{at:.1f}" y1="8" x2="{at:.1f}" y2="{8 + height}" class="swap"/>')
    parts.append(f'<text x="{at - 6:.1f}" y="22" class="tick end">swap</text>')
    for tick in (0.0, top / 2, top):
        parts.append(
            f'<text x="{margin - 4}" y="{y(tick) + 4:.1f}" class="tick end">{tick:.0f} ms</text>'
        )
    for tick in (0.0, span / 2, span):
        parts.append(
            f'<text x="{x(tick):.1f}" y="{height + 24}" class="tick middle">{tick:.0f} s</text>'
        )
    return "".join(parts) + "</svg>"


def _kind(request: Request, old_version: int) -> str:
    if request.error:
        return "failed"
    return "old" if request.version == old_version else "new"
