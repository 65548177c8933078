"""Conformance tests for your own trainer. Needs pytest.

Subclass `TrainerConformance` in a test file, and define how to create your trainer:

    import pytest
    from lecun_ablate.testing import TrainerConformance

    class TestMyTrainer(TrainerConformance):
        @pytest.fixture
        def make(self):
            return MyTrainer    # called as make(), make(threads=1), make(threads=2), ...

This tests everything that `lecun_ablate.trainers.base.Trainer` promises, except that a run's bits
do not depend on what else is being trained. To test that as well, subclass
`ExactTrainerConformance`. Recipes that your trainer's `unsupported` refuses are skipped.
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
