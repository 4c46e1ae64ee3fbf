"""A model that is watched while it predicts cases."""

from collections.abc import Sequence

from nnunetv2_salstm.evaluation.contribution_maps import ContributionMaps, contribution_maps, fullest_slice
from nnunetv2_salstm.evaluation.inspection import ModelFindings
from nnunetv2_salstm.evaluation.probe import Probe
from nnunetv2_salstm.host.cases import Case, preprocess
from nnunetv2_salstm.host.models import Model, make_predictor


class Subject:
    """A model with what watches it and what was found in it.

    Args:
        model: read from its folder.
        label: its short name.
        device: to predict on.
        show_progress: whether nnU-Net shows its tiles.
    """

    def __init__(self, model: Model, label: str, device: str, show_progress: bool = False):
        self.model = model
        self.predictor = make_predictor(model, device, show_progress)
        self.probe = Probe(model.network)
        about = {
            "folder": str(model.folder),
            "trainer": model.trainer,
            "plans": model.plans.plans_name,
            "configuration": model.configuration_name,
            "fold": model.fold,
            "checkpoint": model.checkpoint,
        }
        self.findings = ModelFindings(label, about, model.salstm)

    def look_at(self, case: Case) -> tuple[float, float]:
        """Runs the model on a case, keeps what was seen, and returns the edge lengths of its pixels, in mm."""
        data, pixel = preprocess(self.model, case)
        self.probe.clear()
        with self.probe.watching():
            self.predictor.predict_sliding_window_return_logits(data)
        self.findings.cases[case.name] = self.probe.findings
        return pixel


def look_at(subjects: Sequence[Subject], case: Case) -> dict[str, ContributionMaps]:
    """Runs the models on a case and returns the maps of those with modules, by their labels."""
    pixels = [subject.look_at(case) for subject in subjects]
    found = {}
    for subject, pixel in zip(subjects, pixels, strict=True):
        if subject.probe.blocks:
            # The same slice of both models where their preprocessing agrees.
            same = [s for s in subjects if s.predictor.data.shape == subject.predictor.data.shape]
            z = fullest_slice(same[0].predictor)
            maps = contribution_maps(subject.model, subject.predictor, subject.probe, pixel, z)
            found[subject.findings.label] = maps
    return found
