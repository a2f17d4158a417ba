"""`python -m charts.grafana`."""

from charts.grafana import main

main()
