"""The store with MLflow's own client beside it: for tests of what MLflow holds."""

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from lecun_ablate.tracking.store import Store


class View(Store):
    """A store whose MLflow objects can be looked at."""

    @property
    def client(self) -> MlflowClient:
        return self.connection.client

    def experiment(self, name: str) -> Experiment:
        return self.connection.experiment_named(name)

    def search(self, experiment_id: str, **tags: str) -> list[Run]:
        """Return an experiment's runs with the given tags (dots in keys as '__'), newest first."""
        wanted = {key.replace("__", "."): value for key, value in tags.items()}
        return list(self.connection.tagged(experiment_id, wanted))
