"""What can be concluded from runs, how surely, and what it would take to know more.

Pure functions on arrays: no files, no terminal. Errors are fractions of the images missed after
the last epoch, one per seed; differences are arm minus baseline, so negative means better.
"""

from lecun_ablate.statistics.arrays import DIVERGED_ERROR, misses
from lecun_ablate.statistics.comparisons import (
    ExperimentResult,
    PairResult,
    Runs,
    common,
    compare_all,
    holm,
)
from lecun_ablate.statistics.factors import Effect, factorial
from lecun_ablate.statistics.images import JointComparison, TwoRuns, compare_jointly, mcnemar
from lecun_ablate.statistics.intervals import (
    Interval,
    bca_interval,
    seed_interval,
    studentized_interval,
    t_interval,
)
from lecun_ablate.statistics.paired import (
    Comparison,
    compare,
    correlation,
    effect_size,
    probability_of_improvement,
    sign_flip_test,
)
from lecun_ablate.statistics.planning import (
    PowerAnalysis,
    SeedsNeeded,
    analyse_power,
    fewest_seeds,
    minimum_detectable_effect,
    power,
    sd_interval,
    seeds_needed,
    seeds_table,
)
from lecun_ablate.statistics.seeds import (
    Description,
    VarianceSplit,
    chance_of_wrong_ranking,
    describe,
    split_variance,
)
from lecun_ablate.statistics.stopping import UntilNarrow
from lecun_ablate.statistics.verdict import MARGIN, Verdict, decide, second_sentence
from lecun_ablate.statistics.wording import count, p_value, percent, points, signed, span

__all__ = [
    "DIVERGED_ERROR",
    "MARGIN",
    "Comparison",
    "Description",
    "Effect",
    "ExperimentResult",
    "Interval",
    "JointComparison",
    "PairResult",
    "PowerAnalysis",
    "Runs",
    "SeedsNeeded",
    "TwoRuns",
    "UntilNarrow",
    "VarianceSplit",
    "Verdict",
    "analyse_power",
    "bca_interval",
    "chance_of_wrong_ranking",
    "common",
    "compare",
    "compare_all",
    "compare_jointly",
    "correlation",
    "count",
    "decide",
    "describe",
    "effect_size",
    "factorial",
    "fewest_seeds",
    "holm",
    "mcnemar",
    "minimum_detectable_effect",
    "misses",
    "p_value",
    "percent",
    "points",
    "power",
    "probability_of_improvement",
    "sd_interval",
    "second_sentence",
    "seed_interval",
    "seeds_needed",
    "seeds_table",
    "sign_flip_test",
    "signed",
    "span",
    "split_variance",
    "studentized_interval",
    "t_interval",
]
