"""Hands the numbers of a comparison to its report."""

from collections.abc import Mapping, Sequence

from nnunetv2_salstm.evaluation.comparison import Comparison
from nnunetv2_salstm.evaluation.examples import Example
from nnunetv2_salstm.evaluation.metrics import METRICS
from nnunetv2_salstm.evaluation.runs import Run, curves_table
from nnunetv2_salstm.reporting import comparison as shown
from nnunetv2_salstm.reporting.document import Figure
from nnunetv2_salstm.reporting.overlays import Overlay, draw_overlays


def report_of(
    comparison: Comparison, methods: Mapping[str, Sequence[Run]], examples: Sequence[Example]
) -> shown.Comparison:
    """Returns what the report shows of a comparison.

    Args:
        comparison: what was found.
        methods: the runs of each, for their learning curves.
        examples: of the cases that changed most.
    """
    results, endpoint, short = comparison.results, comparison.endpoint, comparison.results.short
    metrics = {}
    for name in results.metrics:
        metric = METRICS[name]
        unit = f" ({comparison.inputs['unit']})" if metric.unit else ""
        metrics[name] = shown.Metric(f"{metric.title}{unit}", 2 if metric.unit else 4, metric.best > 0)
    curves = curves_table(methods)
    return shown.Comparison(
        comparison.title,
        comparison.inputs["reference"],
        (endpoint.title, metrics[endpoint.metric]),
        metrics,
        [*comparison.verdicts.sentences, *comparison.sentences_on_blocks()],
        comparison.confounders,
        comparison.failures,
        {**comparison.tables(), "curves": curves.assign(method=curves["method"].map(short))},
        {short[name]: values for name, values in comparison.cost.items()},
        comparison.notes(),
        comparison.inputs["command"],
        comparison.versions,
        [_picture(example, short[example.method], short[results.baseline]) for example in examples],
    )


def _picture(example: Example, name: str, baseline: str) -> Figure:
    areas = {
        "image": {},
        "reference": example.reference,
        f"{baseline}: {example.theirs:.3f}": example.baseline,
        f"{name}: {example.ours:.3f}": example.prediction,
    }
    slices = [
        Overlay(example.image, title, masks, pixel=example.pixel, window=example.window)
        for title, masks in areas.items()
    ]
    title = f"{example.case}, slice {example.place[0]} of {example.place[1]}"
    caption = (
        f"{example.case}, {name}: Dice {example.ours:.4f}, {example.ours - example.theirs:+.4f} from {baseline}. "
        "The slice in which the predictions differ most."
    )
    return Figure(png=draw_overlays([slices], list(example.reference), title), caption=caption, alt=example.case)
