"""Values that nobody expects."""

import copy

from hypothesis import strategies as st

HUGE = [2**31, 2**63, -(2**63), 2**64, 10**30, 10**400, 10**4000, 1e308, -1e308]
ODD_NUMBERS = [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, -1, 0, True, False]
ODD_TEXTS = [
    "", " ", "\n", "\0", "..", "../x", "/etc/passwd", "a/../../b", "~", "$HOME", "${seed}", "${oc.env:HOME}", "???",
    "null", "nan", "1e400", "-1", "0x10", "__import__('os').system('true')", "!!python/object/apply:os.getcwd []",
    "{0.__class__}", "{{7*7}}", "%s%n", "<script>alert(1)</script>", "\ud800", "\u202e", "\U0001f600" * 50,
    "x" * 10_000, "bench.methods.hu.Hu", "os.system", "builtins.eval", "subprocess.run", "torch.load",
    "bench.methods.base.Method",
]  # fmt: skip

texts = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=30))
numbers = st.one_of(st.sampled_from(HUGE + ODD_NUMBERS), st.integers(), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)


def one_line(error):
    """Fails unless an error is told in one line."""
    text = str(error)
    assert text
    assert len(text.splitlines()) == 1, text


def nested(depth):
    """A list in a list in a list."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


json_like = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
values = st.one_of(scalars, json_like, st.sampled_from([[], {}, nested(50), nested(900), {"a": {"b": {}}}]))


def places(content, above=()):
    """Every place in a nest of dicts and lists, as a path of keys."""
    found = []
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        found.append((*above, key))
        found += places(value, (*above, key))
    return found


def mutated(draw, original, known_places):
    """`original` with one to three changes: another value, a key gone, or a key more."""
    content = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(known_places))
        kind, value = draw(st.sampled_from(["replace", "replace", "delete", "add"])), copy.deepcopy(draw(values))
        parent = content
        try:
            for key in way:
                parent = parent[key]
            if kind == "delete":
                del parent[last]
            elif kind == "add" and isinstance(parent, dict):
                parent[draw(st.one_of(texts, st.integers()))] = value
            else:
                parent[last] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return content
