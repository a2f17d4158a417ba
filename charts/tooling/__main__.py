"""Renews what is made from the charts' values: `python -m charts.tooling`."""

from charts.tooling.charts import CHARTS, generated


def main() -> None:
    """Writes every file that has changed, and says which."""
    for chart in CHARTS:
        for path, text in generated(chart).items():
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                print(f"renewed {path}")  # noqa: T201 - what a person runs


if __name__ == "__main__":
    main()
