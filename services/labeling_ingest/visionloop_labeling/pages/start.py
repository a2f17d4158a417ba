"""The start page: what this service is and what it holds. Plain HTML, no script."""

from collections.abc import Sequence
from html import escape

from visionloop_labeling.datasets import DatasetSummary

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Visionloop labelling</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884 }}
.number {{ text-align: right; font-variant-numeric: tabular-nums }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #16181c; color: #e6e6e6 }}
  a {{ color: #8ab4f8 }}
}}
</style>
</head>
<body>
<h1>Visionloop labelling</h1>
<p>Takes labelled images and corrections, and cuts the dataset snapshots that training reads.
The interface for programs is described at <a href="/openapi.json">/openapi.json</a>.</p>
{datasets}
</body>
</html>
"""
_TABLE = """<table>
<thead><tr><th scope="col">Dataset</th><th scope="col">Classes</th>
<th scope="col" class="number">Images</th><th scope="col" class="number">Labelled</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>"""
_EMPTY = "<p>There is no dataset yet. <code>visionloop import</code> makes the first one.</p>"
_SHOWN_CLASSES = 8


def start(datasets: Sequence[DatasetSummary]) -> str:
    """The page as HTML."""
    if not datasets:
        return _PAGE.format(datasets=_EMPTY)
    return _PAGE.format(datasets=_TABLE.format(rows="\n".join(_row(one) for one in datasets)))


def _row(dataset: DatasetSummary) -> str:
    names = [name for _, name in dataset.classes]
    shown = ", ".join(names[:_SHOWN_CLASSES])
    if len(names) > _SHOWN_CLASSES:
        shown += f" and {len(names) - _SHOWN_CLASSES} more"
    return (
        f"<tr><td>{escape(dataset.name)}</td><td>{escape(shown)}</td>"
        f'<td class="number">{dataset.images:,}</td>'
        f'<td class="number">{dataset.labelled:,}</td></tr>'
    )
