"""Tables, figure and checksums of the small study, from the files of its runs."""

import hashlib
import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from nnunetv2_salstm.host.errors import SalstmError

FORMAT = 1
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
FIGURE = ROOT / "docs" / "figures" / "small_study.svg"
CHECKSUMS = "SHA256SUMS"
BEGIN, END = "<!-- tables: written by small_study.py -->", "<!-- tables: end -->"
# Of the loss over a schedule.
CURVE_POINTS = 20
# A against what it must beat, planned before the runs: the intervals of all three hold together with 95 %.
PLANNED = ("stock", "bdclstm", "conv")
TOGETHER = 1 - 0.05 / len(PLANNED)
# Of the planned comparisons. Later ones were decided on when these were known, so they are judged alone.
PLANNED_SEEDS, CONFIRMING_SEEDS = range(5), range(5, 10)

Run = dict[str, Any]
# By method, then by seed.
Group = dict[str, dict[int, Run]]


def read_runs(results: Path) -> dict[tuple[str, int], Group]:
    """Returns the runs by setting and steps.

    Raises:
        SalstmError: if there are none, or a file is no run of this format.
    """
    groups: dict[tuple[str, int], Group] = defaultdict(lambda: defaultdict(dict))
    for file in _files(results):
        try:
            run = json.loads(file.read_text())
            written = run["format"]
            setting, steps, method, seed = (run[name] for name in ("setting", "steps", "method", "seed"))
        except (ValueError, KeyError, TypeError) as error:
            raise SalstmError(f"{file} is not a run of the small study ({type(error).__name__}); remove it") from None
        if written != FORMAT:
            raise SalstmError(
                f"{file}: format must be {FORMAT}, got {written!r}; take the small_study.py that wrote it"
            )
        groups[setting, steps][method][seed] = run
    return dict(sorted(groups.items()))


def _files(results: Path) -> list[Path]:
    files = sorted(results.glob("*/*.json"))
    if not files:
        raise SalstmError(f"--results must be a folder with runs, <setting>/<run>.json; {results} has none")
    return files


def checksums(results: Path) -> str:
    """Returns the SHA-256 of every run, in the form of sha256sum."""
    return "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(results).as_posix()}\n"
        for file in _files(results)
    )


def tables(groups: dict[tuple[str, int], Group]) -> str:
    """Returns all tables as Markdown."""
    parts = [
        _headed("### The planned comparisons", _overview(groups)),
        _headed("### Put to the test with new seeds", _overview(groups, CONFIRMING_SEEDS)),
    ]
    for (setting, steps), methods in groups.items():
        cases = len(next(iter(next(iter(methods.values())).values()))["cases"])
        parts.append(f"### {setting}, {steps} steps\n\n{_results(methods)}\n\n{cases} test cases.")
        parts += [_planned(methods), _structures(methods), _blocks(methods)]
    return "\n\n".join(filter(None, parts))


def _results(methods: Group) -> str:
    rows = []
    seeds = sorted({seed for runs in methods.values() for seed in runs})
    for method, runs in _ordered(methods):
        scores = [f"{runs[seed]['dice']:.3f}" if seed in runs else "-" for seed in seeds]
        difference = better = "" if method == "stock" else "-"
        removed = [100 * run["removed"]["all"] for run in runs.values() if run["removed"]]
        if method != "stock" and (pairs := _pairs(runs, methods.get("stock", {}))):
            difference = _with_interval([_differences(pairs)], 0.95)
            by_case = _by_case(pairs)
            better = f"{sum(d > 1 for d in by_case)} / {sum(d < -1 for d in by_case)}"
        mean = np.mean([run["dice"] for run in runs.values()])
        without = _points(np.mean(removed)) if removed else ""
        if len(removed) > 1:
            without += f" ({_points(min(removed))} to {_points(max(removed))})"
        rows.append([method, f"{mean:.3f}", ", ".join(scores), difference, better, without])
    heads = [
        "method",
        "Dice",
        f"with seeds {', '.join(map(str, seeds))}",
        "minus stock, points [95 %]",
        "cases better / worse",
        "blocks off, points",
    ]
    return _table(heads, rows)


