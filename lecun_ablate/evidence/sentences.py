"""Evidence in words: an experiment's answer, and what else a reader must know."""

from __future__ import annotations

from collections.abc import Sequence

from lecun_ablate.evidence.weighing import Evidence, ended
from lecun_ablate.statistics import BOTH_DIVERGED, PairResult, Runs, rank
from lecun_ablate.statistics.wording import at_most, percent, points, span
from lecun_ablate.system.text import count

MOST_NAMED = 5  # arms that the answer names with one verdict


def answer(evidence: Evidence) -> str:
    """Return the experiment's result in one sentence, with remarks on new images and failures."""
    experiment, pairs = evidence.plan.experiment, evidence.comparisons.pairs
    if not pairs:
        return " ".join(_alone(arm, runs) for arm, runs in evidence.arms.items())
    if _too_few(evidence):
        return "Nothing can be concluded yet: " + _lower(evidence.comparisons.warning or "")
    found = []
    for kind in ("better", "worse", "no difference", "undecided"):
        of_kind = [pair for pair in pairs if pair.verdict.kind == kind]
        if of_kind:
            found.append(_found(kind, of_kind))
    about = f"On these {evidence.images:,} test images"
    if evidence.labels is None:
        about = f"On {evidence.images:,} test images that each seed draws from the same pool"
    if experiment.ladder:
        return _sentences(
            f"{about}, each step against the one before it: {'; '.join(found)}", pairs
        )
    if experiment.compare == "all":
        return _sentences(f"{about}, {_ranked(evidence)}", pairs)
    error = ended(evidence.arms[experiment.baseline])
    base = f"{percent(error.mean)} test error" if error else "every run diverged"
    return _sentences(f"{about}, against {experiment.baseline} ({base}): {'; '.join(found)}", pairs)


def _sentences(found: str, pairs: Sequence[PairResult]) -> str:
    """Return the result on this test set, and what holds for new images and for failures."""
    called = [pair for pair in pairs if pair.called]
    sentences = [found]
    if any(pair.joint for pair in called):
        holds = [pair.arm for pair in called if pair.holds_for_new_images]
        if len(holds) == len(called):
            sentences.append("The same holds for new images of this kind")
        elif holds:
            sentences.append(
                f"For new images of this kind, the same holds only for {_listed(holds)}"
            )
        else:
            sentences.append("For new images of this kind it remains open")
    rates = {name: rate for pair in pairs for name, rate in (
        (pair.arm, pair.failures.arm), (pair.baseline, pair.failures.baseline))}  # fmt: skip
    failed = [f"{name} {rate.text}" for name, rate in rates.items() if rate.failed]
    if failed:
        sentences.append(f"Runs failed: {_listed(failed)}")
    elif called:
        most = max(rates.values(), key=lambda rate: rate.at_most)
        sentences.append(f"No run failed, so an arm's failure rate is {most.bound}")
    return ". ".join(sentences) + "."


def _ranked(evidence: Evidence) -> str:
    """Return the arms from best to worst, in groups that cannot be told apart."""
    ranking = rank(evidence.comparisons, {a: r.errors.mean() for a, r in evidence.arms.items()})
    groups = [_listed(group) for group in ranking.groups]
    if len(groups) == 1:
        return f"no two arms can be told apart: {groups[0]}"
    return f"from best to worst, in groups that cannot be told apart: {'; '.join(groups)}"


def warning(evidence: Evidence) -> str | None:
    """Return what a reader must know about the comparisons, unless the answer says it."""
    return None if _too_few(evidence) else evidence.comparisons.warning


def _too_few(evidence: Evidence) -> bool:
    """Whether there are too few seeds for any of the comparisons to be decided."""
    return len(evidence.comparisons.too_few) == len(evidence.comparisons.pairs) > 0


def _alone(arm: str, runs: Runs) -> str:
    error, diverged = ended(runs), int(runs.diverged.sum())
    if error is None:
        return f"{arm} diverged with {'every seed' if len(runs) > 1 else f'seed {runs.seeds[0]}'}."
    apart = f"; {count(diverged, 'more run')} diverged" if diverged else ""
    if error.interval is None:
        seed = runs.seeds[~runs.diverged][0]
        return f"{arm} misses {percent(error.mean)} of the test digits with seed {seed}{apart}."
    ends = f"{100 * error.interval.low:.2f} to {100 * error.interval.high:.2f}"
    return (
        f"{arm} misses {percent(error.mean)} of the test digits on average over "
        f"{count(error.n, 'seed')} (95 % interval {ends}){apart}."
    )


def _found(kind: str, pairs: Sequence[PairResult]) -> str:
    """Return the arms with one kind of verdict, the largest difference first."""
    pairs = sorted(pairs, key=lambda pair: -abs(pair.counted.difference))
    rest = []
    if len(pairs) > MOST_NAMED:
        rest = [f"{len(pairs) - MOST_NAMED + 1} more"]
        pairs = pairs[: MOST_NAMED - 1]
    if kind in ("better", "worse"):
        each = [
            f"{pair.arm} by {points(abs(pair.counted.difference), sign=False)} "
            f"{span(pair.counted.interval)}" + (", less than matters" if pair.within_margin else "")
            for pair in pairs
        ]
        return f"{kind}: {_listed(each + rest)}"
    if kind == "no difference":
        each = [f"{pair.arm} ({_at_most(pair)})" for pair in pairs]
        return f"no difference that matters: {_listed(each + rest)}"
    each = [
        f"{pair.arm} (both diverged with every seed)" if pair.verdict == BOTH_DIVERGED else pair.arm
        for pair in pairs
    ]
    return f"undecided: {_listed(each + rest)}"


def _at_most(pair: PairResult) -> str:
    interval = pair.counted.interval
    if pair.counted.identical or interval is None:
        return "none with any seed"
    return f"at most {at_most(interval.bound)}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
