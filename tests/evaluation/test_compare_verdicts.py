"""Verdicts: what is said of networks and of methods, and how often it would be wrong."""

import dataclasses
import doctest
import re

import numpy as np
import pandas as pd
import pytest
from places import ROOT

from nnunetv2_salstm.evaluation import compare_methods, verdicts
from nnunetv2_salstm.evaluation.statistics import estimate


class Study:
    """Draws scores (trainings, cases): cases differ most, trainings by their spread, and each case in each training."""

    def __init__(self, seed=0):
        self.generator = np.random.default_rng(seed)

    def train(self, cases, trainings, spread, gain=0.0, noise=0.01):
        draw = self.generator.normal
        return cases + gain + draw(0, spread, (trainings, 1)) + draw(0, noise, (trainings, len(cases)))

    def pair(self, seeds, spread, gain, cases=100, folds=1):
        cases = self.generator.normal(0.85, 0.06, cases)
        scores = {name: self.train(cases, seeds * folds, spread, g) for name, g in {"stock": 0.0, "A": gain}.items()}
        fold_of_training = np.arange(seeds * folds) % folds
        outside = fold_of_training[:, None] != np.arange(len(cases)) % folds
        return {name: np.where(outside, np.nan, values) for name, values in scores.items()}


def called(seeds, spread, gain, studies, folds=1):
    """Returns how often networks and methods are called different, and methods the right way round."""
    study = Study()
    found = [compare_methods(study.pair(seeds, spread, gain, folds=folds)) for _ in range(studies)]
    networks = np.mean([f.networks.verdict in ("better", "worse") for f in found])
    methods = np.mean([f.methods.verdict in ("better", "worse") for f in found])
    return networks, methods, np.mean([f.methods.verdict == "better" for f in found])


@pytest.mark.parametrize("spread", [0.001, 0.002, 0.003])
def test_equal_methods_are_seldom_called_different(spread):
    networks, methods, _ = called(3, spread, 0.0, 100)
    assert methods <= 0.07
    assert networks > methods  # these networks do differ, as trainings do


@pytest.mark.parametrize("spread", [0.001, 0.002, 0.003])
def test_a_point_is_found_with_five_seeds(spread):
    assert called(5, spread, 0.01, 60)[2] > 0.6


@pytest.mark.nightly
@pytest.mark.parametrize("spread", [0.001, 0.002, 0.003])
@pytest.mark.parametrize(("seeds", "folds"), [(1, 5), (3, 1), (3, 5), (5, 1), (5, 5)])
def test_how_often_verdicts_are_wrong(seeds, folds, spread):
    """Prints the figures of docs/how-to-benchmark.md."""
    networks, methods, _ = called(seeds, spread, 0.0, 500, folds)
    half, point = (called(seeds, spread, gain, 500, folds)[2] for gain in (0.005, 0.01))
    print(f"{seeds} x {folds}, {spread}: networks {networks:.3f}, methods {methods:.3f}, {half:.3f}, {point:.3f}")
    assert methods <= 0.07
    assert point > (0.6 if seeds == 5 else 0.3)


@pytest.mark.parametrize("count", [5, 8, 20, 50])
def test_the_interval_covers_as_often_as_it_says(count):
    values = np.random.default_rng(count).normal(0.5, 1, (1500, count))
    found = [estimate(row, np.zeros(count)) for row in values]
    coverage = np.mean([f.low <= 0.5 <= f.high for f in found])
    assert 0.92 <= coverage <= 0.975


def table(trainings, gains, cases=12, seed=0):
    """Returns a table of trainings (method, seed, fold): cases are split over two folds; gains by method."""
    generator = np.random.default_rng(seed)
    base = generator.normal(0.85, 0.05, cases)
    rows = [
        (method, s, case % 2, f"case_{case}", base[case] + gains[method] + generator.normal(0, 0.002))
        for method, seeds in trainings.items()
        for s in seeds
        for case in range(cases)
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "fold", "case", "value"])


def test_two_arrays_are_ours_and_theirs():
    """Wins and losses are many and small, or few and large: the sign is that of what was tested."""
    draw = np.random.default_rng(0)
    theirs = draw.uniform(0.7, 0.9, (1, 58))
    ours = theirs + np.concatenate([np.full(30, 0.002), np.full(28, -0.01)]) + draw.normal(0, 1e-4, 58)
    found = compare_methods(ours, theirs)
    assert found.networks == compare_methods({"theirs": theirs, "ours": ours}).networks
    assert found.networks.verdict == "worse"
    assert found.networks.low < found.networks.difference < found.networks.high < 0
    with pytest.raises(ValueError, match="ours must be a mapping or a table where theirs is not given, got ndarray"):
        compare_methods(ours)


