"""The whole loop on real photographs, with real programs: `make demo`.

It shows and proves. Every step is a command or a client call that a user would make, against the
programs that `visionloop up` started; nothing here reaches behind them.
"""
