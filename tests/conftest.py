"""Settings that make every run of the suite the same: hypothesis's choices, seeds and threads."""

import hypothesis
import pytest
import torch

pytest.register_assert_rewrite("tests.laws", "tests.slopes", "tests.bounds")

# Three examples a law and case: there are about a hundred cases a law. What is drawn is a seed, in
# which there is nothing to shrink. (Keep a test under 900 parameters: hypothesis's pytest plugin
# nests the settings once for each, and overflows the stack.)
hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=3,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Sums are split by thread, and the matrices are too small for threads to help.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
