"""Which rows of a dataset go into training, validation and test: 60 / 20 / 20 %, unless the user says the parts.

    random    any row anywhere, with the same share of each class in every part
    group     rows of one group, such as a patient, stay together
    time      the oldest rows train, the newest test
    column    a column of the table says the part

Rows that are the same in every feature also stay together, as a model would have seen a test row in training, unless
they are so many that they would make the parts uneven.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, train_test_split

from service.data.arrays import AnyArray
from service.data.prepared_files import SPLIT_PARTS, Rows
from service.errors import JobFailedError
from service.spec.data import PART_NAMES
from service.spec.dataset_info import HELD_OUT

Parts = dict[str, Rows]
"""Part -> its rows."""

FOLDS: Final = round(1 / HELD_OUT)
"""Folds of groups: one is the test part, one the validation part."""

BALANCED_GROUPS: Final = 2_000
"""Groups up to which classes and sizes of the parts are balanced, which takes a while for each group."""

MIN_UNITS: Final = 30
"""Different rows from which on identical ones are kept together; fewer would make odd parts."""

MAX_COPIES: Final = 0.05
"""Share of the rows up to which copies of one row are kept together. More would decide how large the parts are, and a
row that is so frequent is frequent among new rows, too."""

MAX_COARSE: Final = 64
"""Columns of arrays up to which identical rows may be there by chance."""

BEYOND_CHANCE: Final = 4.0
"""How many times more pairs of identical rows than independent columns would have are copies of rows."""

DIGEST_BYTES: Final = 16
"""Bytes that stand for a wide row, so many that different rows never share them."""

TRIES: Final = 100
"""How often a split is drawn at most, until no part is empty and the training part has every class."""


class SplitError(JobFailedError):
    """Rows cannot be split. ``wrong`` says why, as a clause that follows ``dataset.split``."""

    def __init__(self, by: str, wrong: str) -> None:
        super().__init__(f"dataset.split by {by} {wrong}")
        self.wrong = wrong


@dataclass(frozen=True, slots=True)
class RowSplit:
    """How the rows of a dataset are split.

    Attributes:
        by: As in the spec.
        values: Group, time or part of each row; None for random splits.
        together: A number for each row; rows with the same number stay in one part, unless they are too many. None if
            every row is on its own.
    """

    by: str = "random"
    values: AnyArray | None = None
    together: Rows | None = None

    def parts(
        self,
        rows: int,
        seed: int,
        classes: AnyArray | None,
        labels: Sequence[str] = (),
        *,
        keeps_draw_order: bool = False,
    ) -> Parts:
        """Return the rows of each part. ``time`` and ``column`` do not depend on the seed.

        A draw that leaves a part empty, or a class out of the training part, is drawn again, from a seed that follows
        from this one.

        Args:
            rows: How many rows there are.
            seed: Draws the parts.
            classes: Class index of each row, if there are classes.
            labels: Names of the classes, for errors.
            keeps_draw_order: Whether the rows of a part stay in the order in which they were drawn.

        Raises:
            SplitError: A part has no row, or the training part lacks a class, in each of ``TRIES`` draws.
        """
        wrong = None
        for attempt in range(TRIES if self.by in ("random", "group") else 1):
            parts = self._drawn(rows, _seed_of(seed, attempt), classes)
            wrong = _problem(parts, classes, labels)
            if wrong is None:
                return parts if keeps_draw_order else {part: np.sort(drawn) for part, drawn in parts.items()}
        every = f"in {TRIES} draws " if self.by in ("random", "group") else ""
        raise SplitError(self.by, f"{every}leaves {wrong}")

    def _drawn(self, rows: int, seed: int, classes: AnyArray | None) -> Parts:
        if self.by == "column":
            assert self.values is not None, "it has the part of each row"
            known = np.array([PART_NAMES[str(name).lower()] for name in self.values])
            return {part: np.flatnonzero(known == part) for part in SPLIT_PARTS}
        if self.by == "time":
            assert self.values is not None, "it has the time of each row"
            return _by_time(self.values)
        if self.by == "group":
            assert self.values is not None, "it has the group of each row"
            return _by_group(_joined(numbered(self.values), self.together), seed, classes)
        if self.together is not None:
            return _by_unit(_without_large(self.together, MAX_COPIES * rows), seed, classes)
        return _at_random(np.arange(rows), seed, classes)


AT_RANDOM: Final = RowSplit()


def hold_out(rows: Rows, share: float, seed: int, strata: AnyArray | None) -> tuple[Rows, Rows]:
    """Return the rows that are left and those that are held out, in the order in which they were drawn.

    ``strata`` has the group of each row of the source, of which the same share is held out; None draws without groups.
    """
    stratify = None if strata is None else strata[rows]
    left, held_out = train_test_split(rows, test_size=share, random_state=seed, stratify=stratify)
    return left, held_out


def hold_out_together(rows: Rows, share: float, seed: int, strata: AnyArray, together: Rows) -> Rows:
    """Return the rows that are held out, with all of their copies among ``rows``, by their numbers in ``together``.

    Copies that are more than ``share`` of the rows of a stratum are not kept together.
    """
    most = share * np.bincount(strata[rows])[strata[rows]]
    number, of_units = _units(_without_large(together[rows], most), strata[rows])
    _, held_out = hold_out(np.arange(number.max() + 1), share, seed, of_units)
    return rows[np.isin(number, held_out)]


def _at_random(rows: Rows, seed: int, classes: AnyArray | None) -> Parts:
    rest, test = hold_out(rows, HELD_OUT, seed, classes)
    train, val = hold_out(rest, HELD_OUT / (1 - HELD_OUT), seed, classes)
    return {"train": train, "val": val, "test": test}


def _by_unit(together: Rows, seed: int, classes: AnyArray | None) -> Parts:
    """Split units of rows at random, each by the class of its first row where every class has enough units."""
    number, of_units = _units(together, classes)
    drawn = _at_random(np.arange(number.max() + 1), seed, of_units)
    return {part: np.flatnonzero(np.isin(number, chosen)) for part, chosen in drawn.items()}


def _units(together: Rows, classes: AnyArray | None) -> tuple[Rows, AnyArray | None]:
    """Return the unit of each row, counted from 0, and the class of each unit; None if a class has too few units."""
    _, first, number = np.unique(together, return_index=True, return_inverse=True)
    of_units = None if classes is None else classes[first]
    if of_units is not None and np.bincount(of_units).min() < FOLDS:
        of_units = None
    return number, of_units


def _without_large(together: Rows, most: AnyArray | float) -> Rows:
    """Return ``together`` with a number of its own for each row whose copies are more than ``most``."""
    counts = np.bincount(together)
    large = counts[together] > most
    return numbered(np.where(large, len(counts) + np.arange(len(together)), together)) if large.any() else together


def _by_group(groups: Rows, seed: int, classes: AnyArray | None) -> Parts:
    """Split groups at random into parts that are as balanced in size and classes as whole groups allow."""
    count = len(np.unique(groups))
    if count > BALANCED_GROUPS:
        return _by_unit(groups, seed, classes)
    folds, labels = min(FOLDS, count), np.zeros(len(groups), np.int64) if classes is None else classes
    kfold = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    if np.bincount(labels).max() < folds:
        kfold = GroupKFold(folds, shuffle=True, random_state=seed)
    test, val = (held_out for _, held_out in list(kfold.split(labels, labels, groups))[:2])
    train = np.setdiff1d(np.arange(len(groups)), np.concatenate([test, val]))
    return {"train": train, "val": val, "test": test}


def _by_time(times: AnyArray) -> Parts:
    """Return the oldest, the middle and the newest rows. Rows of the same time are not torn apart."""
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    bounds = [round(len(times) * share) for share in (1 - 2 * HELD_OUT, 1 - HELD_OUT)]
    first, second = (int(np.searchsorted(ordered, ordered[bound])) for bound in bounds)
    return dict(zip(SPLIT_PARTS, np.split(order, [first, second]), strict=True))


def _seed_of(seed: int, attempt: int) -> int:
    """Return what draws a split at an attempt: the seed itself at the first, which is nearly always the last."""
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0]) if attempt else seed


def _problem(parts: Parts, classes: AnyArray | None, labels: Sequence[str]) -> str | None:
    """Return what a split leaves out, and what to do; None if nothing."""
    empty = [part for part, rows in parts.items() if not len(rows)]
    if empty:
        return f"no row for the {empty[0]} part; split by something finer"
    if classes is None:
        return None
    missing = np.setdiff1d(classes, classes[parts["train"]])
    if not len(missing):
        return None
    name = repr(labels[missing[0]]) if labels else f"number {missing[0]}"
    return (
        f"no training row of the class {name}, so no model can learn it; split in another way, or remove the rows of "
        "this class"
    )


def numbered(values: AnyArray) -> Rows:
    """Return the number of each value, counted from 0 in sorted order."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _joined(groups: Rows, together: Rows | None) -> Rows:
    """Return groups that also keep copies of rows together that are in different ones.

    Groups stay as they are where so many would become one that it would be larger than a part that is held out, or that
    there would be fewer groups than parts.
    """
    if together is None:
        return groups
    together = _without_large(together, MAX_COPIES * len(groups))
    size = int(groups.max() + together.max()) + 2
    edges = coo_array((np.ones(len(groups)), (groups, together + groups.max() + 1)), shape=(size, size))
    of_groups = connected_components(edges, directed=False)[1].astype(np.int64)[: groups.max() + 1]
    joined = of_groups[groups]
    large = (np.bincount(joined) > HELD_OUT * len(groups)) & (np.bincount(of_groups) > 1)
    if large.any():
        joined = numbered(np.where(large[joined], len(large) + groups, joined))
    return joined if len(np.unique(joined)) >= len(SPLIT_PARTS) else groups


