"""The labeling-ingest service: takes images and labels, keeps them, cuts dataset snapshots."""