def test_two_questions_have_two_answers():
    found = compare_methods(table({"stock": [0], "A": [0]}, {"stock": 0.0, "A": 0.02}))
    assert (found.networks.verdict, found.methods.verdict) == ("better", "cannot be decided")
    assert found.networks.count == 12
    assert found.methods.count == 2
    first, second = found["A"].sentences
    assert first.startswith("These networks: A is better than stock in mean Dice: 0.")
    assert "A against stock cannot be decided from 2 pairs of trainings: train more seeds or folds; at the" in second
    assert not any("A is" in sentence and "methods" in sentence for sentence in found.sentences)


def test_trainings_are_paired_by_fold_and_seed():
    values = table({"stock": [1, 0], "A": [0, 1, 7]}, {"stock": 0.0, "A": 0.0})
    values.loc[(values.method == "A") & (values.seed == 7), "value"] += 1  # would show in any mean that it is in
    found = compare_methods(values)["A"]
    by_training = values[values.seed != 7].groupby(["method", "seed", "fold"])["value"].mean()
    gaps = by_training["A"] - by_training["stock"]
    assert found.methods.difference == pytest.approx(gaps.mean())
    assert found.methods.spread == pytest.approx(gaps.std())
    assert found.trainings == (6, 4, 4)
    assert found.notes == [
        "6 trainings against 4: 4 can be paired within their fold, and the answer about the methods is from these."
    ]


def test_seeds_that_do_not_match_are_paired_in_their_order():
    found = compare_methods(table({"stock": [""], "A": [3]}, {"stock": 0.0, "A": 0.0}))
    assert found["A"].trainings == (2, 2, 2)
    assert not found["A"].notes


def test_what_is_corrected_is_the_number_of_methods():
    study = Study()
    cases = study.generator.normal(0.85, 0.05, 60)
    scores = {name: study.train(cases, 5, 0.001) for name in ("stock", "A", "B", "C")}
    alone = {name: compare_methods({"stock": scores["stock"], name: scores[name]}) for name in ("A", "B", "C")}
    together = compare_methods(scores)
    for question in ("networks", "methods"):
        p = {name: getattr(found, question).p for name, found in alone.items()}
        assert max(p.values()) < 1
        smallest = min(p, key=p.get)
        assert getattr(together[smallest], question).p == pytest.approx(min(1, 3 * p[smallest]))


def test_an_a_a_pair_is_noise_and_no_claim():
    study = Study(1)
    cases = study.generator.normal(0.85, 0.05, 200)
    scores = {"stock": study.train(cases, 3, 0.004), "again": study.train(cases, 3, 0.004)}
    scores["A"] = study.train(cases, 3, 0.004, 0.01)
    alone = compare_methods(scores, same_as_baseline=["again"])
    # It would double the smallest p.
    assert alone["A"].networks.p < alone["again"].networks.p_uncorrected
    (sentence,) = alone["again"].sentences
    assert sentence.startswith("A/A: again is the same method as stock, trained again: 0.")
    assert {alone["again"].networks.verdict, alone["again"].methods.verdict} == {"noise (A/A)"}
    assert {alone["again"].networks.p, alone["again"].methods.p} == {None}
    assert alone["A"].networks.p == alone["A"].networks.p_uncorrected
    assert len(alone.repeats) == 3 * 3  # every pair of three seeds, not only those with the first
    noise = next(sentence for sentence in alone.sentences if sentence.startswith("Noise"))
    gaps = [abs(pair.networks.difference) for pair in alone.repeats]
    assert f"by {np.median(gaps):.4f} in the median, {max(gaps):.4f} at most (9 pairs;" in noise


def test_equivalence_has_to_be_shown():
    study = Study()
    cases = study.generator.normal(0.85, 0.05, 200)
    scores = {name: study.train(cases, 8, 0.0002) for name in ("stock", "A")}
    found = compare_methods(scores, margin=0.005)
    assert (found.networks.verdict, found.methods.verdict) == ("equivalent", "equivalent")
    assert "A and stock are equivalent in mean Dice, within 0.005" in str(found)
    narrow = compare_methods(scores, margin=0.00001)
    assert {narrow.networks.equivalence, narrow.methods.equivalence} == {"not decided"}


def test_groups_are_the_units():
    values = np.array([[0.1, 0.3, 0.5, 0.9]])
    found = compare_methods({"stock": np.zeros((1, 4)), "A": values}, groups=["p", "p", "p", "q"])
    assert found.networks.count == found.units == 2
    assert found.networks.difference == pytest.approx((0.3 + 0.9) / 2)
    assert found.unit == "groups"


