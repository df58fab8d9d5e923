"""The tensors that are stepped: single matrices, many small ones, batches, whole models."""

from __future__ import annotations

from riemopt_bench.speed.interface import Item, Kind, Workload


def _one(
    name: str, title: str, shape: tuple[int, ...], kind: Kind = "stiefel", quick: bool = False
) -> Workload:
    return Workload(name, title, (Item(shape, kind),), quick)


def matrix(n: int, p: int, quick: bool = False) -> Workload:
    """One Stiefel matrix."""
    return _one(f"{n}x{p}", f"one {n}×{p} matrix", (n, p), quick=quick)


def separate(count: int, n: int, quick: bool = False) -> Workload:
    """Many separate square Stiefel parameters."""
    item = Item((n, n), "stiefel", count)
    return Workload(f"{count}-of-{n}x{n}", f"{count:,} separate {n}×{n} matrices", (item,), quick)


def _batch(count: int, n: int, quick: bool = False) -> Workload:
    shape = (count, n, n)
    return _one(f"{count}x{n}x{n}", f"one batch of {count:,} {n}×{n} matrices", shape, quick=quick)


def transformer(width: int, layers: int, vocabulary: int = 1000) -> tuple[Item, ...]:
    """Parameters of a small transformer: 12 tensors a layer and 6 others, all unconstrained."""
    vectors, hidden = (width,), 4 * width
    shapes: list[tuple[int, ...]] = []
    for _ in range(layers):
        shapes += [(3 * width, width), (3 * width,), (width, width), vectors]
        shapes += [(hidden, width), (hidden,), (width, hidden), vectors]
        shapes += [vectors] * 4  # two layer norms
    shapes += [(vocabulary, width), (128, width), vectors, vectors]
    shapes += [(vocabulary, width), (vocabulary,)]
    return tuple(Item(shape, "plain") for shape in shapes)


_PLAIN = transformer(width=128, layers=5)
_MIXED = (*transformer(width=64, layers=16), Item((128, 64), "stiefel", 2))

WORKLOADS = {
    workload.name: workload
    for workload in (
        matrix(64, 64, quick=True),
        matrix(256, 256, quick=True),
        matrix(512, 512),
        matrix(1024, 1024),
        matrix(1024, 64, quick=True),
        matrix(4096, 64),
        matrix(16384, 128),
        separate(64, 64),
        separate(1000, 16),
        _batch(1000, 16, quick=True),
        _batch(100, 64),
        _batch(10000, 3),
        _one("conv-256x128x3x3", "a 3×3 convolution, 128 to 256 channels", (256, 128, 3, 3)),
        _one("sphere-4096x1024", "4,096 unit rows of 1,024", (4096, 1024), "sphere"),
        _one("sphere-50000x64", "50,000 unit rows of 64", (50000, 64), "sphere"),
        _one("symmetric-1024", "one symmetric 1024×1024 matrix", (1024, 1024), "symmetric"),
        Workload(
            "plain-model", f"a transformer, {len(_PLAIN)} unconstrained tensors", _PLAIN, quick=True
        ),
        Workload(
            "mixed-model",
            f"{len(_MIXED) + 1} tensors of a transformer, two on Stiefel",
            _MIXED,
        ),
    )
}

SQUARE = ("64x64", "256x256", "512x512", "1024x1024")
TALL = ("1024x64", "4096x64", "16384x128")
SMALL = ("64-of-64x64", "1000-of-16x16", "1000x16x16", "100x64x64", "10000x3x3")
