"""list the trainers for nnUNetv2_train -tr, their suffixes, and what they take on a data set

trainers                         what each trainer is
trainers -d 27 -c 3d_fullres     parameters and memory in the plans of a data set, against the stock network
trainers --path                  the folder for nnUNet_extTrainer, where the installation could not name it itself
"""

import argparse
from collections.abc import Mapping

from nnunetv2_salstm.commands.options import add_option
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.trainer_lookup import our_folder
from nnunetv2_salstm.host.trainer_names import DESCRIPTIONS, METHODS, SUFFIXES

STOCK = next(name for name, salstm in METHODS.items() if salstm is None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the data set to measure on, and the folder in place of the list."""
    what = parser.add_mutually_exclusive_group()
    add_option(what, "-d", help="planned data set, by number or name; needs -c")
    what.add_argument("--path", action="store_true", help="print the folder with the trainers, and nothing else")
    add_option(parser, "-c", help="configuration of its plans, e.g. 3d_fullres; needs -d")
    add_option(parser, "-p", help="name of its plans (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Prints the list.

    Raises:
        SalstmError: if the installation lacks the folder, or the data set, its plans or the configuration are missing.
    """
    if arguments.path:
        print(our_folder())
        return
    if (arguments.dataset is None) != (arguments.configuration is None):
        raise SalstmError("-d and -c go together: give for example -d 27 -c 3d_fullres, or neither")
    width = max(map(len, DESCRIPTIONS))
    for name, text in DESCRIPTIONS.items():
        print(f"{name:{width}}  {text}")
    print("\nSuffixes, all optional, in this order:")
    width = max(map(len, SUFFIXES))
    for suffix, text in SUFFIXES.items():
        print(f"    {suffix:{width}}  {text}")
    print(f"For example: nnUNetv2_train DATASET 3d_fullres 0 -tr {next(iter(METHODS))}_skips_50epochs_seed1")
    if arguments.dataset is not None:
        from nnunetv2_salstm.host.configurations import plans_of_dataset
        from nnunetv2_salstm.host.memory import trainer_sizes

        (plan,) = plans_of_dataset(arguments.dataset, arguments.plans, [arguments.configuration])
        print(f"\nOn {plan.name}, plans {arguments.plans}; memory for training as nnU-Net estimates it:\n")
        print(_table(trainer_sizes(plan)))


def _table(sizes: Mapping[str, tuple[int, float]]) -> str:
    import pandas

    from nnunetv2_salstm.reporting.tables import Table, markdown_table

    parameters, memory = map(pandas.Series, zip(*sizes.values(), strict=True))
    stock = list(sizes).index(STOCK)
    frame = pandas.DataFrame({
        "trainer": list(sizes),
        "parameters (M)": parameters / 1e6,
        "x stock": parameters / parameters[stock],
        "memory (GB)": memory,
        "memory x stock": memory / memory[stock],
    })  # fmt: skip
    return markdown_table(Table(frame, formats=dict.fromkeys(frame.columns[1:], ".2f")))
