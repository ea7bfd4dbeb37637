"""Spellings of one value: words for true and false, and texts that differ only in case, spaces, dashes and accents.

    "Yes"  "y"  "NO"  "n"  "1"         true, true, false, false, true
    "Setosa"  "setosa"  "SETOSA"       three categories, or one if a job says ``merged_category``

Words for true and false mean the same in every table, so they are merged. Other texts are kept apart, as "Aa" and "aA"
may be two genotypes; a note says how to merge them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from service.data.facts import MAX_LEVELS
from service.data.forms import MARKS, Texts
from service.errors import shortened

BOOLEANS: Final = (
    *(("false", "true"), ("no", "yes"), ("off", "on")),
    *(("falsch", "wahr"), ("nein", "ja"), ("faux", "vrai"), ("non", "oui"), ("falso", "verdadero"), ("falso", "vero")),
    *(("no", "si"), ("no", "sí"), ("no", "sì"), ("nee", "ja"), ("nej", "ja"), ("não", "sim"), ("nao", "sim")),
)
"""Words for false and true, in lower case."""

LETTERS: Final = (("n", "y"), ("f", "t"), ("n", "j"))
"""Letters for false and true that need no word next to them."""

DIGITS: Final = ("0", "1")
"""False and true next to words or letters; a column of nothing else holds numbers."""

INITIALS: Final = tuple((no[0], yes[0]) for no, yes in BOOLEANS if no[0] != yes[0])
"""Letters for false and true next to the words that they begin."""

FALSE: Final = tuple({no: None for no, _ in (*BOOLEANS, *INITIALS, DIGITS)})
TRUE: Final = tuple({yes: None for _, yes in (*BOOLEANS, *INITIALS, DIGITS)})
"""Everything that stands for false, or for true, in a column of booleans."""

MOST_SPELLINGS: Final = 20 * MAX_LEVELS
"""Distinct texts up to which spellings of one value are looked for; a column with more does not hold categories."""

MOST_NAMED: Final = 3
"""Values whose spellings a note lists."""


def are_booleans(words: Collection[str]) -> bool:
    """Return whether words in lower case stand for true and false, however they are mixed.

    >>> are_booleans({"yes", "no", "y", "n", "1"}), are_booleans({"n", "t"}), are_booleans({"yes", "no", "maybe"})
    (True, False, False)
    """
    others = set(words) - set(DIGITS)
    if not others:
        return False
    if any(others <= set(pair) for pair in LETTERS):
        return True
    spoken = [pair for pair in BOOLEANS if others & set(pair)]
    if any(pair[1] in others for pair in spoken):  # "no" is a word of several languages
        spoken = [pair for pair in spoken if pair[1] in others]
    letters = {word[0] for pair in spoken if pair[0][0] != pair[1][0] for word in pair}
    return bool(spoken) and others <= letters | {word for pair in BOOLEANS for word in pair}


def read_booleans(texts: pa.Array) -> pa.Array:
    """Return 0 for words that stand for false, 1 for those that stand for true, and null for others."""
    lower = pc.utf8_lower(texts)
    is_true = pc.is_in(lower, pa.array(TRUE))
    known = pc.or_(is_true, pc.is_in(lower, pa.array(FALSE)))
    return pc.if_else(known, is_true.cast(pa.int64()), pa.scalar(None, pa.int64()))


def name_booleans(texts: pa.Array) -> pa.Array:
    """Return words for true and false by the pair that the column uses: as they are written if there is only one pair.

    >>> name_booleans(pa.array(["Yes", "y", "NO", "?"])).to_pylist()
    ['yes', 'yes', 'no', None]
    """
    values = read_booleans(texts)
    counted = pc.utf8_lower(texts.filter(pc.is_valid(values))).value_counts()
    no, yes = _pair({item["values"]: item["counts"] for item in counted.to_pylist()})
    return pc.if_else(pc.equal(values, 1), yes, no)


def _pair(cells: Mapping[str, int]) -> tuple[str, str]:
    """Return the words of a column for false and true: the only ones, or else those with the most cells."""
    only = next((pair for pair in (*BOOLEANS, *LETTERS, DIGITS) if cells.keys() <= set(pair)), None)
    pairs = [pair for pair in BOOLEANS if cells.keys() & set(pair)] or LETTERS
    return only or max(pairs, key=lambda pair: sum(cells.get(word, 0) for word in pair))


def merged(texts: pa.Array) -> pa.Array:
    """Return texts in lower case without accents, and with one space for each run of spaces, dashes and underscores.

    >>> merged(pa.array(["Café-Bar", "cafe  bar"])).to_pylist()
    ['cafe bar', 'cafe bar']
    """
    plain = pc.replace_substring_regex(pc.utf8_normalize(texts, "NFKD"), r"\p{Mn}+", "")
    return pc.replace_substring_regex(pc.utf8_lower(plain), r"[\s_\p{Pd}\x{2212}]+", " ")


def boolean_notes(texts: Texts) -> Iterator[str]:
    """Say which spellings a column of booleans merges."""
    if groups := _groups(texts, read_booleans(texts.values).to_pylist()):
        yield f"read as one value: {groups}: say category in dataset.columns to keep them apart"


def mark_notes(cells: pa.Array) -> Iterator[str]:
    """Say which categories are marks that stand for a missing value elsewhere."""
    counted = cells.drop_null().value_counts()
    values = dict(sorted((item["values"], item["counts"]) for item in counted.to_pylist()))
    found = {value: count for value, count in values.items() if value.lower() in MARKS}
    if found and len(found) < len(values) and "+" not in values:
        named = ", ".join(f"{mark!r} ({count:,})" for mark, count in found.items())
        yield f"kept as categories, though they may stand for no value: {named}; empty these cells if they do"


def category_notes(texts: Texts) -> Iterator[str]:
    """Say which values of a column of at most ``MOST_SPELLINGS`` texts are different spellings of one."""
    keys = merged(texts.values)
    if len(keys.unique()) <= MAX_LEVELS and (groups := _groups(texts, keys.to_pylist())):
        what = "differ only in case, spaces, dashes or accents"
        yield f"values that {what}: {groups}: say merged_category in dataset.columns to make them one"
    present = set(keys.to_pylist())
    for pair in BOOLEANS:
        short = [f"{word[0]!r} for {word!r}" for word in pair if word[0] in present and set(pair) <= present]
        if short and pair[0][0] != pair[1][0]:
            yield f"may have {' and '.join(short)}: write one value in one way in the file"


def _groups(texts: Texts, keys: Iterable[object]) -> str:
    """Return the spellings of the values that have several, with the number of their cells; nothing if none has."""
    found: dict[object, list[tuple[str, int]]] = {}
    for key, spelling, cells in zip(keys, texts.values.to_pylist(), texts.cells.tolist(), strict=True):
        found.setdefault(key, []).append((spelling, cells))
    groups = sorted((group for group in found.values() if len(group) > 1), key=lambda group: -sum(n for _, n in group))
    named = [_named(sorted(group, key=lambda item: -item[1])) for group in groups[:MOST_NAMED]]
    return "; ".join([*named, f"and {len(groups) - MOST_NAMED} more"] if len(groups) > MOST_NAMED else named)


def _named(group: list[tuple[str, int]]) -> str:
    names = [f"{shortened(spelling)!r} ({cells:,})" for spelling, cells in group[:MAX_LEVELS]]
    return f"{', '.join(names[:-1])} and {names[-1]}"
