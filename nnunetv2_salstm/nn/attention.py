"""Self-attention over the states of a convolutional LSTM: query, key and value are linear in the states."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from nnunetv2_salstm.nn.convlstm import ConvLSTMState
from nnunetv2_salstm.nn.precision import to_float32, without_autocast

FORMS = ("authors", "centred", "correlation")
# A channel that is not correlated with another then has e^10 times less weight than the best there could be.
FIRST_TEMPERATURE = 10.0


class StateAttention(nn.Module):
    """Channel attention over LSTM states, module A ("SALSTM", Ji et al. 2024); no parameters in the authors' form.

    Q = (c + f) / 2,  K = (g + h) / 2,  V = h,  each (B, C, N) with N pixels;  Y = softmax(s Q K^T) V.
    The attention matrix is (B, C, C): the product sums over the pixels. The authors' scale is s = 1 / sqrt(a) with a
    fixed attention size a; `tau` sets s = tau / N instead, a *mean* over pixels, which means the same on every grid
    (a = N would make the attention uniform on small ones). The published training has a = 88 * 88 on 224 x 224
    pixels, that is tau = 570.

    Q is near 1/4 everywhere, as f is a sigmoid, so that the means of K over the pixels decide most of Q K^T and all
    rows attend to the same few channels. Two forms of ours leave the means out: "centred" takes K minus its mean over
    the pixels, so that Q K^T is N times a covariance; "correlation" divides that by the standard deviations of Q and K
    and takes a learnable temperature in place of s, one for each direction.

    Args:
        hidden_channels: C; A needs no sizes and takes it so that A and B are made alike.
        attention_size: a; None takes the number of pixels N.
        tau: weight of the mean over pixels; excludes attention_size.
        form: "authors", "centred" or "correlation".

    Raises:
        ValueError: if both attention_size and tau are given, one is not positive, or the form is unknown.
    """

    def __init__(
        self,
        hidden_channels: int,
        attention_size: float | None = None,
        tau: float | None = None,
        form: str = "authors",
    ):
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        if attention_size is not None and tau is not None:
            raise ValueError(f"attention_size and tau exclude each other, got {attention_size} and {tau}")
        for name, value in (("attention_size", attention_size), ("tau", tau)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.attention_size = attention_size
        self.tau = tau
        self.form = form
        if form == "correlation":
            self.temperature = nn.Parameter(torch.empty(()))
            StateAttention.reset_parameters(self)

    def reset_parameters(self) -> None:
        """Sets the temperature, where there is one, to its start."""
        if self.form == "correlation":
            nn.init.constant_(self.temperature, FIRST_TEMPERATURE)

    def extra_repr(self) -> str:
        scale = f"tau={self.tau}" if self.tau is not None else f"attention_size={self.attention_size or 'N'}"
        return f"form={self.form}" if self.form == "correlation" else f"{scale}, form={self.form}"

    def scale(self, pixels: int) -> float:
        """Returns s, the factor of the logits for N pixels."""
        if self.tau is not None:
            return self.tau / pixels
        scale: float = (self.attention_size or pixels) ** -0.5
        return scale

    def matrix(self, query: Tensor, key: Tensor) -> Tensor:
        """Returns the attention matrix softmax(s Q K^T), (B, C, C), rows summing to one, from 2Q and 2K, (B, C, N).

        The scale, with the halves of Q and K, multiplies the small product: that saves sweeps over the states.
        """
        pixels = query.shape[-1]
        if self.form == "correlation":
            query, key = (layer_norm(x, (pixels,)) for x in (query, key))
            return (query @ key.transpose(-1, -2) * (to_float32(self.temperature) / pixels)).softmax(dim=-1)
        if self.form == "centred":
            key = key - key.mean(-1, keepdim=True)
        # Safe in float32 only, and never narrower here: the sum over pixels is large.
        return (query @ key.transpose(-1, -2) * (self.scale(pixels) / 4)).softmax(dim=-1)

    def gate(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns Q, K and V, (B, C, N) each, gated by the module's own parameters, of which A has none."""
        return query, key, value

    def factors(self, state: ConvLSTMState) -> tuple[Tensor, Tensor]:
        """Returns the attention matrix, (B, C, C), and V, (B, C, N), whose product is Y."""
        c, f, g, h = (to_float32(x).flatten(2) for x in (state.c, state.f, state.g, state.h))
        query, key, value = self.gate(c + f, g + h, h)
        return self.matrix(query, key), value

    def forward(self, state: ConvLSTMState) -> Tensor:
        """Returns Y, (B, C, *S), from the states of the last step."""
        with without_autocast(state.h):
            matrix, value = self.factors(state)
            attended: Tensor = (matrix @ value).unflatten(-1, state.h.shape[2:])
            return attended


class GatedStateAttention(StateAttention):
    """Gated channel attention over LSTM states, module B ("LSTMSA", Ji et al. 2024).

    A with Q Lq(h), K Lk(h) and V Lv(h) in place of Q, K and V; L are linear in the channels, with bias, applied at
    each pixel. Ours starts them near the constant 1, so that B starts as A: with the authors' default start the
    attention is uniform and all channels of Y are equal.

    Arguments and errors are those of `StateAttention`; hidden_channels sizes the three linear maps.
    """

    def __init__(
        self,
        hidden_channels: int,
        attention_size: float | None = None,
        tau: float | None = None,
        form: str = "authors",
    ):
        super().__init__(hidden_channels, attention_size, tau, form)
        self.q_matrix = nn.Linear(hidden_channels, hidden_channels)
        self.k_matrix = nn.Linear(hidden_channels, hidden_channels)
        self.v_matrix = nn.Linear(hidden_channels, hidden_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the linear maps near the constant 1."""
        super().reset_parameters()
        for linear in (self.q_matrix, self.k_matrix, self.v_matrix):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.ones_(linear.bias)

    def gate(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # One product for the three gates: (3C, C) times (B, C, N).
        linears = (self.q_matrix, self.k_matrix, self.v_matrix)
        weight = to_float32(torch.cat([linear.weight for linear in linears]))
        bias = to_float32(torch.cat([linear.bias for linear in linears]))
        gates = torch.baddbmm(bias.unsqueeze(-1), weight.expand(value.shape[0], -1, -1), value)
        lq, lk, lv = gates.chunk(3, dim=1)
        return query * lq, key * lk, value * lv


class StateValue(nn.Module):
    """Attention switched off: Y = V = h, the bidirectional ConvLSTM (BDC-LSTM, Chen et al. 2016) as a control."""

    def __init__(self, hidden_channels: int):
        super().__init__()

    def factors(self, state: ConvLSTMState) -> tuple[Tensor, Tensor]:
        """Returns the identity, (C, C), and h, (B, C, N)."""
        value = to_float32(state.h).flatten(2)
        return torch.eye(value.shape[1], dtype=value.dtype, device=value.device), value

    def forward(self, state: ConvLSTMState) -> Tensor:
        """Returns h, (B, C, *S), unchanged."""
        return state.h


Attention = StateAttention | StateValue
