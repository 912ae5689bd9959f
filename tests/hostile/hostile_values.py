"""Values that nobody means, and ways to put them into real documents."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

TEXTS = (
    "", " ", "..", "../..", "/etc/passwd", "a/b", "\\", "x" * 3000, "\x00", "\n", "\x1b[31mred\x1b]0;title\x07",
    "\u202eabc",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "=cmd|' /C calc'!A0", "|x|y|", "$\\frac{", "%s{0}",
    "\\input{/etc/passwd}", "nan", "1e999", "${HOME}", "`id`", "[x](javascript:alert(1))", "𝟙²", "é", "\ud800",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.0, -0.0, 1e308, -1e308, 5e-324)

scalars = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),  # NaN and infinity among them
    st.text(max_size=20),
)
values = st.one_of(  # not recursive: that takes most of the time
    scalars,
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.sampled_from(TEXTS), scalars, max_size=3),
    st.sampled_from(['{"a": {"b": [[{}]]}}', "[[[[[[]]]]]]", "[{}]", '{"": null}']).map(
        json.loads
    ),  # never a shared one
)


@st.composite
def mutated(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """The document with one to `most` of its parts replaced, removed, doubled or added."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        parent, key = None, None
        node = changed
        while isinstance(node, dict | list) and node and (parent is None or draw(st.integers(0, 3))):
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))
            parent, node = node, node[key]
        if parent is None:
            return draw(values)
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "wrap"])):
            case "replace":
                parent[key] = draw(values)
            case "remove":
                del parent[key]
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(TEXTS) | st.text(max_size=8))] = draw(values)
            case "add":
                parent.append(copy.deepcopy(node))
            case "wrap":
                parent[key] = [node]
    return changed


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode()


@st.composite
def torn(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with some of them changed, cut off, doubled or put in."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        match draw(st.sampled_from(["flip", "number", "cut", "insert", "double"])):
            case "flip" if changed:
                changed[place] ^= draw(st.integers(1, 255))
            case "number":
                width = draw(st.sampled_from([2, 4, 8]))
                changed[place : place + width] = draw(
                    st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
                ).to_bytes(8, "little")[:width]
            case "cut":
                del changed[place:]
            case "insert":
                changed[place:place] = draw(st.binary(max_size=8))
            case "double":
                changed[place:place] = changed[place : place + draw(st.integers(1, 64))]
    return bytes(changed)
