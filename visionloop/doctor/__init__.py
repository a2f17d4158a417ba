"""What stands in a program's way, found out before it starts and told in words with what to do.

Each program has its own `doctor` (`visionloop-inference doctor`), which takes the program's flags
and tries what the program will do: the same store calls under the same folders, the same database,
the same execution provider. What they share is here; `visionloop doctor` runs those of all programs
that are installed.
"""
