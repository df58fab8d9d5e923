"""Maps between the models of hyperbolic space of curvature -c: isometries, batched, differentiable.

    x = PoincareBall(c).random_point(100, 5)
    y = ball_to_lorentz(x, c)                       # (100, 6), a point of Lorentz(c)
    k = ball_to_klein(x, c)                         # in the Klein model geodesics are straight

A tangent vector goes along by the derivative: `torch.func.jvp(ball_to_lorentz, (x,), (u,))[1]`.
What layers call, exponential maps at the origin, Möbius operations, distances to hyperplanes and
wrapped normal samples, are methods of `PoincareBall`, `Stereographic` and `Lorentz`.

`c` is a positive number, or a tensor of one number. Points of the ball and of the Klein model are
`(*batch, n)`, those of `Lorentz` `(*batch, n + 1)`.
"""

from torch import Tensor

from riemopt.linalg import Curvature, curvature, hyperboloid, upcast


@upcast
def ball_to_lorentz(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """x_s = 2x/(1 - c‖x‖²), with x₀ above it."""
    return hyperboloid.lift(x * (2 / curvature.exact_gap(x, -c)), c)


@upcast
def lorentz_to_ball(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """x_s/(1 + √c·x₀), kept off the boundary as every point of `PoincareBall`."""
    return curvature.clip(hyperboloid.to_ball(x[..., 1:], c)[0], -c)


@upcast
def ball_to_klein(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """2x/(1 + c‖x‖²)."""
    return x * (2 / (1 + c * curvature.squares(x)))


@upcast
def klein_to_ball(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """x/(1 + √(1 - c‖x‖²)), of ‖x‖ < 1/√c."""
    return curvature.clip(x / (1 + curvature.exact_gap(x, -c).sqrt()), -c)


@upcast
def lorentz_to_klein(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """x_s/(√c·x₀)."""
    space = x[..., 1:]
    return space / hyperboloid.height(space, c)


@upcast
def klein_to_lorentz(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """x_s = x/√(1 - c‖x‖²), with x₀ above it, of ‖x‖ < 1/√c."""
    return hyperboloid.lift(x * curvature.exact_gap(x, -c).rsqrt(), c)
