"""One file per family; each defines `METHODS`. Files that begin with `_` are shared parts."""

from __future__ import annotations

from riemopt_bench.speed.interface import Method
from riemopt_bench.speed.methods import (
    floor,
    geoopt_steps,
    parametrizations,
    pogo_steps,
    riemopt_steps,
    torch_adam,
)

_FAMILIES = (riemopt_steps, floor, torch_adam, geoopt_steps, pogo_steps, parametrizations)

METHODS: dict[str, Method] = {m.name: m for family in _FAMILIES for m in family.METHODS}
