"""Averages of weights that stay on the surface; the functions are in `riemopt.nn.swa_utils`."""

from riemopt.nn.swa_utils import get_ema_avg_fn, get_swa_avg_fn

__all__ = ["get_ema_avg_fn", "get_swa_avg_fn"]
