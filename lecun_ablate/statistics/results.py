"""The results of an experiment's comparisons, and the sentences that state them."""

from __future__ import annotations

from dataclasses import dataclass

from lecun_ablate.statistics.arrays import DIVERGED_ERROR
from lecun_ablate.statistics.correction import Correction, fewest_for
from lecun_ablate.statistics.factors import Effect
from lecun_ablate.statistics.failures import FailureComparison, outweighing_rate
from lecun_ablate.statistics.images import JointComparison
from lecun_ablate.statistics.intervals import Interval
from lecun_ablate.statistics.paired import Comparison, Unit
from lecun_ablate.statistics.planning import (
    PowerAnalysis,
    analyse_power,
    detectable_range,
    minimum_detectable_effect,
)
from lecun_ablate.statistics.verdict import Verdict
from lecun_ablate.statistics.wording import points, share, span
from lecun_ablate.system.text import count


@dataclass(frozen=True)
class PairResult:
    """One comparison of an experiment, corrected for the others.

    `counted` is over all runs and decides the verdict; a diverged run counts with error 0.9, a
    collapsed run with its own. `sound` is the difference among sound runs: over the seeds with
    which neither arm failed. Without failures both are the same.
    """

    arm: str
    baseline: str
    counted: Comparison
    sound: Comparison | None  # None: no such seed
    p_adjusted: float  # corrected over the experiment's family
    p_adjusted_sound: float | None
    smallest_p: float  # the smallest p_adjusted possible with these numbers of seeds
    verdict: Verdict
    verdict_sound: Verdict | None
    simultaneous: Interval | None  # of all comparisons together; None for a single seed
    failures: FailureComparison
    arm_diverged: int  # of the common seeds
    baseline_diverged: int
    over_all: Interval | None  # of the mean over all runs, including failures not yet seen
    margin: float  # the difference that does not matter, a fraction
    corrected: float | None  # the difference corrected for having been called; None if it was not
    joint: JointComparison | None  # None without predictions or with a single seed
    p_joint_adjusted: float | None  # Holm, over the experiment's joint comparisons
    alpha: float  # of the family at this look

    @property
    def called(self) -> bool:
        """Whether the arm is called better or worse."""
        return self.verdict.kind in ("better", "worse")

    @property
    def within_margin(self) -> bool:
        """Whether the whole interval lies within the difference that does not matter."""
        interval = self.counted.interval
        return interval is not None and interval.bound <= self.margin

    @property
    def holds_for_new_images(self) -> bool:
        """Whether the call extends to new images, corrected for all such statements."""
        if self.joint is None or self.p_joint_adjusted is None:
            return False
        return (
            self.called and self.p_joint_adjusted <= self.alpha and self.joint.interval.excludes(0)
        )

    @property
    def failed(self) -> bool:
        """Whether a run of either arm failed."""
        return self.failures.arm.failed + self.failures.baseline.failed > 0

    @property
    def failures_matter(self) -> bool:
        """Whether the verdict over all runs and the one among sound runs differ."""
        return self.verdict_sound is None or self.verdict_sound.kind != self.verdict.kind

    @property
    def conclusion(self) -> str:
        """The verdict as a sentence that mentions failures if they could change it."""
        text = self.verdict.text
        if not self.failed:
            return f"{text}{self._while_none_fails}"
        if self.sound is None or self.verdict_sound is None:
            return f"{text}; with every seed, at least one of the arms failed"
        if self.failures_matter:
            return f"over all runs {text}; among sound runs {self.verdict_sound.text}"
        found = f"{points(self.sound.difference)} {span(self.sound.interval)}"
        return f"{text}; the same among sound runs: {found}"

    @property
    def _while_none_fails(self) -> str:
        """How failures that no seed has shown yet could change the verdict; "" if not."""
        kind, one = self.verdict.kind, self.counted
        if kind == "undecided":
            return ""
        # the difference in failure rates that would change it, and the arm that would have to fail
        arm, baseline = self.failures.arm, self.failures.baseline
        if kind == "no difference":
            outweighing = outweighing_rate(self.margin, max(one.arm_mean, one.baseline_mean))
            rate = max(arm, baseline, key=lambda rate: rate.at_most)
            effect = "more in one arm would matter"
        else:
            mean, rate = one.arm_mean, arm
            if kind == "worse":
                mean, rate = one.baseline_mean, baseline
            outweighing = outweighing_rate(abs(one.difference), mean)
            effect = "would outweigh it"
        if rate.at_most <= outweighing:
            return ""
        return f" while no run fails ({rate.bound} do; {share(outweighing)} {effect})"

    @property
    def failure_note(self) -> str | None:
        """What a reader must know about failed runs; None if there are none."""
        if not self.failed:
            return None
        parts = []
        for name, rate, diverged in (
            (self.arm, self.failures.arm, self.arm_diverged),
            (self.baseline, self.failures.baseline, self.baseline_diverged),
        ):
            if rate.failed:
                kinds = [f"{diverged} diverged"] * (diverged > 0)
                kinds += [f"{rate.failed - diverged} collapsed"] * (rate.failed > diverged)
                parts.append(f"{name} failed with {rate.text} ({', '.join(kinds)})")
        note = f"{'; '.join(parts)}; equal failure rates: p = {self.failures.p:.2g}"
        if self.arm_diverged + self.baseline_diverged:
            note += f"; a diverged run counts as error {DIVERGED_ERROR}"
        one, verdict = self.sound, self.verdict_sound
        if one is None or verdict is None:
            return f"{note}; without failed runs, nothing is left to compare"
        found = f"{points(one.difference)} {span(one.interval)} over {count(one.n, one.unit)}"
        same = f"another: {verdict.text}" if self.failures_matter else "the same"
        return f"{note}; among sound runs, the difference is {found} and the verdict {same}"


