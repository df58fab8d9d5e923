"""Kernels on batches of matrices and vectors: products, polar factors, norms, Cayley transforms.

    >>> Y = X + xi                      # X has orthonormal columns, xi is tangent at X
    >>> polar(Y)                        # the nearest matrix with orthonormal columns

Everything here is a function of tensors alone and knows no manifold. Matrices are the last two
dimensions, the leading ones are a batch, and complex matrices use the conjugate transpose. A
*wide* matrix stands for its transpose: `gram` and `right_multiply` hide the orientation, so that
no formula is written twice and no n×n matrix is ever formed for an n×p point with p < n.

Which algorithm serves which tensors is decided here and nowhere else (`backends`). No function of
a step synchronises with the host: a value is read only where that costs nothing.
"""

from riemopt.linalg.angles import angles_of, sine_and_cosine, unitary_factor
from riemopt.linalg.autocast import outside_autocast
from riemopt.linalg.backends import (
    adaptive,
    can_be_read,
    eager_only,
    identities,
    internal_graph,
    is_traced,
    known_all,
    known_any,
    known_values,
    needs_functional_derivatives,
    places_in_memory,
    rounds,
    steps_are_known_to_count,
    sums_exactly,
)
from riemopt.linalg.cholesky import (
    along_factor,
    cholesky,
    cholesky_beside_identity,
    colour,
    from_factor,
    is_positive_definite,
    keep_definite,
    real_diagonal,
    to_factor,
    whiten,
)
from riemopt.linalg.copies import Copies
from riemopt.linalg.curvature import Curvature
from riemopt.linalg.derivatives import derivative_of_inner
from riemopt.linalg.exponential import cayley, cayley_coefficients, matrix_exp
from riemopt.linalg.hermitian import (
    EXP,
    LOG,
    LOG1P,
    SQRT,
    eigh,
    hermitian_derivative,
    hermitian_difference,
    hermitian_function,
    hermitian_second,
    lyapunov,
)
from riemopt.linalg.numbers import divide, maximum, on_host_numbers, root_plus
from riemopt.linalg.orthonormal import mean_along_columns, tangent_to_columns
from riemopt.linalg.polar import (
    cubic_step,
    inverse_root,
    polar,
    polar_step,
    project_polar,
    small_correction,
)
from riemopt.linalg.polynomials import step_cap
from riemopt.linalg.positive import log_ratio, positive_step
from riemopt.linalg.procrustes import aligned_difference, skew_lyapunov, without_rotation
from riemopt.linalg.products import (
    HALF,
    add_identity,
    add_product,
    add_scaled,
    average,
    combine,
    exact_products,
    gram,
    gram_defect,
    identity_like,
    inner,
    is_square,
    is_wide,
    largest_entries,
    plus_adjoint,
    product,
    right_multiply,
    skew,
    squared_norm,
    sym,
    upcast,
)
from riemopt.linalg.qr import inverse_cholesky, qr_positive
from riemopt.linalg.quaternions import quaternion_of_rotation, rotation_of_quaternion, skew_of
from riemopt.linalg.removable import angle_over_sine, atan2_over_root, cos_of_root, sinc_of_root
from riemopt.linalg.rotations import (
    exp_skew,
    log_rotation,
    mean_along_rotations,
    mean_rotation,
    phase_of_determinant,
    project_rotation,
    tangent_to_rotations,
    twice_generator,
    without_phase,
)
from riemopt.linalg.rows import Rows, coalesced, rows_of
from riemopt.linalg.spheres import (
    mean_along_sphere,
    move_and_normalise,
    normalise,
    tangent_to_sphere,
)
from riemopt.linalg.steps import cap_norm, cubic_cut
from riemopt.linalg.sums import in_double, norm, rows_times, shift, total

__all__ = [
    "EXP",
    "HALF",
    "LOG",
    "LOG1P",
    "SQRT",
    "Copies",
    "Curvature",
    "Rows",
    "adaptive",
    "add_identity",
    "add_product",
    "add_scaled",
    "aligned_difference",
    "along_factor",
    "angle_over_sine",
    "angles_of",
    "atan2_over_root",
    "average",
    "can_be_read",
    "cap_norm",
    "cayley",
    "cayley_coefficients",
    "cholesky",
    "cholesky_beside_identity",
    "coalesced",
    "colour",
    "combine",
    "cos_of_root",
    "cubic_cut",
    "cubic_step",
    "derivative_of_inner",
    "divide",
    "eager_only",
    "eigh",
    "exact_products",
    "exp_skew",
    "from_factor",
    "gram",
    "gram_defect",
    "hermitian_derivative",
    "hermitian_difference",
    "hermitian_function",
    "hermitian_second",
    "identities",
    "identity_like",
    "in_double",
    "inner",
    "internal_graph",
    "inverse_cholesky",
    "inverse_root",
    "is_positive_definite",
    "is_recorded_outside",
    "is_square",
    "is_traced",
    "is_wide",
    "keep_definite",
    "known_all",
    "known_any",
    "known_values",
    "largest_entries",
    "log_ratio",
    "log_rotation",
    "lyapunov",
    "matrix_exp",
    "maximum",
    "mean_along_columns",
    "mean_along_rotations",
    "mean_along_sphere",
    "mean_rotation",
    "move_and_normalise",
    "needs_functional_derivatives",
    "norm",
    "normalise",
    "on_host_numbers",
    "outside_autocast",
    "phase_of_determinant",
    "places_in_memory",
    "plus_adjoint",
    "polar",
    "polar_step",
    "positive_step",
    "product",
    "project_polar",
    "project_rotation",
    "qr_positive",
    "quaternion_of_rotation",
    "real_diagonal",
    "right_multiply",
    "root_plus",
    "rotation_of_quaternion",
    "rounds",
    "rows_of",
    "rows_times",
    "shift",
    "sinc_of_root",
    "sine_and_cosine",
    "skew",
    "skew_lyapunov",
    "skew_of",
    "small_correction",
    "squared_norm",
    "step_cap",
    "steps_are_known_to_count",
    "sums_exactly",
    "sym",
    "tangent_to_columns",
    "tangent_to_rotations",
    "tangent_to_sphere",
    "to_factor",
    "total",
    "twice_generator",
    "unitary_factor",
    "upcast",
    "whiten",
    "without_phase",
    "without_rotation",
]
