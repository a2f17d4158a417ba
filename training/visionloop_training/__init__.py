"""The training job: snapshot → fit → calibrate → export → parity → evaluate → gate → publish."""
