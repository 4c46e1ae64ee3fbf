"""A model card: Markdown with the front matter that model hubs read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pandas
import yaml

from nnunetv2_salstm.reporting.document import Block, Bullets, Code, Document, Section, Text, to_markdown
from nnunetv2_salstm.reporting.tables import Table

# Of the configuration's values, those that a reader knows a network by.
_PLAN = ("patch_size", "batch_size", "spacing", "normalization_schemes")
# Of nnU-Net's dataset.json, where its author wrote them.
_ABOUT = ("reference", "licence", "license", "release")


@dataclass(frozen=True)
class Card:
    """What a card says of a model.

    Attributes:
        dataset, dataset_json: name of the data set, and nnU-Net's description of it.
        trainer, plans_name, configuration: what was trained.
        plan: the configuration's values, with nnU-Net's architecture.
        parameters: of the network.
        folds: that are finished.
        scores: label, mean, low, high and cases of the validation's Dice; empty without a validation.
        trainings: a row for each fold.
        comparison: sentences on how it did against others.
        license: as model hubs name it; None for one to be chosen.
    """

    dataset: str
    dataset_json: Mapping[str, Any]
    trainer: str
    plans_name: str
    configuration: str
    plan: Mapping[str, Any]
    parameters: int
    folds: Sequence[str]
    scores: pandas.DataFrame
    trainings: pandas.DataFrame
    comparison: Sequence[str]
    license: str | None

    @property
    def name(self) -> str:
        """The model's name, as nnU-Net's folders have it."""
        return f"{self.dataset}, {self.trainer}__{self.plans_name}__{self.configuration}"


def to_card(card: Card) -> str:
    """Returns the card; equal models make equal cards."""
    front = yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{to_markdown(Document(card.name, _blocks(card)))}"


def _front_matter(card: Card) -> dict[str, Any]:
    has_blocks = "salstm" in card.plan["architecture"]["arch_kwargs"]
    results = [
        {"type": "dice", "name": f"Dice, {row['label']}, validation", "value": round(row["mean"], 4)}
        for row in card.scores.to_dict("records")
    ]
    task = {"type": "image-segmentation"}
    data = {"type": card.dataset, "name": card.dataset}
    index = {"name": card.name, "results": [{"task": task, "dataset": data, "metrics": results}]}
    return {
        # Hubs know "other", with a name beside it.
        "license": card.license or "other",
        **({} if card.license else {"license_name": "TODO"}),
        "library_name": "nnunetv2",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical", "nnU-Net", *(["SA-LSTM"] if has_blocks else [])],
        **({"metrics": ["dice"], "model-index": [index]} if results else {}),
    }


def _blocks(card: Card) -> list[Block]:
    data = card.dataset_json
    labels = [f"{name} ({value})" for name, value in data["labels"].items()]
    facts = [
        f"Data set: {card.dataset}, {data.get('numTraining', '?')} training cases, `{data['file_ending']}`",
        f"Channels: {', '.join(f'{name} ({key})' for key, name in data['channel_names'].items())}",
        f"Labels: {', '.join(labels)}",
        *(f"{key.capitalize()}: {data[key]}" for key in _ABOUT if data.get(key)),
        "TODO: where they are from (sites, scanners, years), who was included, how they were annotated, and consent",
    ]
    architecture = card.plan["architecture"]
    arguments = architecture["arch_kwargs"]
    network = [
        f"Trainer `{card.trainer}`, plans `{card.plans_name}`, configuration `{card.configuration}`",
        f"Network `{architecture['network_class_name']}`, {card.parameters / 1e6:.2f} M parameters, "
        f"{arguments.get('n_stages')} stages",
        *(f"{key.replace('_', ' ').capitalize()}: {card.plan[key]}" for key in _PLAN if key in card.plan),
    ]
    if salstm := arguments.get("salstm"):
        network.append(f"SA-LSTM blocks: {', '.join(f'{key} {value}' for key, value in salstm.items())}")
    blocks: list[Block] = [
        Section(
            "Intended use",
            [
                Text("**TODO, by the author**: for which images and which purpose, and for which not."),
                Text("Not a medical device. Not to be used for decisions about patients."),
            ],
        ),
        Section("Data", [Bullets(facts)]),
        Section("Network", [Bullets(network)]),
    ]
    if len(card.scores):
        interval = [
            "-" if pandas.isna(row["low"]) else f"{row['low']:.4f} to {row['high']:.4f}"
            for row in card.scores.to_dict("records")
        ]
        shown = card.scores.drop(columns=["low", "high"]).rename(columns={"mean": "Dice"})
        shown.insert(2, "95 % interval", interval)
        how = (
            f"nnU-Net's validation of fold {', '.join(card.folds)}, cases that the networks were not trained on"
            if "all" not in card.folds
            else "fold all: **on the cases that the network was trained on**, which says nothing of others"
        )
        note = Text(f"{how}. Intervals are Student's over cases: what other cases of the same kind would change.")
        scores: list[Block] = [Table(shown, formats={"Dice": ".4f"}), note]
    else:
        scores = [Text("TODO: there is no validation with this model; run nnUNetv2_train ... --val.")]
    scores.append(Text("TODO: results on data from elsewhere, and for which patients it fails."))
    blocks.append(Section("Scores", scores))
    if card.comparison:
        blocks.append(Section("Against other methods", [Bullets(card.comparison)]))
    packages = ["nnunetv2", *(["nnunetv2-salstm"] if arguments.get("salstm") else [])]
    wanted = " ".join(f'"{name}=={version(name)}"' for name in packages)
    predict = f"nnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m MODEL_FOLDER -f {' '.join(card.folds)}"
    trust = "A checkpoint is unpickled when it is loaded: take it from whom you trust."
    blocks += [
        Section("Training and cost", [Table(card.trainings)]),
        Section("Use", [Code(f"pip install {wanted}\n{predict}"), Text(trust)]),
        Section("Licence", [Text(card.license or "TODO: choose one that the data allow.")]),
    ]
    return blocks
