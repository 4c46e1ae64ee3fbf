"""What a conversion says at the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnunetv2_salstm.converters.case import Case, Collection, Content, count_values
from nnunetv2_salstm.converters.splits import FOLDS, Splits
from nnunetv2_salstm.host.errors import listed

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Facts:
    """What is known of a converted case: size and spacing (mm), slices first, how often labels occur, its files."""

    size: tuple[int, ...]
    spacing: tuple[float, ...] | None
    voxels: tuple[int, ...] | None
    remarks: tuple[str, ...]
    files: tuple[str, ...]

    @classmethod
    def of(cls, content: Content, labels: int, files: Iterable[str]) -> "Facts":
        """Returns the facts of a case of a dataset with so many labels, and with these files in it."""
        geometry, label = content.geometry, content.label
        image = content.images[0]
        return cls(
            image.shape if geometry else image.shape[:2],
            geometry.spacing[::-1] if geometry else None,
            None if label is None else tuple(count_values(label)[:labels].tolist()),
            content.remarks,
            tuple(files),
        )


@dataclass(frozen=True)
class Summary:
    """What a conversion says at the end.

    Attributes:
        cases: lines on cases, folds and sizes.
        labels: a row for each label: its name and value, its voxels or pixels, their share, the cases that have it.
        remarks: lines on what a user should know.
    """

    cases: list[str]
    labels: "pandas.DataFrame"
    remarks: list[str]


def summarise(collection: Collection, facts: Mapping[str, Facts], left_out: Sequence[str], splits: Splits) -> Summary:
    """Returns the summary of a conversion.

    Args:
        collection: what was found.
        facts: those of the cases that were converted, by name.
        left_out: why others were not.
        splits: of the training cases.
    """
    cases = [case for case in collection.cases if case.name in facts]
    lines = [_cases(collection.grouping, cases, facts), *_folds(collection.grouping, splits)]
    sizes = [facts[case.name].size for case in cases]
    spacings = [spacing for case in cases if (spacing := facts[case.name].spacing)]
    lines.append(f"Size: {_ranges(sizes)} {'voxels' if spacings else 'pixels'}")
    if spacings:
        lines.append(f"Spacing: {_ranges(spacings)} mm")
    mended: dict[str, list[str]] = {}
    for case in cases:
        for remark in facts[case.name].remarks:
            mended.setdefault(remark, []).append(case.name)
    remarks = [f"{_count(len(names), 'case')}: {remark}: {listed(names, 20)}" for remark, names in mended.items()]
    remarks += collection.remarks
    if left_out:
        remarks += [f"Left out, {_count(len(left_out), 'problem')}:", *(f"  {reason}" for reason in left_out)]
    return Summary(lines, _labels(collection, cases, facts), remarks)


def _cases(grouping: str, cases: Sequence[Case], facts: Mapping[str, Facts]) -> str:
    parts = []
    for test, kind in ((False, "training"), (True, "test")):
        if of_kind := [case for case in cases if case.test == test]:
            text = _count(len(of_kind), f"{kind} case")
            if grouping != "image":
                text += f" of {_count(len({case.group for case in of_kind}), grouping)}"
            if unlabelled := sum(facts[case.name].voxels is None for case in of_kind):
                text += f" ({unlabelled} without labels)"
            parts.append(text)
    return f"Cases: {', '.join(parts)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _folds(grouping: str, splits: Splits) -> list[str]:
    if not splits.folds:
        return [f"Folds: no splits_final.json, as there is one {grouping} only; nnU-Net will split at random"]
    sizes = ", ".join(str(len(fold["val"])) for fold in splits.folds)
    fewer = f" (there are only {len(splits.folds)} {grouping}s)" if len(splits.folds) < FOLDS else ""
    balanced = ", balanced over the groups of patients" if splits.balanced else ""
    return [f"Folds: {len(splits.folds)}{fewer} by {grouping}{balanced}; cases to validate with: {sizes}"]


def _labels(collection: Collection, cases: Sequence[Case], facts: Mapping[str, Facts]) -> "pandas.DataFrame":
    import pandas

    counted = [voxels for case in cases if (voxels := facts[case.name].voxels) is not None]
    unit = "voxels" if any(facts[case.name].spacing for case in cases) else "pixels"
    rows = []
    total = sum(map(sum, counted))
    for name, value in collection.labels.items():
        number = sum(voxels[value] for voxels in counted)
        having = sum(voxels[value] > 0 for voxels in counted)
        rows.append([name, value, number, number / max(1, total), having])
    return pandas.DataFrame(rows, columns=["label", "value", unit, "share", "cases"])


def _ranges(rows: Sequence[Sequence[float]]) -> str:
    texts = []
    for values in zip(*rows, strict=True):
        low, high = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in (min(values), max(values)))
        texts.append(low if low == high else f"{low} to {high}")
    return " x ".join(texts)
