"""An experiment made concrete: the key of every run, and the results that come of it."""
