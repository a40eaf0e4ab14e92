"""Random filters and attributes, for the tests of everything that answers queries."""

from __future__ import annotations

import hypothesis.strategies as st

TEXTS = [
    *("1", "2", "2.0", "-5", "1e3", "007", "x", "xy", "", "true", "false", "San Francisco"),
    *("2025-01-01", "2024-12-31", "2025-01-01T00:30:00+02:00", "2024-12-31T22:30:00Z"),
    *('["x", "San Francisco"]', '[1, 2.5, "1", true]', "[]", "[draft] x", '[["x"]]', '["2", null]'),
    *("9223372036854775808", "0.1", "äö", "\U0001f600", "a\0b", "a\nb"),
]
"""So few that random filters find some of them."""

STORED = st.sampled_from([*(text.encode() for text in TEXTS), b"\xff", b"y" * 4097])
"""What attributes hold."""

OPERANDS = st.sampled_from([1, 2, 2.0, -5, 1000, 0.1, True, False, 2**63, *TEXTS])
FIELDS = st.sampled_from(["a", "b", "d", "user.a", "gone"])
"""`gone`: an attribute that no file has."""

_COMPARISONS = st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
_CONDITIONS = st.one_of(
    OPERANDS,
    st.dictionaries(_COMPARISONS, OPERANDS, min_size=1, max_size=2),
    st.fixed_dictionaries({"$in": st.lists(OPERANDS, max_size=4)}),
    st.fixed_dictionaries({"$nin": st.lists(OPERANDS, max_size=4)}),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries(
        {"$contains": st.sampled_from(["x", "an", "Fran", "-01", "", "\0", "1", "2.5", "true"])}
    ),
    st.fixed_dictionaries({"$text": st.sampled_from(["X", "fran SAN", "ÄÖ", "draft x"])}),
    st.fixed_dictionaries({"$not": st.dictionaries(_COMPARISONS, OPERANDS, min_size=1)}),
    st.fixed_dictionaries(
        {
            "$regex": st.sampled_from(
                ["^x", "Fran", "n F.*sco$", "2025", "[0-9]$", "^$", "^San", "^2025-01", "^\\[dr"]
            )
        }
    ),
)


def _connected(filters: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(
        st.fixed_dictionaries({"$and": st.lists(filters, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(filters, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": filters}),
    )


FILTERS: st.SearchStrategy[object] = st.recursive(
    st.dictionaries(FIELDS, _CONDITIONS, max_size=2), _connected, max_leaves=6
)
"""Filters over the attributes of `FIELDS`."""
