"""The MLflow store: only here is mlflow imported. `store` writes what `reader` reads."""
