"""The table of a chart's values, as its README.md holds it between two markers."""

import json

from charts.tooling.values import Value

START, END = "<!-- values -->", "<!-- end of values -->"


def table_of(values: list[Value]) -> str:
    """Markdown: one row for each value, and one for each section that says something."""
    rows = ["| value | default | what it does |", "| --- | --- | --- |"]
    for top in values:
        for value in top.walk():
            if value.children and not value.description:
                continue
            default = "" if value.children else f"`{json.dumps(value.default, ensure_ascii=False)}`"
            rows.append(f"| `{value.path}` | {default} | {_words(value)} |")
    return "\n".join([START, *rows, END])


def _words(value: Value) -> str:
    words = value.description
    if "enum" in value.schema:
        choices = ", ".join(f"`{choice}`" for choice in value.schema["enum"])
        words = f"{words} One of {choices}.".strip()
    return words.replace("|", "\\|")


def renewed(page: str, table: str) -> str:
    """The page with the table in the place of the one that it holds."""
    before, found, rest = page.partition(START)
    if not found or END not in rest:
        raise ValueError(f"the page has no {START} … {END}")
    return before + table + rest.partition(END)[2]
