"""What other packages, and riemopt 0.1, call what is here: for the errors of those who come."""

from typing import Any

OURS = {
    # riemopt 0.1
    "retract_transport": "y = retract(x, u), then transport(x, y, v)",
    "step": "curve(x, proj_tangent(x, direction), -lr)",
    # geoopt
    "projx": "project(a)",
    "proju": "proj_tangent(x, u)",
    "retr": "retract(x, u)",
    "expmap": "exp(x, u)",
    "logmap": "log(x, y)",
    "transp": "transport(x, y, v)",
    "retr_transp": "y = retract(x, u), then transport(x, y, v)",
    "expmap_transp": "y = exp(x, u), then transport(x, y, v)",
    "transp_follow_retr": "y = retract(x, u), then transport(x, y, v)",
    "transp_follow_expmap": "y = exp(x, u), then transport(x, y, v)",
    "dist2": "dist(x, y) ** 2",
    "component_inner": "inner(x, u, v, keepdim=True)",
    "random": "random_point(*shape)",
    "random_naive": "random_point(*shape)",
    "random_normal": "random_point(*shape)",
    "random_uniform": "random_point(*shape)",
    "origin": "random_point(*shape), or project(a) of a tensor that you choose",
    "check_point": "check_shape(x.shape)",
    "assert_check_point": "check_shape(x.shape)",
    "check_point_on_manifold": "violation(x) <= tolerance(x)",
    "assert_check_point_on_manifold": "violation(x) <= tolerance(x)",
    "check_vector": "check_shape(u.shape)",
    "assert_check_vector": "check_shape(u.shape)",
    "check_vector_on_tangent": "torch.allclose(proj_tangent(x, u), u)",
    "assert_check_vector_on_tangent": "torch.allclose(proj_tangent(x, u), u)",
    "name": "repr(manifold)",
    "ndim": "event_ndim, or event_dims(x.ndim)",
    "pack_point": "join(parts) of a Product",
    "unpack_tensor": "split(x) of a Product",
    "take_submanifold_value": "split(x) of a Product",
    # pymanopt
    "projection": "proj_tangent(x, u) for a vector, project(a) for a point",
    "to_tangent_space": "proj_tangent(x, u)",
    "euclidean_to_riemannian_gradient": "egrad2rgrad(x, g)",
    "retraction": "retract(x, u)",
    "random_tangent_vector": "random_tangent(x)",
    "inner_product": "inner(x, u, v)",
    "zero_vector": "torch.zeros_like(x)",
    "pair_mean": "geodesic(x, y, 0.5)",
    "euclidean_to_riemannian_hessian": "ehess2rhess(x, g, h, u)",
    # Manopt and McTorch
    "proj": "proj_tangent(x, u)",
    "tangent": "proj_tangent(x, u)",
    "rand": "random_point(*shape)",
    "randvec": "random_tangent(x)",
    "zerovec": "torch.zeros_like(x)",
    # geomstats
    "to_tangent": "proj_tangent(x, u)",
    "random_tangent_vec": "random_tangent(x)",
    "belongs": "violation(x) <= tolerance(x)",
    "is_tangent": "torch.allclose(proj_tangent(x, u), u)",
    "regularize": "project(a)",
    # Manifolds.jl
    "is_point": "violation(x) <= tolerance(x)",
    "is_vector": "torch.allclose(proj_tangent(x, u), u)",
    "vector_transport_to": "transport(x, y, v)",
    "parallel_transport_to": "parallel_transport(x, y, v)",
    "distance": "dist(x, y)",
    "manifold_dimension": "dim(x.shape)",
}
"""Methods of the manifolds of other packages, and what to write here."""

# What a manifold of geoopt, or a parametrization, has as an nn.Module.
_OF_MODULES = (
    *("device", "dtype", "to", "cpu", "cuda", "float", "double", "half"),
    *("parameters", "buffers", "register_buffer", "requires_grad_", "state_dict"),
    *("load_state_dict", "train", "eval", "forward", "right_inverse"),
)

_PACKAGES = {
    "geoopt": "riemopt.interop.geoopt.from_geoopt(…) makes one of it",
    "geotorch": "it is a parametrization; riemopt.interop.parametrize.from_parametrized takes one "
    "that is registered",
    "pymanopt": "take its counterpart in riemopt.manifolds (docs/moving-from-pymanopt.md)",
    "geomstats": "take its counterpart in riemopt.manifolds",
}


def advice_for(name: str) -> str | None:
    """What to write instead of the attribute `name`; None where nothing is known of it."""
    if name in OURS:
        return f"write {OURS[name]}"
    if name in _OF_MODULES:
        return (
            "it is no nn.Module, and has no device, dtype or parameters: "
            "riemopt.constrain(module, name, manifold) puts a weight on it"
        )
    return None


def hint_for(given: Any) -> str:
    """What to write instead of `given`, which is no manifold: the end of a sentence."""
    if isinstance(given, type):
        package = given.__module__.partition(".")[0]
        return f"; {_PACKAGES[package]}" if package in _PACKAGES else f"; write {given.__name__}()"
    for cls in type(given).__mro__:
        package = cls.__module__.partition(".")[0]
        if package in _PACKAGES:
            return f"; {_PACKAGES[package]}"
    if isinstance(given, str):
        return "; manifolds are not known by name: import it from riemopt.manifolds"
    if callable(given):
        return "; of a function c the set c(x) = 0 is LevelSet(c)"
    return ""