def test_undefined_and_infinite_values():
    nan, inf = np.nan, np.inf
    stock = np.array([[0.5, nan, 0.7, 0.9]] * 3)
    found = compare_methods({"stock": stock, "A": np.array([[0.6, 0.1, nan, 0.95]] * 3)})
    assert found.networks.count == 2
    assert found.networks.difference == pytest.approx(0.075)
    distances = compare_methods(
        {"stock": np.array([[3.0, 4.0, 5.0]] * 3), "A": np.array([[2.0, inf, 4.0]] * 3)}, higher_is_better=False
    )
    assert distances.networks.test == "signed-rank"
    assert distances.methods.verdict == "cannot be decided"
    assert "cannot be decided: some values are infinite" in str(distances)
    assert "A and stock differ infinitely" not in str(found)
    nothing = compare_methods({"stock": np.full((3, 4), nan), "A": stock})
    assert {nothing.networks.verdict, nothing.methods.verdict} == {"cannot be decided"}
    assert "no case has a mean Dice in both" in str(nothing)


def test_a_sentence_about_infinite_differences():
    """The mean is over the others, and the verdict is that of the ranks."""
    stock, ours = np.full((1, 12), 5.0), np.linspace(3.0, 4.0, 12)[None].copy()
    ours[0, :8] = np.inf
    found = compare_methods({"stock": stock, "A": ours}, higher_is_better=False, digits=2, endpoint="HD95")["A"]
    assert found.networks.verdict == "worse"
    assert (found.networks.ours, found.networks.theirs) == (pytest.approx(ours[0, 8:].mean()), 5.0)
    says = found.sentences[0]
    assert says.startswith("These networks: A is worse than stock in HD95: infinite in 8 of 12 cases, p ")
    assert "(Wilcoxon's, over all); over the others 3.86 and 5.00, difference -1.14 (95 % interval" in says
    assert says.endswith("; 12 cases, 4 better and 8 worse.")
    everywhere = compare_methods({"stock": stock, "A": np.full((1, 12), np.inf)}, higher_is_better=False)["A"]
    assert everywhere.networks.verdict == "worse"
    assert everywhere.sentences[0].startswith(
        "These networks: A is worse than stock in mean Dice: infinite in 12 of 12 cases, p 0.0005 (Wilcoxon's"
    )
    assert "difference" not in everywhere.sentences[0]
    both = compare_methods({"stock": np.array([[np.inf, 2.0, 3.0]]), "A": np.array([[np.inf, 1.0, 2.5]])})["A"]
    assert both.networks.test == "t"
    assert (both.networks.count, both.networks.finite) == (3, 2)
    assert both.networks.ours - both.networks.theirs == pytest.approx(both.networks.difference) == pytest.approx(-0.75)


def test_what_is_infinite_in_both_everywhere_cannot_be_decided():
    """As where both methods miss a structure in every case."""
    scores = {name: np.full((1, 3), np.inf) for name in ("stock", "A")}
    found = compare_methods(scores, higher_is_better=False, endpoint="HD95")["A"]
    assert found.networks.verdict == "cannot be decided"
    assert found.sentences[0] == (
        "These networks: A against stock cannot be decided from 3 cases: infinite in 3 of 3 cases."
    )
    some = {name: np.array([[np.inf, 1.0, 2.0, value]]) for name, value in (("stock", 3.0), ("A", 2.5))}
    assert ": infinite in 1 of 4 cases; over the others 1.8" in compare_methods(some)["A"].sentences[0]


def test_means_are_over_the_units_of_the_difference():
    nan = np.nan
    found = compare_methods({"stock": np.array([[0.5, nan, 0.7]]), "A": np.array([[0.6, 0.1, 0.9]])})["A"]
    assert (found.networks.ours, found.networks.theirs) == pytest.approx((0.75, 0.6))
    values = np.array([[0.1, 0.3, 0.5, 0.9]])
    of_groups = compare_methods({"stock": np.zeros((1, 4)), "A": values}, groups=["p", "p", "p", "q"])["A"]
    assert of_groups.networks.ours == pytest.approx((0.3 + 0.9) / 2)


def test_what_is_left_out_is_said():
    found = compare_methods(table({"stock": [1, 0], "A": [0, 1, 7]}, {"stock": 0.0, "A": 0.0}))["A"]
    assert found.sentences[-1] == f"A and stock: {found.notes[0]}"


def test_enough_pairs_are_not_asked_for_again():
    draw = np.random.default_rng(0).normal(0, 1, (40, 1))
    gaps = 0.0006 + 0.002 * (draw - draw.mean()) / draw.std()
    scores = {"stock": np.full((40, 60), 0.8), "A": 0.8 + gaps + np.zeros((40, 60))}
    found = compare_methods(scores, overlap=0.0, margin=0.0011)["A"]
    assert found.methods.verdict == "no difference shown"
    assert found.methods.needed <= 40
    assert found.sentences[1].endswith(
        "40 pairs of trainings, enough to show a difference of 0.0011 four times in five."
    )


