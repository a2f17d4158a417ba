"""What a PromQL expression asks for: the series it selects and the labels it groups and joins by.

    [selector] = selectors('sum by (job) (rate(visionloop_rejected_total{reason="late"}[5m]))')

Read from the parser's tree (promql-parser), so that names within strings and comments do not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser


@dataclass(frozen=True)
class Selector:
    """One vector selector."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]  # label, operator, value

    @property
    def labels(self) -> set[str]:
        """The labels that must exist for this to select anything on purpose."""
        return {label for label, _, _ in self.matchers}


@dataclass(frozen=True)
class Grouping:
    """Labels in `by (…)`, `on (…)` or group_left, and what is under them."""

    labels: frozenset[str]
    selectors: tuple[Selector, ...]


def parsed(expression: str) -> Any:
    """The tree; raises ValueError for what is no PromQL."""
    return promql_parser.parse(expression)


def selectors(expression: str) -> list[Selector]:
    """Every vector selector, also within ranges and subqueries."""
    return list(_selectors(parsed(expression)))


def groupings(expression: str) -> list[Grouping]:
    """Every list of labels that is no matcher."""
    return [
        Grouping(frozenset(labels), tuple(_selectors(node)))
        for node in _nodes(parsed(expression))
        if (labels := _listed(node))
    ]


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "args", "param", "vector_selector"):
        below = getattr(node, name, None)
        for child in below if isinstance(below, list) else [below]:
            if child is not None:
                yield from _nodes(child)


def _selectors(node: Any) -> Iterator[Selector]:
    for found in _nodes(node):
        if isinstance(found, promql_parser.VectorSelector):
            matchers = [(m.name, _OPERATORS[str(m.op)], m.value) for m in found.matchers.matchers]
            yield Selector(found.name or "", tuple(matchers))


_OPERATORS = {
    "MatchOp.Equal": "=",
    "MatchOp.NotEqual": "!=",
    "MatchOp.Re": "=~",
    "MatchOp.NotRe": "!~",
}


def _listed(node: Any) -> list[str]:
    modifier = getattr(node, "modifier", None)
    if modifier is None:
        return []
    if isinstance(node, promql_parser.AggregateExpr):
        return list(modifier.labels)
    if modifier.matching is None:
        return []
    return [*modifier.matching.labels, *(modifier.group_labels or [])]
