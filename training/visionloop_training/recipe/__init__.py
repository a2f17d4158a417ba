"""The parts of a training recipe, each chosen by the configuration and tested by itself."""
