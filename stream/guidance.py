"""Prediction kinds and guidance, as free functions of tensors. Rows lie on the first axis; weights are
`(rows, 1, 1, 1)`.

Source: Kodaira et al., StreamDiffusion, arXiv 2312.12491, equations 6 to 8; Ho and Salimans, arXiv 2207.12598.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]
Guidance = Literal["none", "full", "self", "initialize"]


def epsilon_from(kind: Prediction, prediction: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The noise in `x` that the prediction stands for, where x = a x0 + b eps and v = a eps - b x0."""
    if kind == "epsilon":
        return prediction
    if kind == "v_prediction":
        return a * prediction + b * x
    return (x - a * prediction) / b


def x0_from_epsilon(x: Tensor, eps: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The clean latent that leaves `eps` as the noise in `x`."""
    return (x - b * eps) / a


def x0_from(kind: Prediction, prediction: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The clean latent straight from a prediction, with no division where none is needed."""
    if kind == "epsilon":
        return x0_from_epsilon(x, prediction, a, b)
    if kind == "v_prediction":
        return a * x - b * prediction
    return prediction


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """eps = eu + g (ec - eu)."""
    return unconditional + scale * (conditional - unconditional)


def boundary(x0: Tensor, x: Tensor, c_skip: Tensor, c_out: Tensor) -> Tensor:
    """The LCM boundary condition (arXiv 2310.04378, equation 9)."""
    return c_out * x0 + c_skip * x


def residual_after(
    residual: Tensor, eps: Tensor, noise_next: Tensor,
    a: Tensor, b: Tensor, c_skip: Tensor, c_out: Tensor, a_next: Tensor, b_next: Tensor,
) -> Tensor:  # fmt: skip
    """The residual noise of rows that move on to their next step."""
    virtual = b * residual
    x0 = boundary(x0_from_epsilon(virtual, eps, a, b), virtual, c_skip, c_out)
    return noise_next + x0 * (a_next / b_next)
