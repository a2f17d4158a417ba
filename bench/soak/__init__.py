"""`make soak`: does memory or latency grow, when versions change and processes die for hours?"""
