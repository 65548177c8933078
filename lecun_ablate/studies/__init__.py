"""Studies with Optuna: `runner` runs them; config.study reads their files.

There are two kinds: `search` searches for the best values of every arm; `seeds` repeats one recipe
over many seeds. `tuned_arms` gives the arms of an experiment the values that a search found.
"""
