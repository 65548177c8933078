"""What can be concluded from runs, with what certainty, and what it would take to know more.

Pure functions on arrays: no files, no terminal. Errors are fractions of the images missed after
the last epoch, one per seed; differences are arm minus baseline, so negative means better.
"""

from lecun_ablate.statistics.arrays import DIVERGED_ERROR, misses
from lecun_ablate.statistics.choosing import (
    JudgedChoice,
    choose_prudently,
    expected_best,
    finalists,
    interval_over_searches,
    judge_choice,
    prudent_choice,
)
from lecun_ablate.statistics.comparisons import compare_all
from lecun_ablate.statistics.correction import holm, step_down
from lecun_ablate.statistics.factors import Contrast, Effect, contrasts, factorial
from lecun_ablate.statistics.failures import (
    FailureComparison,
    FailureRate,
    compare_failures,
    failure_rate,
    interval_with_failures,
    outweighing_rate,
)
from lecun_ablate.statistics.images import JointComparison, TwoRuns, compare_jointly, mcnemar
from lecun_ablate.statistics.inflation import corrected_for_call, shown_when_called
from lecun_ablate.statistics.intervals import (
    Interval,
    bca_interval,
    interval_ends,
    seed_interval,
    t_interval,
)
from lecun_ablate.statistics.looks import look_level
from lecun_ablate.statistics.paired import (
    Comparison,
    compare,
    correlation,
    difference_interval,
    effect_size,
    probability_of_improvement,
    sign_flip_test,
    smallest_p,
    t_test,
)
from lecun_ablate.statistics.planning import (
    PowerAnalysis,
    SeedsNeeded,
    analyse_power,
    detectable_range,
    minimum_detectable_effect,
    sd_interval,
    searches_needed,
    seeds_for_equivalence,
    seeds_needed,
    seeds_table,
)
from lecun_ablate.statistics.power import ALPHA, equivalence_power, fewest_seeds, power, t_power
from lecun_ablate.statistics.ranking import Ranking, rank
from lecun_ablate.statistics.results import ExperimentResult, PairResult
from lecun_ablate.statistics.runs import Runs, common
from lecun_ablate.statistics.seeds import (
    Description,
    VarianceSplit,
    chance_of_wrong_ranking,
    describe,
    split_variance,
    split_variance_of_own_images,
)
from lecun_ablate.statistics.stopping import UntilNarrow
from lecun_ablate.statistics.verdict import BOTH_DIVERGED, MARGIN, Verdict, decide, second_sentence
from lecun_ablate.statistics.wording import (
    p_value,
    percent,
    points,
    probability,
    share,
    signed,
    span,
)
from lecun_ablate.statistics.worth import (
    Contribution,
    Share,
    Step,
    largest_gains,
    sets_to_meet,
    shapley,
    variance_shares,
)

__all__ = [
    "ALPHA",
    "BOTH_DIVERGED",
    "DIVERGED_ERROR",
    "MARGIN",
    "Comparison",
    "Contrast",
    "Contribution",
    "Description",
    "Effect",
    "ExperimentResult",
    "FailureComparison",
    "FailureRate",
    "Interval",
    "JointComparison",
    "JudgedChoice",
    "PairResult",
    "PowerAnalysis",
    "Ranking",
    "Runs",
    "SeedsNeeded",
    "Share",
    "Step",
    "TwoRuns",
    "UntilNarrow",
    "VarianceSplit",
    "Verdict",
    "analyse_power",
    "bca_interval",
    "chance_of_wrong_ranking",
    "choose_prudently",
    "common",
    "compare",
    "compare_all",
    "compare_failures",
    "compare_jointly",
    "contrasts",
    "corrected_for_call",
    "correlation",
    "decide",
    "describe",
    "detectable_range",
    "difference_interval",
    "effect_size",
    "equivalence_power",
    "expected_best",
    "factorial",
    "failure_rate",
    "fewest_seeds",
    "finalists",
    "holm",
    "interval_ends",
    "interval_over_searches",
    "interval_with_failures",
    "judge_choice",
    "largest_gains",
    "look_level",
    "mcnemar",
    "minimum_detectable_effect",
    "misses",
    "outweighing_rate",
    "p_value",
    "percent",
    "points",
    "power",
    "probability",
    "probability_of_improvement",
    "prudent_choice",
    "rank",
    "sd_interval",
    "searches_needed",
    "second_sentence",
    "seed_interval",
    "seeds_for_equivalence",
    "seeds_needed",
    "seeds_table",
    "sets_to_meet",
    "shapley",
    "share",
    "shown_when_called",
    "sign_flip_test",
    "signed",
    "smallest_p",
    "span",
    "split_variance",
    "split_variance_of_own_images",
    "step_down",
    "t_interval",
    "t_power",
    "t_test",
    "variance_shares",
]
