"""What every Riemannian optimizer shares: manifolds found, stacks, state, the step's frame.

An optimizer here is a torch optimizer that overrides `step`. In each group it hands the
unconstrained parameters to torch's own functional implementation, so they get torch's numbers bit
for bit, and steps the constrained ones in stacks of equal manifold, shape, dtype and device.

`_manifolds` runs parallel to `param_groups`: position decides, so that the list stays right when a
trainer swaps the tensors of a group for sharded or moved ones. Nothing of ours is in `param_groups`
or `state_dict()`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from riemopt.distributed import ShardedGeometry
from riemopt.distributed.dtensor import layout, part_count
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold
from riemopt.nn import table as registry
from riemopt.optim import checkpoint, functional, rounds
from riemopt.optim.functional import Acceptance
from riemopt.optim.lookup import check_step, effective, find_manifolds
from riemopt.optim.rounds import Direction, Rounds
from riemopt.optim.stack import Plan, Stack

# Parameters of up to this many entries are stacked. Adam on Stiefel, two cores, one by one against
# stacked: 64 of 16², 13 times as long; 16 of 128×64, 3.6; 16 of 256×64, 1.6; 16 of 128², 1.04;
# 8 of 256², .96; 8 of 1024×64, .83, since the copies in and out then cost more than they save.
_STACK_NUMEL = 1 << 14

# What of the state is a tangent vector at the point.
_MOMENTA = ("momentum_buffer", "exp_avg")


@dataclass
class Update:
    """A step to be taken: from `x` along t·u, and the state that belongs to it."""

    manifold: Manifold
    x: Tensor
    u: Tensor
    t: float | Tensor
    state: dict[str, Any]


class RiemannianOptimizer(Optimizer):
    """Base of `RiemannianSGD` and `RiemannianAdam`; put it before torch's class in the bases."""

    _manifolds: list[list[Manifold | None]]
    _skipped: dict[torch.device, Tensor]
    _shortened: dict[torch.device, Tensor]
    _plans: dict[int, Plan]

    # --- what a subclass supplies ---

    def _plain_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Torch's step on these unconstrained parameters of the group; all have a gradient."""
        raise NotImplementedError

    def _initial_state(
        self, group: dict[str, Any], param: Tensor, manifold: Manifold
    ) -> dict[str, Tensor]:
        """State of a constrained parameter before its first step."""
        return {}

    def _update(self, group: dict[str, Any], stack: Stack) -> Update:
        """The step of one stack."""
        raise NotImplementedError

    def _split_update(
        self, group: dict[str, Any], stack: Stack, parts: ShardedGeometry
    ) -> Rounds[tuple[Direction, dict[str, Any]]]:
        """The step of one stack of points that are cut, and the state that belongs to it."""
        raise NotImplementedError

    def _conform_state(self, param: Tensor, manifold: Manifold | None) -> None:
        """Bring the parameter's state, loaded or from before it was constrained, to our layout."""

    def _conform_loaded(self, param: Tensor, manifold: Manifold, saved: dict[str, Any]) -> None:
        """`_conform_state` of what torch has made of the `saved` state."""
        self._conform_state(param, manifold)

    _saved_options: tuple[str, ...] = ("lr",)
    """Options that are in a group of every checkpoint; torch has defaults for the later ones."""

    def _needed_state(self, saved_group: dict[str, Any]) -> tuple[str, ...]:
        """What is in the saved state of every parameter that was stepped."""
        return ()

    # --- which parameter lies where ---

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; its manifolds are looked up now.

        A group may name the manifold of its parameters: `{"params": …, "manifold": Stiefel()}`.
        Their values are not touched now; the first step ends on the surface.

        Raises:
            TypeError: "manifold" is not an instance of `Manifold`, or one is under another key.
            ValueError: it contradicts what a parameter is constrained to, or a shape is wrong.
            LostManifoldError: see `riemopt.nn.table.resolve`.
            NotImplementedError: a parameter is spread over processes so that it cannot be stepped.
        """
        param_group = dict(param_group)
        named = param_group.pop("manifold", None)
        if named is not None and not isinstance(named, Manifold):
            raise TypeError(f"A group's 'manifold' must be an instance of Manifold; got {named!r}.")
        misplaced = [key for key, value in param_group.items() if isinstance(value, Manifold)]
        if misplaced:
            raise TypeError(f"A manifold belongs under the key 'manifold'; got {misplaced}.")
        super().add_param_group(param_group)
        self.__dict__.setdefault("_skipped", {})
        self.__dict__.setdefault("_shortened", {})
        self.__dict__.setdefault("_plans", {})
        manifolds = self.__dict__.setdefault("_manifolds", [])
        try:
            manifolds.append(find_manifolds(self.param_groups[-1]["params"], named))
        except (ValueError, RuntimeError):
            self.param_groups.pop()
            raise
        registry.listen(self)

    def _manifold_changed(self, param: Tensor, manifold: Manifold | None) -> None:
        for group, manifolds in zip(self.param_groups, self._manifolds, strict=True):
            for i, p in enumerate(group["params"]):
                if p is param:
                    manifolds[i] = effective(p, manifold)
                    self._conform_state(p, manifolds[i])

    def _split(
        self, group: dict[str, Any], manifolds: list[Manifold | None]
    ) -> tuple[list[Tensor], list[Tensor], list[Manifold]]:
        """The parameters with a gradient: the plain, the constrained, and where these lie."""
        if len(manifolds) != len(group["params"]):
            raise registry.LostManifoldError(
                f"A group has {len(group['params'])} parameters, but {len(manifolds)} when it was "
                "added: which of them are constrained is not known. Use add_param_group."
            )
        plain, constrained, theirs = [], [], []
        for p, manifold in zip(group["params"], manifolds, strict=True):
            if p.grad is None:
                continue
            if manifold is None:
                plain.append(p)
            else:
                constrained.append(p)
                theirs.append(manifold)
        return plain, constrained, theirs

    # --- the step ---

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure: re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            What the closure returned, or None.
        """
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            if "capturable" in self.defaults:
                self._accelerator_graph_capture_health_check()
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            if len(self._manifolds) != len(self.param_groups):
                raise registry.LostManifoldError(
                    "param_groups was changed by hand; use add_param_group, so that the manifolds "
                    "of its parameters are found."
                )
            work = [
                (group, *self._divide(i, group, manifolds))
                for i, (group, manifolds) in enumerate(
                    zip(self.param_groups, self._manifolds, strict=True)
                )
            ]  # whatever is refused is refused here, before a parameter has moved
            together = []
            for group, plain, stacks in work:
                if plain:
                    self._plain_step(group, plain)
                for stack in stacks:
                    if stack.parts is None:
                        self._take(stack, self._update(group, stack))
                        continue
                    step = (stack.groups, self._take_split(group, stack, stack.parts))
                    if group["foreach"] is False:
                        rounds.run([step])
                    else:
                        together.append(step)
            rounds.run(together)
        return loss

    def _divide(
        self, index: int, group: dict[str, Any], manifolds: list[Manifold | None]
    ) -> tuple[list[Tensor], list[Stack]]:
        """What torch steps of a group, and what is stepped here."""
        plain, constrained, theirs = self._split(group, manifolds)
        return plain, self._stacks(index, group, constrained, theirs)

    def _stacks(
        self,
        index: int,
        group: dict[str, Any],
        params: list[Tensor],
        manifolds: list[Manifold],
    ) -> list[Stack]:
        """What is stepped as one; found again where it is as in the step before."""
        if not params:
            return []
        states = [self.state[p] for p in params]
        options = (group["foreach"] is False, group["differentiable"])
        signature = [options, *map(_signature, params, states)]
        plan = None if torch.compiler.is_compiling() else self._plans.get(index)
        if plan is None or not plan.fits(params, manifolds, states, signature):
            stacks = self._make_stacks(group, params, manifolds, states)
            signature = [options, *map(_signature, params, states)]  # there is a state now
            plan = Plan(params, manifolds, states, signature, stacks)
            if not torch.compiler.is_compiling():
                self._plans[index] = plan
        return plan.stacks

    def _make_stacks(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        manifolds: list[Manifold],
        states: list[dict[str, Any]],
    ) -> list[Stack]:
        for p, manifold in zip(params, manifolds, strict=True):
            check_step(p, manifold, group)
        buckets: dict[Any, list[int]] = {}
        for i, (p, manifold, state) in enumerate(zip(params, manifolds, states, strict=True)):
            assert p.grad is not None
            if not state:
                state.update(self._initial_state(group, p, manifold))
            for count in (self._skipped, self._shortened):
                if p.device not in count:
                    count[p.device] = torch.zeros((), dtype=torch.int64, device=p.device)
            # Not by the size of the own part: all processes must make the same stacks.
            large = p.numel() > _STACK_NUMEL * part_count(p)
            alone = i if group["foreach"] is False or large else None
            kind = (p.shape, p.dtype, p.device, layout(p), p.grad.dtype)
            key = (alone, manifold, *kind, frozenset(state))
            buckets.setdefault(key, []).append(i)
        in_place = not group["differentiable"]
        return [
            Stack(
                manifolds[members[0]],
                [params[i] for i in members],
                [states[i] for i in members],
                in_place=in_place,
            )
            for members in buckets.values()
        ]

    def _skip(self, device: torch.device) -> Tensor | None:
        """What a GradScaler that left the unscaling to a fused optimizer found, if there is one."""
        found_inf = getattr(self, "found_inf", None)
        return None if found_inf is None else found_inf.to(device).squeeze() > 0

    def _take(self, stack: Stack, update: Update) -> None:
        """Store the new state and move the points, where the step is finite.

        What is stored is let go of before the points move: a step needs less memory so.
        """
        skip = self._skip(update.x.device)
        acceptance = functional.accept(update.u, update.t, skip)
        if acceptance is not None:
            self._count_skipped(acceptance.accepted, skip)
        manifold, x = update.manifold, update.x
        momenta = [key for key in _MOMENTA if key in update.state]
        update.u = self._store_state(stack, update.state, acceptance, update.u)
        y, shortened = functional.move(manifold, x, update.u, update.t, acceptance)
        if shortened is not None:
            self._shortened[y.device].add_(shortened)
        for key in momenta:
            m = stack.load(key)
            kept = manifold.after_move(x, y, m)
            if kept is not m:
                stack.store(key, kept, (y != x).flatten(1).any(1))
        stack.store_points(y)

    def _take_split(
        self, group: dict[str, Any], stack: Stack, parts: ShardedGeometry
    ) -> Rounds[None]:
        """As `_update` and `_take`, for points of which this process holds a part."""
        direction, state = yield from self._split_update(group, stack, parts)
        acceptance = rounds.accept(direction)
        if acceptance is not None:
            self._count_skipped(acceptance.accepted, self._skip(direction.u.device))
        u = self._store_state(stack, state, acceptance, direction.u)
        if stack.params[0].dtype not in HALF:  # else it was rounded, and the sums are not its own
            direction = direction._replace(u=u)
        stack.store_points((yield from rounds.move(parts, direction, acceptance)))

    @staticmethod
    def _store_state(
        stack: Stack, state: dict[str, Any], acceptance: Acceptance | None, u: Tensor
    ) -> Tensor:
        """Store the new state, emptying `state`; returns the direction `u` in what is left."""
        accepted = None if acceptance is None else acceptance.accepted
        for key in list(state):
            value = state.pop(key)
            stack.store(key, value, accepted)
            if value is u and accepted is None and stack.in_place:
                u = stack.load(key)
            del value
        return u

    # --- steps refused or shortened ---

    def _count_skipped(self, accepted: Tensor, skip: Tensor | None) -> None:
        refused = (~accepted).sum()
        if skip is not None:  # a GradScaler's own decision, which it counts itself
            refused = refused * ~skip
        self._skipped[accepted.device].add_(refused)

    @property
    def skipped_steps(self) -> int:
        """How often a constrained parameter was left as it was since its step was not finite.

        Two parameters left out of one `step()` count twice. Counted on the device; reading it
        synchronises.
        """
        return sum(int(count) for count in self._skipped.values())

    @property
    def shortened_steps(self) -> int:
        """How often a point took a part of its step only, or none of it.

        On a `LevelSet`, where the surface bends too much for the step or c is singular, and on
        geoopt's manifolds, where the result is not finite; alone, in a `Product` or `Flattened`.
        Never on others. Counted on the device; reading it synchronises.
        """
        return sum(int(count) for count in self._shortened.values())

    # --- state ---

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the optimizer state, also from a checkpoint of torch's optimizer of that name.

        On any error nothing has changed.

        Raises:
            ValueError: as torch's; options or state are missing, or the state does not fit the
                parameters; the state of a DTensor is of whole tensors, or the reverse.
        """
        before = self.state, self.param_groups
        final = state_dict

        def check(_: Optimizer, seen: dict[str, Any]) -> None:  # what users' hooks made of it
            nonlocal final
            final = seen
            checkpoint.check(
                seen, self.param_groups, self._manifolds, self._saved_options, self._needed_state
            )

        last = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
            for saved, group, manifolds in zip(
                final["param_groups"], self.param_groups, self._manifolds, strict=True
            ):
                for index, p, manifold in zip(
                    saved["params"], group["params"], manifolds, strict=True
                ):
                    if manifold is not None and index in final["state"]:
                        self._conform_loaded(p, manifold, final["state"][index])
        except BaseException:
            self.state, self.param_groups = before
            raise
        finally:
            last.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_manifolds": self._manifolds,
            "_skipped": self._skipped,
            "_shortened": self._shortened,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_shortened", {})
        self._plans = {}
        registry.listen(self)

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for manifold in (m for manifolds in self._manifolds for m in manifolds):
            name = "unconstrained" if manifold is None else f"on {manifold}"
            counts[name] = counts.get(name, 0) + 1
        summary = ", ".join(f"{count} {name}" for name, count in counts.items())
        return f"{super().__repr__()[:-1]}\nParameters: {summary}\n)"


def _signature(param: Tensor, state: dict[str, Any]) -> Any:
    grad = param.grad
    assert grad is not None
    return param.shape, param.dtype, param.device, grad.dtype, grad.is_sparse, len(state)
