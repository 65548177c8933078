"""Studies with Optuna: `study` reads their YAML, `study_runner` runs them, by two kinds.

`tuning` searches values for every arm; `seed_study` repeats one arm over many seeds.
"""
