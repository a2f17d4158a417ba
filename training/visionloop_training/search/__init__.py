"""Better settings within a time budget, found on val; needs the extra `search` (Optuna).

space     what is varied, and a configuration with one choice of it
budget    the time, and trials that end with it
record    what was tried, kept in the store
trials    the search itself; the only module that imports Optuna
table     what was tried, for people
stage     the search as a stage of a run
"""
