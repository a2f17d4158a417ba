"""One small server for each peer, all around the same graph; each runs in the peer's own venv."""
