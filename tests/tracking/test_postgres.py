"""A PostgreSQL database as the store: rows are inserted directly there, too."""

import pytest
from test_tracking import ENDED, read_back

import lecun_ablate
from lecun_ablate.tracking import sqlite, writer
from lecun_ablate.tracking.store import Store
from lecun_ablate.tracking.tagged_runs import tagged_runs
from lecun_ablate.tracking.writer import Writer


@pytest.fixture
def server(one_postgres, workplace):
    return one_postgres


def test_a_run_is_written_and_read_as_mlflow_itself_would(server, monkeypatch):
    read, told = {}, {}
    for way in ("client", "ours"):
        with monkeypatch.context() as patch:
            if way == "client":
                patch.setattr(sqlite, "TESTED_REVISIONS", {})
                patch.setattr(writer, "insert_run", None)
                sqlite.tables_are_known.cache_clear()
            with Writer.opened(server) as store:
                place = store.ensure_experiment(f"{way}/tiny")
                run = writer.replace(ENDED, experiment_id=place)
                for _ in range(2):
                    run_id = store.write(run, "run", {"notes.txt": "Zürich"})
                assert store.files.text(run_id, "notes.txt") == "Zürich"
                shown = read_back(store, run_id).replace(f"/{place}/", "/place/")
                read[way] = shown.replace(f"'experiment_id': '{place}'", "the experiment")
                found = [*store.connection.tagged(place, {"lecun_ablate.level": "run"})]
                told[way] = sorted(repr(one.data.to_dictionary()) for one in found)
                assert len(found) == 2
                if way == "ours":
                    assert store.connection.has_known_tables
                    by_us = [*tagged_runs(store.client, place, {})]
                    assert sorted(repr(one.data.to_dictionary()) for one in by_us) == told[way]
        sqlite.tables_are_known.cache_clear()
    assert read["ours"] == read["client"] and "the experiment" in read["ours"]
    assert told["ours"] == told["client"]


def test_an_experiment_is_the_same_as_in_a_file(server, tiny):
    with open("pair.yaml", "w") as file:
        file.write(
            "name: pair\ndata: tiny\nvary: {activation: [tanh, relu]}\nseeds: 2\n"
            "recipe: {epochs: 2}\n"
        )
    in_file = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu")
    there = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu", tracking_uri=server)
    numbers = ["arm", "seed", "epoch", "train_error", "test_error", "train_loss", "test_loss"]
    assert there[numbers].equals(in_file[numbers])
    again = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu", tracking_uri=server)
    assert again.equals(there)
    assert "pair/tiny" in Store(server).experiment_names()