def test_one_case_has_no_interval():
    found = compare_methods({"stock": np.array([[0.5]]), "A": np.array([[0.6]])})
    assert (found.networks.verdict, found.networks.low, found.networks.p) == ("cannot be decided", None, None)
    assert "These networks: A against stock cannot be decided from 1 case:" in str(found)


def test_cases_that_moved_by_a_point_are_counted():
    found = compare_methods({"stock": np.zeros((1, 5)), "A": np.array([[0.005, 0.02, 0.5, -0.005, -0.02]])})["A"]
    assert (found.pairs.wins, found.pairs.losses) == (3, 2)
    assert (found.pairs.improved, found.pairs.worsened) == (2, 1)


def test_few_units_are_said():
    few, many = (compare_methods(Study().pair(3, 0.001, 0.0, cases)) for cases in (49, 50))
    assert any(sentence.startswith("Few cases: 49, fewer than 50") for sentence in few.sentences)
    assert not any(sentence.startswith("Few") for sentence in many.sentences)


def test_ranks_are_of_three_methods_or_more():
    scores = {**Study().pair(3, 0.001, 0.05), "B": np.full((3, 100), 0.1)}
    found = compare_methods(scores)
    assert found.ranks["A"].first == 1.0
    assert "Ranks: A has the best mean; it stays first in 100.0 % of resamples of cases and trainings." in str(found)
    once = str(compare_methods({name: values[:1] for name, values in scores.items()}))
    assert "100.0 % of resamples of cases; what other trainings would change is not in it." in once
    assert not compare_methods({"stock": scores["stock"], "A": scores["A"]}).ranks


def test_there_are_no_ranks_of_infinite_values():
    """A method that misses everything must not be first among distances."""
    scores = {"stock": np.full((1, 60), 3.0), "A": np.full((1, 60), 4.0), "nothing": np.full((1, 60), np.inf)}
    found = compare_methods(scores, higher_is_better=False)
    assert not found.ranks
    assert "Ranks: none, as some values are infinite" in str(found)


def test_the_example_runs():
    found = doctest.testmod(verdicts)
    assert found.attempted > 0
    assert not found.failed


def test_the_documented_example_runs(capsys):
    text = (ROOT / "docs" / "how-to-benchmark.md").read_text()
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    output = capsys.readouterr().out
    assert output.startswith("These networks: ours is better than theirs")
    assert "\nbetter better 0.0" in output


def test_the_same_scores_give_the_same_words():
    scores = Study().pair(3, 0.002, 0.004)
    assert dataclasses.asdict(compare_methods(scores)) == dataclasses.asdict(compare_methods(scores))


def _without(values, **wanted):
    return values[~(values[list(wanted)] == pd.Series(wanted)).all(axis=1)]


VALUES = table({"stock": [0, 1], "A": [0, 1]}, {"stock": 0.0, "A": 0.0})


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ({"stock": np.zeros((1, 4))}, {}, "at least two methods, got stock"),
        ({}, {}, "at least two methods, got none"),
        ({"stock": np.zeros((1, 4)), "A": np.zeros((1, 5))}, {}, "the same cases, got stock 4, A 5"),
        ({"stock": np.zeros((1, 4)), "A": np.zeros(4)}, {}, r"scores of A must have the shape .* got \(4,\)"),
        (VALUES, {"baseline": "B"}, "baseline must be one of stock, A, got 'B'"),
        (VALUES, {"margin": 0}, "margin must be positive"),
        (VALUES, {"groups": {"case_0": 1}}, "it lacks case_1, case_2"),
        ({"stock": np.zeros((1, 4)), "A": np.zeros((1, 4))}, {"groups": [1]}, "as many as cases, got 1 and 4"),
        (VALUES.drop(columns="case"), {}, "it lacks case"),
        (pd.concat([VALUES, VALUES.head(1)]), {}, "got twice: method stock, seed 0, fold 0, case case_0"),
        (_without(VALUES, method="A", case="case_3"), {}, "the same cases; A lacks case_3"),
        (_without(VALUES, method="A", case="case_3", seed=1), {}, "those of A, fold 1 differ in case_3"),
    ],
)
def test_scores_that_do_not_fit_together_are_named(scores, options, message):
    with pytest.raises(ValueError, match=message):
        compare_methods(scores, **options)


def test_one_of_several_methods_is_asked_for_by_name():
    scores = {**Study().pair(3, 0.001, 0.0), "B": np.zeros((3, 100))}
    with pytest.raises(ValueError, match="2 methods were compared; ask for one of A, B by its name"):
        _ = compare_methods(scores).networks
