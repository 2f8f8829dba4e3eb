"""The figures: the order of people, the pixels of their bars and the palette."""

import numpy as np

from pipeline import figures, report


def dirichlet(n_people: int, n_populations: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n_populations, 0.3), n_people).astype(np.float32)


def test_arrange__orders_groups_then_people() -> None:
    shares = np.array([[0.1, 0.9], [0.7, 0.3], [0, 1], [0.9, 0.1], [1, 0]], np.float32)
    groups = ["mixed", "east", "mixed", "east", "west"]
    names = ["east", "mixed", "west"]
    means = np.array([[0.8, 0.2], [0.05, 0.95], [1, 0]])
    arrangement = figures.arrange(shares, groups, names, means)
    # "west" (2 in sorted order) is all of population 1, "east" (0) mostly.
    assert arrangement.groups.tolist() == [2, 0, 1]
    assert arrangement.people.tolist() == [4, 3, 1, 2, 0]
    assert arrangement.starts.tolist() == [0, 1, 3, 5]


def test_arrange__thins_out_evenly() -> None:
    shares = dirichlet(1_050, 3)
    groups = np.array(["p", "q", "r"])[shares.argmax(1)]
    names, counts, means = report.group_means(shares, groups)
    everyone = figures.arrange(shares, groups, names, means)
    some = figures.arrange(shares, groups, names, means, most=100)
    places = np.flatnonzero(np.isin(everyone.people, some.people))
    assert len(some.people) == 100 == some.starts[-1]
    assert set(np.diff(places)) == {10, 11}
    np.testing.assert_allclose(np.diff(some.starts), counts / 10.5, atol=1)


def test_stacked_image__heights_are_shares() -> None:
    shares = np.array([[0.5, 0.3, 0.2], [0, 0, 1], [0, 1, 0]], np.float32)
    image = figures.stacked_image(shares, n_rows=10)
    first, second, third = (
        list(bytes.fromhex(figures.colour_of(k)[1:])) for k in range(3)
    )
    assert image[:, 0].tolist() == [third] * 2 + [second] * 3 + [first] * 5
    assert image[:, 1].tolist() == [third] * 10
    assert image[:, 2].tolist() == [second] * 10


def test_palette__colours_differ_for_everyone() -> None:
    """Least distance in OKLab, where 0.02 is about a just noticeable difference."""
    srgb = np.array([list(bytes.fromhex(c[1:])) for c in figures.PALETTE]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    # Severe deuteranopia: Machado, Oliveira and Fernandes (2009), IEEE TVCG 15:1291.
    deuteranopia = np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    )
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    assert len(figures.PALETTE) == 30
    for sight in (np.eye(3), deuteranopia):
        seen = np.clip(linear @ sight.T, 0, 1)
        lab = np.cbrt(seen @ to_cones.T) @ to_lab.T
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=2)
        assert distance[np.triu_indices(30, 1)].min() > 0.04
        assert distance[:7, :7][np.triu_indices(7, 1)].min() > 0.07