def _headed(head: str, table: str) -> str:
    return f"{head}\n\n{table}" if table else ""


def _by_setting(
    groups: dict[tuple[str, int], Group], seeds: Container[int] = PLANNED_SEEDS
) -> tuple[dict[str, int], dict[str, dict[str, list[float]]]]:
    """Returns the steps of each setting, and by comparison and setting the differences of its trainings in points.

    Of each setting those after the longest schedule that has planned comparisons.
    """
    longest = {setting: steps for (setting, steps), methods in groups.items() if any(_planned_pairs(methods, seeds))}
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for setting, steps in longest.items():
        for comparison, pairs in _planned_pairs(groups[setting, steps], seeds):
            found[comparison][setting] = _differences(pairs)
    return longest, dict(sorted(found.items()))


def _overview(groups: dict[tuple[str, int], Group], seeds: Container[int] = PLANNED_SEEDS) -> str:
    """Returns the planned comparisons over trainings, and all settings' mean."""
    longest, found = _by_setting(groups, seeds)
    if not found:
        return ""
    rows = []
    for comparison, of in found.items():
        each = (f"{_with_interval([of[name]], TOGETHER)} ({len(of[name])})" if name in of else "-" for name in longest)
        rows.append([comparison, f"{_with_interval([*of.values()], TOGETHER)} ({len(of)})", *each])
    heads = [f"{name}, {steps} steps (seeds)" for name, steps in longest.items()]
    return _table([f"points [{100 * TOGETHER:.1f} %]", "mean of settings (settings)", *heads], rows)


def _planned(methods: Group) -> str:
    rows = [
        [
            comparison,
            str(len(pairs)),
            _with_interval([_differences(pairs)], TOGETHER),
            _with_interval([_by_case(pairs)], TOGETHER),
        ]
        for comparison, pairs in _planned_pairs(methods)
    ]
    if not rows:
        return ""
    level = f"[{100 * TOGETHER:.1f} %]"
    return _table(["planned comparison, points", "seeds", f"over trainings {level}", f"over cases {level}"], rows)


def _planned_pairs(
    methods: Group, seeds: Container[int] = PLANNED_SEEDS
) -> Iterator[tuple[str, list[tuple[Run, Run]]]]:
    """Yields the planned comparisons of every A with its controls of the same start, from three seeds on."""
    for method, runs in _ordered(methods):
        if not method.startswith("A"):
            continue
        gain = method[1:].partition("_")[0]
        chosen = {seed: run for seed, run in runs.items() if seed in seeds}
        for module in PLANNED:
            control = module if module == "stock" else f"{module}{gain}"
            pairs = _pairs(chosen, methods.get(control, {}))
            if len(pairs) >= 3:
                yield f"{method} - {control}", pairs


def _structures(methods: Group) -> str:
    """Returns how well each method fits its training batches in the end, and the Dice of each structure.

    Of stock the means, of others the mean differences of trainings that share their seed with one of stock.
    """
    stock = methods.get("stock", {})
    rows, structures = [], []
    for method, runs in _ordered(methods):
        structures = next(iter(runs.values()))["structures"]
        places = range(len(structures))
        if method == "stock":
            cells = [f"{np.mean([_of_structure(run, place) for run in runs.values()]):.3f}" for place in places]
            rows.append([method, f"{np.mean([_last_loss(run) for run in runs.values()]):.3f}", *cells])
        elif pairs := _pairs(runs, stock):
            loss = np.mean([_last_loss(a) - _last_loss(b) for a, b in pairs])
            gaps = [np.mean([_of_structure(a, place) - _of_structure(b, place) for a, b in pairs]) for place in places]
            rows.append([method, f"{loss:+.3f}", *(_points(100 * gap) for gap in gaps)])
    return _table(["method", "training loss", *structures], rows) if len(rows) > 1 else ""