@dataclass(frozen=True)
class ExperimentResult:
    """The comparisons of an experiment, in the order they were asked for.

    They and the effects of factors are one family: the chance of any wrong call among them stays
    within alpha.
    """

    pairs: tuple[PairResult, ...]
    effects: tuple[Effect, ...]
    alpha: float  # of the family at this look
    next_alpha: float  # at the next look
    look: int | None  # at growing data: 1, 2, ...; None: the number of seeds was fixed in advance
    correction: Correction  # "Holm" if a run failed or seeds differ; "none" for one comparison

    def __getitem__(self, arm: str) -> PairResult:
        """Return the comparison of an arm with its baseline."""
        for pair in self.pairs:
            if pair.arm == arm:
                return pair
        raise KeyError(arm)

    @property
    def unit(self) -> Unit:
        """The unit of intervals and tests: seeds, or the searches that tuned the arms."""
        return self.pairs[0].counted.unit if self.pairs else "seed"

    @property
    def family(self) -> int:
        """How many comparisons and effects are corrected together."""
        return len(self.pairs) + len(self.effects)

    @property
    def level_note(self) -> str:
        """The level at which this look decides: "second look: level 0.012"."""
        if self.look is None:
            return f"level {self.alpha:.2g}"
        ordinals = ("first", "second", "third", "fourth", "fifth")
        nth = ordinals[self.look - 1] if self.look <= len(ordinals) else f"{self.look}th"
        return f"{nth} look: level {self.alpha:.2g}"

    @property
    def fewest_seeds(self) -> int:
        """The fewest seeds, or searches, with which any comparison could be significant."""
        if self.unit == "search":
            return 2
        return fewest_for(self.correction, max(1, self.family), self.alpha)

    def detectable(self, pair: PairResult) -> float | None:
        """Return the difference that a comparison's seeds show with 80 % power.

        None if there are too few seeds, or for searches, where more seeds do not help.
        """
        if self.unit == "search":
            return None
        return minimum_detectable_effect(
            pair.counted.n,
            pair.counted.sd,
            alpha=self.alpha,
            comparisons=max(1, self.family),
        )

    def detectable_range(self, pair: PairResult) -> tuple[float, float] | None:
        """Return `detectable` at the ends of the sd's 95 % interval; None if it is None."""
        if self.unit == "search":
            return None
        return detectable_range(
            pair.counted.n,
            pair.counted.sd,
            alpha=self.alpha,
            comparisons=max(1, self.family),
        )

    def power(self, pair: PairResult, effect: float) -> PowerAnalysis:
        """Return what a comparison's seeds can show of a true `effect`, a fraction.

        Raises ValueError for a comparison of one seed.
        """
        return analyse_power(
            pair.counted,
            effect,
            alpha=self.alpha,
            next_alpha=self.next_alpha,
            comparisons=max(1, self.family),
        )

    @property
    def too_few(self) -> tuple[PairResult, ...]:
        """The comparisons with too few seeds for any result to be significant."""
        return tuple(pair for pair in self.pairs if pair.smallest_p > self.alpha)

    @property
    def warning(self) -> str | None:
        """A warning if there are too few seeds for any result to be significant."""
        if not self.too_few:
            return None
        of_all = len(self.too_few) == len(self.pairs)
        which = "" if of_all else f" of {', '.join(pair.arm for pair in self.too_few)}"
        numbers = sorted({pair.counted.n for pair in self.too_few})
        unit = self.unit
        seeds = count(numbers[-1], unit)
        if numbers[1:]:
            seeds = f"{numbers[0]} to {seeds}"
        among = count(len(self.pairs), "comparison")
        if self.effects:
            among += f" and {count(len(self.effects), 'effect')}"
        return (
            f"With {seeds} and {among} no result{which} could be "
            f"significant at {self.alpha:.2g}, however large the difference: the smallest possible "
            f"p, corrected, is {min(pair.smallest_p for pair in self.too_few):.2g}. "
            f"It takes at least {count(self.fewest_seeds, unit)}."
        )
