"""Averages of weights that stay on the surface, for `torch.optim.swa_utils.AveragedModel`.

    averaged = AveragedModel(model, avg_fn=get_ema_avg_fn(0.999))

The average of points of a manifold is off it. These functions put it back: what they return is the
projected arithmetic mean (Moakher 2002; Sarlette & Sepulchre 2009). They find the manifold of each
averaged parameter by themselves; unconstrained parameters get torch's average.
"""

from collections.abc import Callable

from torch import Tensor
from torch.optim import swa_utils

from riemopt.nn import table

AvgFn = Callable[[Tensor, Tensor, Tensor | int], Tensor]


def get_swa_avg_fn() -> AvgFn:
    """Equal weights: the counterpart of `torch.optim.swa_utils.get_swa_avg_fn`.

    Examples:
        >>> import torch, riemopt
        >>> from torch.optim.swa_utils import AveragedModel
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Sphere())
        >>> averaged = AveragedModel(layer, avg_fn=riemopt.swa_utils.get_swa_avg_fn())
        >>> averaged.update_parameters(layer)  # after each epoch
        >>> riemopt.constraints(averaged)[0].satisfied
        True
    """
    return _projected(swa_utils.get_swa_avg_fn())


def get_ema_avg_fn(decay: float = 0.999) -> AvgFn:
    """Exponential weights: the counterpart of `torch.optim.swa_utils.get_ema_avg_fn`.

    Raises:
        ValueError: `decay` is not in [0, 1].

    Examples:
        >>> import torch, riemopt
        >>> from torch.optim.swa_utils import AveragedModel
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Stiefel())
        >>> averaged = AveragedModel(layer, avg_fn=riemopt.swa_utils.get_ema_avg_fn(0.999))
        >>> averaged.update_parameters(layer)  # after each step
        >>> riemopt.constraints(averaged)[0].satisfied
        True
    """
    return _projected(swa_utils.get_ema_avg_fn(decay))


def _projected(average: AvgFn) -> AvgFn:
    def avg_fn(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        # torch passes `averaged` detached: the parameter is known by the memory that it shares.
        manifold = table.resolve_alias(averaged)
        mean = average(averaged, current, num_averaged)
        return mean if manifold is None else manifold.project(mean)

    return avg_fn
