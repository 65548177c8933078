import time

from lecun_ablate.system import patience
from lecun_ablate.system.patience import said_if_slow


def test_a_long_wait_is_said_once_however_many_blocks_wait(capsys, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.01)
    with said_if_slow("no answer yet"), said_if_slow("no answer yet"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "no answer yet\n"
    with said_if_slow("no answer yet"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "no answer yet\n"


def test_a_short_wait_is_not_said(capsys):
    with said_if_slow("no answer yet"):
        pass
    assert capsys.readouterr().err == ""
