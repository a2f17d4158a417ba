"""The inference service beside its limits and its peers, in one run: `make bench-serving`."""
