"""The SA-LSTM modules: torch and einops only, usable in any network."""

from nnunetv2_salstm.nn.attention import GatedStateAttention, StateAttention, StateValue
from nnunetv2_salstm.nn.block import SALSTMBlock, reset_blocks, switched_off
from nnunetv2_salstm.nn.conv_control import ConvControl
from nnunetv2_salstm.nn.convlstm import ConvLSTMCell, ConvLSTMState
from nnunetv2_salstm.nn.frames import FrameBlock
from nnunetv2_salstm.nn.salstm import SALSTM
from nnunetv2_salstm.nn.slices import SliceSALSTM

__all__ = [
    "SALSTM",
    "ConvControl",
    "ConvLSTMCell",
    "ConvLSTMState",
    "FrameBlock",
    "GatedStateAttention",
    "SALSTMBlock",
    "SliceSALSTM",
    "StateAttention",
    "StateValue",
    "reset_blocks",
    "switched_off",
]
