"""benchmarks/study_hours.py: the tables of docs/scale.md, from the measured steps."""

import json
import re
import subprocess
import sys

import pytest
from places import ROOT


def tables(*words: object) -> str:
    command = [sys.executable, ROOT / "benchmarks" / "study_hours.py", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_tables_of_the_page_are_printed():
    page = (ROOT / "docs" / "scale.md").read_text()
    for table in tables().split("\n\n"):
        assert table.strip() in page


def test_hours_follow_from_steps_and_tiles(tmp_path):
    """Two seconds a step and half a second a tile of one sample, with the plan's batch of 56 samples."""
    measured = [
        {
            "plan": plan,
            "trainer": trainer,
            "batch_size": 1,
            "error": None,
            "training_step": [2.0],
            "inference_tile": [t],
        }
        for plan in ("acdc3d", "acdc2d")
        for trainer, t in (("nnUNetTrainerSALSTMOff", 0.5), ("nnUNetTrainerSALSTM_A", 0.5))
    ]
    bench, study = tmp_path / "bench.json", tmp_path / "study.yaml"
    bench.write_text(json.dumps({"measurements": measured}))
    study.write_text(
        "{name: s, datasets: [27], configurations: [2d], folds: [0], epochs: 10,"
        " trainers: [nnUNetTrainerSALSTMOff, nnUNetTrainerSALSTM_A]}"
    )
    hours = 56 * (250 * 2.0 + 50 * 0.5) * 10 / 3600
    printed = tables(study, "--bench", bench, "--as-measured")
    found = re.search(r"\| ACDC +\| 2d +\| +2 \| +(\S+) \| +(\S+) \|", printed)
    assert [float(value) for value in found.groups()] == pytest.approx([hours, 2 * hours], rel=0.01)


def test_a_benchmark_that_was_cut_short_names_what_it_lacks(tmp_path):
    bench = tmp_path / "bench.json"
    bench.write_text('{"measurements": []}')
    with pytest.raises(subprocess.CalledProcessError) as failed:
        tables("--bench", bench, "--as-measured")
    assert "--bench must have nnUNetTrainerSALSTMOff on acdc2d, acdc3d, btcv3d, isic2d" in failed.value.stderr
