"""For libraries that cannot take a weight in the layout in which the model uses it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils import parametrize


class View(nn.Module):
    """The weight in the model's layout, from the parameter in the library's."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.view = view

    def forward(self, parameter: Tensor) -> Tensor:
        """The same entries in other places."""
        return self.view(parameter)


def show_as(module: nn.Module, attribute: str, view: Callable[[Tensor], Tensor]) -> None:
    """Let the forward see `view(parameter)` where it saw the parameter."""
    parametrize.register_parametrization(module, attribute, View(view), unsafe=True)


def original_of(module: nn.Module, attribute: str) -> Tensor:
    """The parameter behind a parametrized weight."""
    tensor = module.get_submodule(f"parametrizations.{attribute}").original
    assert isinstance(tensor, Tensor)
    return tensor
