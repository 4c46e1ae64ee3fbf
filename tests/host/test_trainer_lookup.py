"""nnU-Net's search for trainers, also where a user's script has set its variable since Python started."""

import os
import runpy

import pytest
from nnunetv2.utilities import find_objects

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.trainer_lookup import find_trainer
from nnunetv2_salstm_autoload import trainers_folder

VARIABLE = "nnUNet_extTrainer"


@pytest.fixture
def set_later(monkeypatch):
    """The variable as a script sets it: without the folder of our trainers."""
    monkeypatch.delenv("NNUNETV2_SALSTM_NO_AUTOLOAD", raising=False)
    monkeypatch.setenv(VARIABLE, "/mine")
    return os.pathsep.join(["/mine", trainers_folder()])


def test_our_search_sees_our_trainers(set_later, monkeypatch):
    monkeypatch.setattr(find_objects, "recursive_find_trainer_class_by_name", lambda name: os.environ[VARIABLE])
    assert find_trainer("nnUNetTrainerSALSTM_A") == set_later


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", ["nnunetv2_salstm.__init__", "nnunetv2_salstm.trainers"])
def test_an_import_of_ours_makes_nnunet_see_our_trainers(module, set_later):
    runpy.run_module(module)  # as an import would, but without replacing what other tests have imported
    assert os.environ[VARIABLE] == set_later


def test_a_broken_file_of_somebody_else_is_named(monkeypatch):
    def search(name):
        raise SyntaxError("invalid syntax (broken.py, line 1)")

    monkeypatch.setattr(find_objects, "recursive_find_trainer_class_by_name", search)
    with pytest.raises(SalstmError, match=r"search for X ended with SyntaxError: .*broken\.py.*nnUNet_extTrainer"):
        find_trainer("X")
