"""Settings that make every run of the suite the same: hypothesis's choices, seeds and threads."""

import collections
import zlib

import hypothesis
import pytest
import torch

pytest.register_assert_rewrite("tests.laws", "tests.slopes", "tests.bounds")

# The explicit example of a law alone, which costs half of a drawn one, and three more by `make
# test-slow`: there are about a hundred cases a law. What is drawn is a seed, in which there is
# nothing to shrink. (Keep a test under 900 parameters: hypothesis's pytest plugin nests the
# settings once for each, and overflows the stack.)
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
for profile, phases in (("suite", PHASES[:1]), ("thorough", PHASES)):
    hypothesis.settings.register_profile(
        profile,
        derandomize=profile == "thorough",  # else nothing is random; this costs a digest a test
        deadline=None,
        database=None,
        max_examples=3,
        phases=phases,
    )
hypothesis.settings.load_profile("suite")


def pytest_configure(config):
    from tests import manifold_cases

    manifold_cases.leave_out_slow = "not slow" in config.option.markexpr


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    """Mark as slow all but one in `every` of the parameters of a test marked `sampled(every)`.

    Those that stay are chosen by their names, so that they are the same in all runs and do not
    follow the order of one parameter; at least one stays.
    """
    by_test = collections.defaultdict(list)
    for item in items:
        sampled = item.get_closest_marker("sampled") is not None
        if sampled and item.get_closest_marker("slow") is None:
            by_test[item.nodeid.partition("[")[0]].append(item)
    for alike in by_test.values():
        every = alike[0].get_closest_marker("sampled").args[0]
        order = {id(item): zlib.crc32(item.nodeid.encode()) for item in alike}
        alike.sort(key=lambda item: order[id(item)])
        for item in alike[max(len(alike) // every, 1) :]:
            item.add_marker(pytest.mark.slow)


def pytest_report_header():
    """Which device it is that tests marked `gpu` run on."""
    if not torch.cuda.is_available():
        return None
    return (
        f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, torch {torch.__version__}"
    )


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Sums are split by thread, and the matrices are too small for threads to help.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    # `torch.manual_seed` also notes where it was called, for devices that are not there: a
    # millisecond for each test.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
