"""What a generator's figures are compared with: a shuffled condition, rejection sampling, the nearest real item."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stylegan2_msp.metrics.observing import Items

Array = npt.NDArray[Any]


def shuffled(items: Items, seed: int = 0) -> Items:
    """The same items with their requests u permuted: what is left when the condition says nothing of the item."""
    order = np.random.default_rng(seed).permutation(len(items))
    return replace(items, asked=items.asked[order], group=1)


def nearest_real(items: Items, reals: Items) -> Items:
    """For every request the real item of its class whose own u is nearest; a class without any is left out.

    A bound from above: retrieval knows the data, but makes nothing new.

    Args:
        items: the requests, ``classes`` and ``asked``.
        reals: all real items, ``asked`` being their own u.
    """
    items = replace(items, group=1).take(np.flatnonzero(np.isin(items.classes, reals.classes)))
    chosen = np.empty(len(items), np.int64)
    for cls in np.unique(items.classes):
        pool, wanted = np.flatnonzero(reals.classes == cls), np.flatnonzero(items.classes == cls)
        pool = pool[np.argsort(reals.asked[pool], kind="stable")]
        own, u = reals.asked[pool], items.asked[wanted]
        above = np.clip(np.searchsorted(own, u), 1, max(len(own) - 1, 1))
        below_is_nearer = u - own[above - 1] <= own[np.minimum(above, len(own) - 1)] - u
        chosen[wanted] = pool[np.where(below_is_nearer, above - 1, np.minimum(above, len(own) - 1))]
    return Items(items.classes, items.asked, reals.predicted[chosen], reals.asked[chosen])


def rejection(requests: Items, pool: Items, eps: float, seed: int = 0) -> Items:
    """Draws from a class-only generator until |v - u| <= eps; every request has the pool of its class as its budget.

    The pool is drawn from in a fresh random order for every request, which stands for fresh samples.

    Args:
        requests: ``classes`` and ``asked``.
        pool: items of the class-only generator, at least one of every class asked for.
        eps: half the distance of two levels, say.
        seed: of the orders.

    Returns:
        The first drawn item within eps of each request, or the nearest one where none was; with ``made`` and
        ``accepted``.
    """
    rng = np.random.default_rng(seed)
    members = {cls: np.flatnonzero(pool.classes == cls) for cls in np.unique(requests.classes)}
    chosen, draws = np.empty(len(requests), np.int64), np.empty(len(requests), np.int64)
    accepted = np.empty(len(requests), bool)
    for i, (cls, u) in enumerate(zip(requests.classes, requests.asked, strict=True)):
        order = rng.permutation(members[cls])
        distance = np.abs(pool.answered[order] - u)
        inside = distance <= eps
        accepted[i] = inside.any()
        place = int(inside.argmax()) if accepted[i] else int(distance.argmin())
        chosen[i], draws[i] = order[place], place + 1 if accepted[i] else len(order)
    said = pool.predicted[chosen], pool.answered[chosen]
    return Items(requests.classes, requests.asked, *said, made=draws, accepted=accepted)