def _last_loss(run: Run) -> float:
    """Returns the mean over the last tenth of the schedule."""
    return float(np.mean([*run["loss_curve"].values()][-CURVE_POINTS // 10 :]))


def _of_structure(run: Run, place: int) -> float:
    return _mean(scores[place] for scores in run["cases"].values())


def _blocks(methods: Group) -> str:
    rows = []
    for method, runs in _ordered(methods):
        if method == "stock":
            continue
        found = {
            name: [
                np.mean([run["blocks"][stage][name] for run in runs.values()])
                for stage in sorted(next(iter(runs.values()))["blocks"])
                if name in next(iter(runs.values()))["blocks"][stage]
            ]
            for name in ("share", "rank_a", "rank_v", "rank_y")
        }
        off = [
            100 * np.mean([run["removed"][stage] for run in runs.values()])
            for stage in sorted(next(iter(runs.values()))["removed"])
            if stage != "all"
        ]
        share = ", ".join(f"{100 * value:.0f} %" for value in found["share"])
        ranks = (", ".join(f"{value:.1f}" for value in found[name]) for name in ("rank_a", "rank_v", "rank_y"))
        rows.append([method, share, ", ".join(map(_points, off)), *ranks])
    if not rows:
        return ""
    heads = ["method", "share of the skip", "one stage off, points", "rank of A", "rank of V", "rank of Y"]
    return _table(heads, rows)


def _ordered(methods: Group) -> list[tuple[str, dict[int, Run]]]:
    modules = ["stock", "A", "B", "bdclstm", "conv"]
    return sorted(methods.items(), key=lambda item: (modules.index(re.split(r"\d", item[0])[0]), item[0]))


def _pairs(runs: dict[int, Run], others: dict[int, Run]) -> list[tuple[Run, Run]]:
    return [(runs[seed], others[seed]) for seed in sorted(runs.keys() & others.keys())]


def _differences(pairs: list[tuple[Run, Run]]) -> list[float]:
    return [100 * (ours["dice"] - theirs["dice"]) for ours, theirs in pairs]


def _by_case(pairs: list[tuple[Run, Run]]) -> list[float]:
    """Returns the difference in each case in points, the mean over seeds and structures."""
    return [
        float(np.mean([100 * (_mean(ours["cases"][case]) - _mean(theirs["cases"][case])) for ours, theirs in pairs]))
        for case in pairs[0][0]["cases"]
    ]


def _mean(scores: Iterable[float | None]) -> float:
    return float(np.mean([score for score in scores if score is not None]))


def _with_interval(groups: list[list[float]], level: float) -> str:
    """Returns the mean of the groups' means with its Student interval, or alone where a group has one difference."""
    mean, half = _interval(groups, level)
    return _points(mean) if half is None else f"{_points(mean)} [{_points(mean - half)}, {_points(mean + half)}]"


def _interval(groups: list[list[float]], level: float) -> tuple[float, float | None]:
    """Returns the mean of the groups' means, and half of its Student interval, None where a group has one difference.

    Groups may differ in spread, so the degrees of freedom are those of Welch and Satterthwaite.
    """
    mean = float(np.mean([np.mean(group) for group in groups]))
    if min(map(len, groups)) < 2:
        return mean, None
    parts = [float(np.var(group, ddof=1)) / len(group) for group in groups]
    half = 0.0
    if total := sum(parts):
        freedom = total**2 / sum(part**2 / (len(group) - 1) for part, group in zip(parts, groups, strict=True))
        half = float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(total) / len(groups)
    return mean, half


def _points(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # no -0.0


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def draw(groups: dict[tuple[str, int], Group], file: Path) -> None:
    """Draws the planned comparisons, and a row for each setting and length: learning curves, Dice of every training.

    Curves are means over seeds. Where stock alone was trained there is nothing to see.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = {place: methods for place, methods in groups.items() if len(methods) > 1}
    if not groups:
        return
    _, found = _by_setting(groups)
    heights = [0.3 * sum(len(of) + 1 for of in found.values()) + 1, 3.4 * len(groups)] if found else [3.4 * len(groups)]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    *above, below = np.ravel(figure.subfigures(len(heights), 1, height_ratios=heights))
    for part in above:
        _draw_comparisons(found, part.subplots())
    for (curves, scores), ((setting, steps), methods) in zip(
        below.subplots(len(groups), 2, squeeze=False), groups.items(), strict=True
    ):
        seeds = sorted({seed for runs in methods.values() for seed in runs})
        ordered = _ordered(methods)
        for method, runs in ordered:
            losses = [run["loss_curve"] for run in runs.values()]
            x = [int(step) for step in losses[0]]
            curves.plot(x, np.mean([list(loss.values()) for loss in losses], axis=0), label=f"{method} ({len(runs)})")
        # A line for each seed, as trainings of one seed are compared.
        for seed in seeds:
            dice = [runs[seed]["dice"] if seed in runs else math.nan for _, runs in ordered]
            scores.plot(range(len(ordered)), dice, "o-", linewidth=0.8, markersize=4, label=f"seed {seed}")
        curves.set(title=f"{setting}, {steps} steps", xlabel="step", ylabel="training loss")
        scores.set(title="test cases", ylabel="Dice, mean over cases and structures")
        scores.set_xticks(range(len(ordered)), [method for method, _ in ordered], rotation=30, ha="right")
        for axis in (curves, scores):
            axis.legend(fontsize="x-small")
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "small_study"}):
        figure.savefig(file, metadata={"Date": None})


def _draw_comparisons(found: dict[str, dict[str, list[float]]], axis: Any) -> None:
    """Draws a line for each comparison and setting, and below them the mean of settings: a point for each seed."""
    names = []
    for comparison, of in found.items():
        each = {f"{name} ({len(gaps)})": [gaps] for name, gaps in of.items()}
        for setting, gaps in {**each, "mean": [*of.values()]}.items():
            mean, half = _interval(gaps, TOGETHER)
            y, colour = len(names), "black" if setting == "mean" else "tab:blue"
            axis.errorbar([mean], [y], xerr=[half or 0.0], fmt="s", color=colour, capsize=3, markersize=5)
            if setting != "mean":
                axis.plot(gaps[0], [y] * len(gaps[0]), ".", color="0.6", zorder=0)
            names.append(f"{comparison}: {setting}")
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    intervals = f"{100 * TOGETHER:.1f} % intervals over trainings"
    axis.set(title="The planned comparisons", xlabel=f"points of Dice, with {intervals}; a dot for each seed")


def _parts_of_page() -> tuple[str, str, str]:
    text = PAGE.read_text()
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not begin or not end:
        raise SalstmError(f"{PAGE} must have the lines {BEGIN} and {END}, between which the tables are written")
    return before + begin, inside, end + after


def write(results: Path) -> None:
    """Writes the tables into docs/evidence.md, the figure, and the checksums."""
    groups = read_runs(results)
    before, _, after = _parts_of_page()
    PAGE.write_text(f"{before}\n\n{tables(groups)}\n\n{after}")
    draw(groups, FIGURE)
    (results / CHECKSUMS).write_text(checksums(results))


def verify(results: Path) -> None:
    """Checks that runs and tables are those that were written together.

    Raises:
        SalstmError: naming the first difference.
    """
    groups = read_runs(results)
    manifest = results / CHECKSUMS
    if not manifest.is_file():
        raise SalstmError(f"{manifest} is missing; write it with: small_study.py tables")
    written, found = (
        dict(line.split("  ")[::-1] for line in text.splitlines())
        for text in (manifest.read_text(), checksums(results))
    )
    for name in sorted(written.keys() | found.keys()):
        if written.get(name) != found.get(name):
            state = "changed" if name in written and name in found else "new" if name in found else "missing"
            raise SalstmError(f"{results / name} is {state} since the tables were written")
    _, inside, _ = _parts_of_page()
    lines, expected = inside.strip().splitlines(), tables(groups).splitlines()
    for number, (line, wanted) in enumerate(itertools.zip_longest(lines, expected), start=1):
        if line != wanted:
            raise SalstmError(f"{PAGE}: line {number} of the tables must be {wanted!r}, got {line!r}")
    print(f"{len(found)} runs, their tables and checksums agree")
