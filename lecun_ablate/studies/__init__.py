"""Studies with Optuna: `runner` runs them; their files are read by config.study.

There are two kinds: `search` searches values for every arm; `seeds` repeats one recipe over many
seeds. `tuned_arms` gives the arms of an experiment the values that a search has found.
"""
