"""Conformance tests for your own trainer. Needs pytest.

Subclass `TrainerConformance` in a test file, and say how your trainer is made:

    import pytest
    from lecun_ablate.testing import TrainerConformance

    class TestMyTrainer(TrainerConformance):
        @pytest.fixture
        def make(self):
            return MyTrainer    # called as make(), make(threads=1), make(threads=2), ...

Everything that `lecun_ablate.trainers.base.Trainer` promises is then tested, except that a run's
bits do not depend on what is trained beside it: subclass `ExactTrainerConformance` to test that,
too. Recipes that your trainer's `unsupported` refuses are skipped.
"""

import pytest

pytest.register_assert_rewrite("lecun_ablate.testing.trainer")  # before it is imported

from lecun_ablate.testing.trainer import (  # noqa: E402
    ALONE,
    PAIRS,
    ExactTrainerConformance,
    TrainerConformance,
)

__all__ = ["ALONE", "PAIRS", "ExactTrainerConformance", "TrainerConformance"]
