"""What the documentation shows runs, and what it lists is so."""

import ast
import doctest
import importlib
import json
import pkgutil
import re
from dataclasses import fields
from itertools import chain

import pandas
import pytest
import torch
from places import ROOT
from presets import plans_of, tiny

import nnunetv2_salstm.nn
from nnunetv2_salstm import SALSTMConfig
from nnunetv2_salstm.evaluation.benchmark import BASELINE, Benchmark
from nnunetv2_salstm.plans import salstm_of
from nnunetv2_salstm.reporting.bench import bench_table
from nnunetv2_salstm.reporting.tables import Table, markdown_table


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_is_short_and_its_example_runs(capsys):
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
    (block,) = python_blocks("README.md")
    exec(compile(block, "README.md", "exec"), {})
    claimed = re.findall(r"#.*?(\(1, 4[\d, ]*\))", block)
    printed = [
        str(tuple(ast.literal_eval(size))) for size in re.findall(r"torch.Size\((.*)\)", capsys.readouterr().out)
    ]
    assert len(claimed) == 2
    assert printed == claimed


def test_the_blocks_in_other_networks_run(capsys):
    made, restored = python_blocks("docs/how-to/other-networks.md")
    exec(compile(made, "other-networks.md", "exec"), {})
    assert capsys.readouterr().out == "torch.Size([1, 32, 10, 64, 64])\n"
    namespace = {}
    exec(compile(restored, "other-networks.md", "exec"), namespace)
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(namespace["network"](x), namespace["network"][0](x))


def test_the_files_that_the_readme_names_are_there():
    names = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text())
    assert "docs/reference.md" in names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_reference_lists_every_value_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    documented = dict(rows)
    assert documented.pop("format") == "2"
    assert documented.pop("module") == "from the trainer"
    defaults = {field.name: field.default for field in fields(SALSTMConfig) if field.name != "module"}
    assert {name: json.loads(value.strip("`")) for name, value in documented.items()} == defaults


def test_the_examples_of_the_reference_write_plans(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    folder = tmp_path / "Dataset004_Hippocampus"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans_of(tiny())))
    own, route = (block for block in python_blocks("docs/reference.md") if "write_text" in block)
    namespace = {}
    exec(compile(own, "reference.md", "exec"), namespace)
    written = json.loads((folder / "nnUNetPlans_steps3.json").read_text())
    assert written["plans_name"] == "nnUNetPlans_steps3"
    assert salstm_of(written, "3d_fullres") == {"steps": 3, "reduction": 2}
    exec(compile(route, "reference.md", "exec"), namespace)
    written = json.loads((folder / "nnUNetPlansSALSTM_A.json").read_text())
    assert salstm_of(written, "3d_fullres")["steps"] == 3
    network = written["configurations"]["3d_fullres"]["architecture"]["network_class_name"]
    assert network == "nnunetv2_salstm.networks.SALSTMPlainConvUNet"


@pytest.mark.parametrize(
    "module",
    [
        "nnunetv2_salstm.networks",
        *(name for _, name, _ in pkgutil.iter_modules(nnunetv2_salstm.nn.__path__, "nnunetv2_salstm.nn.")),
    ],
)
def test_examples_in_docstrings(module):
    imported = importlib.import_module(module)
    result = doctest.testmod(imported, extraglobs={"torch": importlib.import_module("torch")})
    assert result.failed == 0
    public = [name for name in nnunetv2_salstm.nn.__all__ if getattr(nnunetv2_salstm.nn, name).__module__ == module]
    with_example = [name for name in public if ">>>" in (getattr(nnunetv2_salstm.nn, name).__doc__ or "")]
    assert result.attempted > 0 or not with_example


def test_the_costs_in_the_readme_are_the_measured_ones():
    report = Benchmark.from_json((ROOT / "docs" / "results" / "bench_cpu.json").read_text())
    modules = [report.summary()[f"nnUNetTrainerSALSTM_{module}"] for module in "AB"]

    def figures(quantity, of):
        return [f"{module[quantity][of]:.2f}" for module in modules]

    times = [figures(quantity, of) for quantity in ("training_step", "inference_tile") for of in ("mean", "worst")]
    (memory,) = set(figures("peak_memory", "mean"))
    sentence = (
        "a training step takes {} (A) and {} (B) times the stock network's on average, at worst {} and {}; "
        "an inference tile {} and {}, at worst {} and {}; peak memory {} ("
    ).format(*chain(*times), memory)
    assert sentence in " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize("name", ["bench_cpu", "bench_cpu_large", "bench_25d"])
def test_the_performance_tables_are_the_measured_ones(name):
    report = Benchmark.from_json((ROOT / "docs" / "results" / f"{name}.json").read_text())
    assert report.command in (ROOT / "docs" / "performance.md").read_text()
    assert markdown_table(bench_table(report.frame(), BASELINE)) in (ROOT / "docs" / "performance.md").read_text()


def test_the_table_of_defaults_is_the_measured_one():
    presets = json.loads((ROOT / "docs" / "results" / "defaults.json").read_text())["presets"]

    def ratio(times):
        return f"{times['ratio']:.2f} ({times['range'][0]:.2f}-{times['range'][1]:.2f})"

    rows = [["plan", "blocks", "parameters", "FLOPs", "training step", "inference tile"]]
    for preset, variants in presets.items():
        for name, found in variants.items():
            sizes = [f"{found[quantity]:.2f}" for quantity in ("parameters", "flops")]
            rows.append([preset, name, *sizes, ratio(found["training_step"]), ratio(found["inference_tile"])])
    table = Table(pandas.DataFrame(rows[1:], columns=rows[0]), text_columns=2)
    assert markdown_table(table) in (ROOT / "docs" / "performance.md").read_text()


def test_what_nnunets_own_trainings_say_is_what_was_compared():
    (file,) = (ROOT / "docs" / "results").glob("accuracy_Dataset004_*.json")
    told = " ".join((ROOT / "docs" / "evidence.md").read_text().split())
    report = json.loads(file.read_text())
    assert all(sentence in told for sentence in report["sentences"])
    scores = pandas.DataFrame(report["scores"]["rows"], columns=report["scores"]["columns"])
    means = scores.groupby(["method", "seed"])["dice"].mean()
    for method, values in means.groupby("method"):
        row = f"| {report['methods'][method]['short']} | {', '.join(f'{value:.4f}' for value in values)} |"
        assert row in told
    difference = 100 * (means["nnUNetTrainerSALSTM_A_30epochs_50its"] - means["nnUNetTrainerSALSTMOff_30epochs_50its"])
    assert f"in nnU-Net's own {difference.mean():.1f}" in " ".join((ROOT / "README.md").read_text().split())
