"""Ingest measured against what the machine can do, and against Label Studio."""
