"""Aligning 1,000 networks of CNN (m) to their mean: seconds of one core.

`planted` are noised copies of one network, each moved by random elements of its symmetries; `unrelated` are drawn
independently, so that nothing is to be found and every descent is long: trained networks lie between. The noise is as
large as the weights' own spread. Seconds are of the processor, since other work on the machine must not count.
Goal: less than 5 minutes on two cores, which is 600 of these, for reading, balancing and matching together.
"""

from __future__ import annotations

import time
from functools import partial

import timm
import torch
from torch import Tensor

import zoo.networks.classifiers  # noqa: F401  # timm knows our networks after it
from harness import Bench, arguments
from zoo.seeds import generator, global_seed
from zoo.symmetry.action import act, parts_of, random_element
from zoo.symmetry.canonical import prepared
from zoo.symmetry.convolutional import chain
from zoo.symmetry.matching import Problem, Values
from zoo.symmetry.universe import universe

GOAL = 600.0  # seconds of a core
RESTARTS = 4
Networks = dict[str, Tensor]


def planted(shapes: dict[str, torch.Size], n: int) -> Networks:
    rng = generator(0, "planted")
    base = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    return {name: w + torch.randn((n, *w.shape), generator=rng) for name, w in base.items()}


def unrelated(shapes: dict[str, torch.Size], n: int) -> Networks:
    rng = generator(0, "unrelated")
    return {name: torch.randn((n, *shape), generator=rng) for name, shape in shapes.items()}


def main() -> None:
    bench = Bench("align", arguments(__doc__).parse_args())
    torch.set_num_threads(1)
    n = 8 if bench.quick else 1000
    with global_seed(0, "network"):
        network = timm.create_model("cnn_medium", num_classes=10, in_chans=3)
    specification = chain(network)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    problem = Problem(specification, tuple(part for part in parts_of(specification) if part.cost))
    for kind in (planted, unrelated):
        networks = kind(shapes, n)
        moved = act(specification, random_element(specification, n, generator(1, "moved")), networks)
        start = time.process_time()
        balanced = act(specification, prepared(specification, moved), moved)
        values = [part.view(balanced[part.name]).double().clone() for part in problem.parts]
        total = sum(part.numel for part in problem.parts)
        values = [value / (value.square().mean() * total).sqrt() for value in values]
        middle = time.process_time()
        found = universe(problem, partial(rows_of, values), n, 0, RESTARTS)
        end = time.process_time()
        bench.check(f"{kind.__name__}: the objective rises", found.shares[-1] > found.before)
        if not bench.quick:
            bench.check(f"{kind.__name__}: within {GOAL:.0f} s of a core", end - start < GOAL)
        bench.row(
            networks=n,
            kind=kind.__name__,
            values=sum(shape.numel() for shape in shapes.values()),
            balancing_s=middle - start,
            matching_s=end - middle,
            whole_s=end - start,
            objective_before=found.before,
            objective=found.shares[-1],
        )
    bench.finish()


def rows_of(values: Values, rows: Tensor) -> Values:
    return [value[rows] for value in values]


if __name__ == "__main__":
    main()
