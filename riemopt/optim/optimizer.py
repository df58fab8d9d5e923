"""The frame of every Riemannian optimizer: manifolds found, the step in order, state kept right.

A Riemannian optimizer is a subclass of a torch optimizer, with `RiemannianOptimizer` first in its
bases. Unconstrained parameters are stepped by the torch optimizer itself and get its numbers bit
for bit. Constrained ones are stepped in stacks of equal manifold, shape, dtype and device, each by
carry, rule and move (`riemopt.optim.step`). The rule is the torch optimizer's own step, run on the
tangent gradient (`riemopt.optim.torch_rule`), unless the class has one of its own:

    class RiemannianRMSprop(RiemannianOptimizer, torch.optim.RMSprop): ...  # torch's rule

`_manifolds` runs parallel to `param_groups`, so that it stays right when a trainer swaps tensors of
a group for sharded, moved, grown or pruned ones. Nothing of ours is in `param_groups` or
`state_dict()`.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from riemopt import linalg
from riemopt._torch_versions import check_graph_capture, not_compiled
from riemopt.distributed import exchange
from riemopt.linalg import outside_autocast
from riemopt.manifolds import Manifold
from riemopt.manifolds.elsewhere import hint_for
from riemopt.nn import table
from riemopt.optim import state, torch_rule
from riemopt.optim.parameters import Positions, as_stepped, follow, manifolds_of_group
from riemopt.optim.plan import Plan
from riemopt.optim.stack import Stack
from riemopt.optim.step import Carried, Request, Step
from riemopt.optim.take import Counter, take, take_parts


class RiemannianOptimizer(Optimizer):
    """Base of all Riemannian optimizers; put it before torch's class in the bases.

    Examples:
        >>> import torch
        >>> from riemopt.optim import RiemannianAdam, RiemannianOptimizer
        >>> [issubclass(RiemannianAdam, cls) for cls in (RiemannianOptimizer, torch.optim.Adam)]
        [True, True]
    """

    base: ClassVar[type[Optimizer]]
    """The torch optimizer that is made Riemannian: the first one in the bases."""
    tangent_state: tuple[str, ...] = ()
    """Keys of the state that are tangent vectors at the point, such as a momentum."""
    decay_is_decoupled: bool | None = None
    """Whether the torch optimizer shrinks the weight (True) or changes the gradient (False).

    None: not known, which matters where decay has an effect. A group may say so itself.
    """
    acts_by_entry: bool = False
    """Whether each entry is stepped by itself, so that equal weights may be stepped as one."""

    sparse_gradients: Literal["refused", "taken", "needed"] = "refused"
    """Whether parameters may have sparse gradients, of which the rows alone are stepped."""

    _base_step: ClassVar[Callable[[Any], Any]]
    _manifolds: list[list[Manifold | None]]
    _seen: list[list[int] | None]
    """Which objects the parameters of each group were at the last look."""
    _constrained: list[Tensor]
    """Those of them that had a manifold, so that no new one can have the identity of an old one."""
    _plans: dict[int, Plan]
    _positions: Positions
    _unknown: set[type]
    _places: table.Places | None = None
    _written_out: list[state.WrittenOut]
    _skipped: Counter
    _shortened: Counter

    if not TYPE_CHECKING:  # editors show the signature of the torch optimizer then

        def __init__(self, *args, **kwargs):
            self._start()
            super().__init__(*args, **kwargs)
            self._places = None

    def _start(self) -> None:
        """Have what `add_param_group` needs; called first by `__init__`."""
        self._manifolds, self._seen, self._constrained = [], [], []
        self._positions = Positions()
        self._plans, self._written_out, self._unknown = {}, [], set()
        self._skipped, self._shortened = Counter(), Counter()
        self._places = table.Places()  # looked up once for all groups

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        torch_rule.adopt_base(cls, RiemannianOptimizer)

    # --- what a class with a rule of its own supplies ---

    @property
    def per_point_state(self) -> tuple[str, ...]:
        """Keys of the state that may be one number for each point, and full size in checkpoints."""
        return ()

    def _is_per_point(self, manifold: Manifold) -> bool:
        """Whether those are one number for each point of `manifold`, and not full size."""
        return False

    def _has_own_rule(self, manifold: Manifold) -> bool:
        """Whether points of `manifold` are stepped by `_rule`, and not by torch's own step."""
        return type(self)._rule is not RiemannianOptimizer._rule

    def _check_own(self, param: Tensor, manifold: Manifold) -> None:
        """Raise where `_rule` cannot step this parameter; called before its first step."""

    def _request(self, group: dict[str, Any], stack: Stack) -> Request:
        """What `_rule` needs; called first for each stack in a step."""
        return Request(gradient=True)

    def _rule(self, group: dict[str, Any], stack: Stack, carried: Carried) -> Step:
        """The step of one stack; called once it has been `Carried`."""
        raise NotImplementedError(f"{type(self).__name__} has no rule of its own.")

    def _initial_state(
        self, group: dict[str, Any], param: Tensor, manifold: Manifold
    ) -> dict[str, Tensor]:
        """State that a `_rule` keeps for a parameter; called before its first step."""
        return {}

    def _needed_state(self, saved_group: dict[str, Any]) -> tuple[str, ...]:
        """Keys without which a parameter's saved state is refused."""
        return ()

    # --- which parameter lies where ---

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; its manifolds are looked up now.

        A group may name the manifold of its parameters: `{"params": …, "manifold": Stiefel()}`.
        Their values are not touched now; the first step ends on the surface.

        Raises:
            TypeError: "manifold" is not an instance of `Manifold`, or one is under another key.
            ValueError: it contradicts what a parameter is constrained to, or a shape is wrong.
            LostManifoldError: a constrained parameter's manifold cannot be found any more.
            NotImplementedError: a parameter is spread over processes so that it cannot be stepped.
        """
        param_group = dict(param_group)
        named = param_group.pop("manifold", None)
        if named is not None and not isinstance(named, Manifold):
            raise TypeError(
                f"A group's 'manifold' must be an instance of Manifold; got {named!r}"
                f"{hint_for(named)}."
            )
        misplaced = [key for key, value in param_group.items() if isinstance(value, Manifold)]
        if misplaced:
            raise TypeError(f"A manifold belongs under the key 'manifold'; got {misplaced}.")
        super().add_param_group(param_group)
        try:
            params = self.param_groups[-1]["params"]
            self._manifolds.append(manifolds_of_group(params, named, self._places, self._unknown))
        except (ValueError, RuntimeError):
            self.param_groups.pop()
            raise
        self._remember(len(self.param_groups) - 1)
        self._positions.add(len(self.param_groups) - 1, self.param_groups[-1])
        table.listen(self)

    def _manifold_changed(self, param: Tensor, manifold: Manifold | None) -> None:
        """Called by the table of manifolds when `param` is constrained or released."""
        for g, i in self._positions.of(param, self.param_groups):
            self._manifolds[g][i] = as_stepped(param, manifold)
            state.conform(self, self.param_groups[g], param, self._manifolds[g][i])
            self._constrained.append(param)

    def _groups(self) -> list[tuple[dict[str, Any], list[Manifold | None]]]:
        """Each group with the manifolds of its parameters.

        Raises:
            LostManifoldError: a group has more or fewer parameters than it was given.
            ValueError: a new parameter is in the place of a constrained one, and does not fit.
        """
        seen = [linalg.identities(group["params"]) for group in self.param_groups]
        if seen != self._seen or None in seen:
            self._check_lengths()
            if None not in seen:
                self._manifolds = follow(self.param_groups, self._seen, self._manifolds)
                self._remember()
        return list(zip(self.param_groups, self._manifolds, strict=True))

    def _check_lengths(self) -> None:
        lengths = [len(group["params"]) for group in self.param_groups]
        if lengths != [len(manifolds) for manifolds in self._manifolds]:
            raise table.LostManifoldError(
                f"param_groups was changed by hand: its groups have {lengths} parameters, and had "
                f"{[len(m) for m in self._manifolds]} before. Use add_param_group."
            )

    def _remember(self, first: int = 0) -> None:
        """Note the parameters of the groups from number `first` on."""
        kept = self._constrained if first else []
        self._seen = self._seen[:first] if first else []
        for group, manifolds in list(zip(self.param_groups, self._manifolds, strict=True))[first:]:
            self._seen.append(linalg.identities(group["params"]))
            kept += [p for p, m in zip(group["params"], manifolds, strict=True) if m is not None]
        self._constrained = kept

    # --- the step ---

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure: re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            What the closure returned, or None.
        """
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable", False))):
            if "capturable" in self.defaults:
                check_graph_capture(self)
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            self._step_all()
        return loss

    @not_compiled
    @outside_autocast
    def _step_all(self) -> None:
        state.settle(self)
        self._take(self._work())

    def _work(self) -> torch_rule.Work:
        """What there is to step. Whatever is refused is refused here, before a weight has moved."""
        return [
            (group, self._stacks(i, group, manifolds))
            for i, (group, manifolds) in enumerate(self._groups())
        ]

    def _take(self, work: torch_rule.Work) -> None:
        self._step_by_own_rules(work)
        torch_rule.step(self, work)

    def _step_by_own_rules(self, work: list[tuple[dict[str, Any], list[Stack]]]) -> None:
        together = []
        for group, stacks in work:
            for stack in stacks:
                if not self._has_own_rule(stack.manifold):
                    continue
                if stack.parts is None:
                    take(self, group, stack)
                    continue
                step = (stack.groups, take_parts(self, group, stack, stack.parts))
                if group.get("foreach") is False:
                    exchange.run([step])
                else:
                    together.append(step)
        if together:
            exchange.run(together)

    def _stacks(
        self, index: int, group: dict[str, Any], manifolds: list[Manifold | None]
    ) -> list[Stack]:
        """What is stepped as one; found again where it is as in the step before."""
        found = [
            (p, manifold)
            for p, manifold in zip(group["params"], manifolds, strict=True)
            if manifold is not None and p.grad is not None
        ]
        return Plan.stacks_of(self, index, group, found) if found else []

    def _skip(self, device: torch.device) -> Tensor | None:
        """What a GradScaler that left the unscaling to a fused optimizer found, if there is one."""
        found_inf = getattr(self, "found_inf", None)
        return None if found_inf is None else found_inf.to(device).squeeze() > 0

    @property
    def skipped_steps(self) -> int:
        """How often a step of one parameter was not finite and left it as it was. Synchronises."""
        return self._skipped.total()

    @property
    def shortened_steps(self) -> int:
        """How often a point took a part of its step only, or none of it.

        On a `LevelSet`, where the surface bends too much for the step or c is singular; of
        orthonormal columns on an accelerator, where it is longer than some two units; on
        geoopt's manifolds, where the result is not finite. Reading it synchronises.
        """
        return self._shortened.total()

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """The state in the layout of the torch optimizer, which can load it.

        As in torch, its tensors are the live state. What is one number for each point is written
        out at the parameter's full size, and stays so until the next step, which takes the mean
        over each point where something was edited.
        """
        state.write_out(self)
        saved = super().state_dict()
        # Ours to step with; in torch a parameter without state is not there, and loaders count it.
        saved["state"] = {key: value for key, value in saved["state"].items() if value != {}}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the optimizer state, also from a checkpoint of the torch optimizer.

        On any error nothing has changed.

        Raises:
            ValueError: as torch's; options or state are missing, or the state does not fit the
                parameters; the state of a DTensor is of whole tensors, or the reverse.
        """
        state.load(self, super().load_state_dict, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        state.settle(self)
        own = ("_manifolds", "_skipped", "_shortened")
        return {**super().__getstate__(), **{key: getattr(self, key) for key in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"_shortened": Counter(), **state})
        self._plans, self._written_out = {}, []
        self._positions, self._unknown = Positions(), set()
        if "_seen" not in self.__dict__:
            self._remember()
        for g, group in enumerate(self.param_groups):
            self._positions.add(g, group)
        table.listen(self)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}\n{self._summary()}\n)"

    def _summary(self) -> str:
        """How many parameters lie where."""
        return f"Parameters: {counted(m for manifolds in self._manifolds for m in manifolds)}"


def counted(manifolds: Iterable[Manifold | None]) -> str:
    """How many parameters lie on each of these."""
    counts: dict[str, int] = {}
    for manifold in manifolds:
        name = "unconstrained" if manifold is None else f"on {manifold}"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in counts.items())