def identical_rows(columns: Iterable[AnyArray]) -> Rows | None:
    """Return a number for each row that only identical rows share; None without copies of rows.

    Coarse columns give identical rows by chance, which are not copies: two people of the same age and sex. So the pairs
    of identical rows must be several times as many as columns with these values would have if they were independent.

    >>> ages, sizes = np.arange(50) % 40, np.arange(50) % 40 + 0.5
    >>> copies(identical_rows([ages, sizes]))
    20
    >>> identical_rows([ages]) is None
    True
    """
    found, by_chance, rows = None, 1.0, 0
    for values in columns:
        numbers, rows = numbered(values), len(values)
        by_chance *= _share_of_pairs(numbers)
        found = numbers if found is None else numbered(found * (int(numbers.max()) + 1) + numbers)
        if int(found.max()) + 1 == rows:
            return None
    if found is None or int(found.max()) + 1 < MIN_UNITS:
        return None
    return found if _share_of_pairs(found) > BEYOND_CHANCE * by_chance else None


def identical_arrays(x: AnyArray) -> Rows | None:
    """Return the same for rows x numbers. Rows as wide as images are not the same by chance.

    The numbers follow from the rows alone, unlike ``hash()``, so that every process draws the same split.
    """
    if x.shape[1] <= MAX_COARSE:
        return identical_rows(x.T)
    seen: dict[bytes, int] = {}
    digests = (blake2b(row.tobytes(), digest_size=DIGEST_BYTES).digest() for row in x)
    found = np.array([seen.setdefault(digest, len(seen)) for digest in digests])
    return found if MIN_UNITS <= len(seen) < len(x) else None


def _share_of_pairs(numbers: Rows) -> float:
    """Return the share of the pairs of different rows that have the same number."""
    counts = np.bincount(numbers).astype(np.float64)
    rows = max(len(numbers), 2)
    return float((counts * (counts - 1)).sum() / (rows * (rows - 1)))


def copies(together: Rows) -> int:
    """Return how many rows are the same as another one."""
    counts = np.bincount(together)
    return int(counts[counts > 1].sum())


def torn_apart(together: Rows, parts: Parts) -> int:
    """Return how many rows are the same as one in another part."""
    part_of = np.empty(len(together), dtype=np.int64)
    for index, rows in enumerate(parts.values()):
        part_of[rows] = index
    pairs = np.unique(np.stack([together, part_of]), axis=1)
    return int((np.bincount(pairs[0])[together] > 1).sum())
