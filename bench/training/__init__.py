"""How much of the machine training uses: see `__main__`."""
