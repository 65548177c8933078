"""The MLflow store: nothing outside this package imports MLflow or sees its objects.

`store` reads, `writer` writes runs, `plan_run` writes experiments, `study_run` writes studies.
"""
