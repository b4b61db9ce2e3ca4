"""What every store-like object must do: functions over `store`, run by test_conformance.py over each of them.

A store has put, get, exists, evict and their batches, and `put` with a key and `replace`, as `Client` has them.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from storekeeper.errors import BadKey, BatchFailed, KeyExists

BAD_KEYS = {
    "": "1 to 255",
    "../x": "dot",
    ".hidden": "dot",
    "..": "dot",
    "a/b": "/",
    "/etc/passwd": "/",
    "x" * 256: "1 to 255",
    "x" * 300: "1 to 255",
    "é" * 128: "1 to 255",
    "a\0b": "NUL",
    "\ud800": "UTF-8",
}


def new_key() -> str:
    return f"key-{uuid.uuid4()}"


def what_is_put_is_there(store: Any) -> None:
    key = store.put(b"bytes")
    assert isinstance(key, str)
    assert store.exists(key) is True
    assert store.get(key) == b"bytes"


def what_was_never_put_is_absent(store: Any) -> None:
    key = new_key()
    assert store.get(key) is None
    assert store.exists(key) is False
    assert store.evict(key) is False


def what_is_evicted_is_gone(store: Any) -> None:
    key = store.put(b"bytes")
    assert store.evict(key) is True
    assert store.exists(key) is False
    assert store.get(key) is None
    assert store.evict(key) is False


def a_key_can_be_chosen(store: Any) -> None:
    key = new_key()
    assert store.put(b"bytes", key=key) == key
    assert store.get(key) == b"bytes"


def two_puts_without_a_key_are_two_objects(store: Any) -> None:
    first, second = store.put(b"same"), store.put(b"same")
    assert first != second
    store.evict(first)
    assert store.get(second) == b"same"


def the_same_put_twice_is_one(store: Any) -> None:
    key = new_key()
    store.put(b"bytes", key=key)
    assert store.put(b"bytes", key=key) == key
    assert store.get(key) == b"bytes"


def other_bytes_under_the_same_key_are_refused(store: Any) -> None:
    key = store.put(b"first")
    for other in (b"other", b"longer than it", b""):
        with pytest.raises(KeyExists):
            store.put(other, key=key)
    assert store.get(key) == b"first"


def replace_replaces(store: Any) -> None:
    key = store.put(b"first")
    store.put(b"second", key=key, replace=True)
    assert store.get(key) == b"second"
    store.put(b"", key=key, replace=True)
    assert store.get(key) == b""


def an_evicted_key_can_be_put_again(store: Any) -> None:
    key = store.put(b"first")
    store.evict(key)
    store.put(b"second", key=key)
    assert store.get(key) == b"second"


def nothing_is_an_object_too(store: Any) -> None:
    key = store.put(b"")
    assert store.exists(key) is True
    assert store.get(key) == b""


def any_bytes_like_object_will_do(store: Any) -> None:
    for data in (b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), memoryview(b"b.y.t.e.s.")[::2]):
        assert store.get(store.put(data)) == b"bytes"


def all_byte_values_survive(store: Any) -> None:
    data = bytes(range(256)) * 40
    assert store.get(store.put(data)) == data


def unusual_keys_are_keys(store: Any) -> None:
    for key in ("a", "x" * 255, "é" * 127, "ключ", "with space", "new\nline", "-rf", "a.ready", "~", "*", "a\\b", "#1"):
        store.put(b"bytes", key=key, replace=True)
        assert store.get(key) == b"bytes"
        assert store.exists(key)
        assert store.evict(key)


def bad_keys_are_refused_by_name_of_the_rule(store: Any) -> None:
    for key, rule in BAD_KEYS.items():
        for call in (store.get, store.exists, store.evict, lambda key: store.put(b"bytes", key=key)):
            with pytest.raises(BadKey, match=rule):
                call(key)
    # "Returned an error but stored it anyway" would be worse than no error.
    assert store.get(store.put(b"still here")) == b"still here"


def batches_answer_item_by_item(store: Any) -> None:
    keys = store.put_batch([b"one", b"two", b""])
    missing = new_key()
    assert store.get_batch([keys[2], missing, keys[0], keys[0]]) == [b"", None, b"one", b"one"]
    assert store.exists_batch([missing, *keys]) == [False, True, True, True]
    assert store.evict_batch([keys[0], missing, keys[1]]) == [True, False, True]
    assert store.exists_batch(keys) == [False, False, True]


def an_empty_batch_is_no_work(store: Any) -> None:
    assert store.put_batch([]) == []
    assert store.get_batch([]) == []
    assert store.exists_batch([]) == []
    assert store.evict_batch([]) == []


def a_batch_may_be_long(store: Any) -> None:
    objects = [b"%d" % n for n in range(2500)]
    keys = store.put_batch(objects)
    assert len(set(keys)) == 2500
    assert store.get_batch(keys) == objects
    assert all(store.exists_batch(keys))
    assert all(store.evict_batch(keys))
    assert not any(store.exists_batch(keys))


def a_key_twice_in_a_batch_is_done_in_order(store: Any) -> None:
    key = new_key()
    store.put_batch([b"first", b"second", b"third"], keys=[key] * 3, replace=True)
    assert store.get(key) == b"third"
    assert store.evict_batch([key, key]) == [True, False]


def one_bad_item_does_not_spoil_a_batch(store: Any) -> None:
    taken, free = store.put(b"mine"), new_key()
    with pytest.raises(BatchFailed) as caught:
        store.put_batch([b"yours", b"good"], keys=[taken, free])
    assert isinstance(caught.value.results[0], KeyExists)
    assert caught.value.results[1] == free
    assert store.get_batch([taken, free]) == [b"mine", b"good"]


def large_objects_survive(store: Any) -> None:
    data = bytes(range(251)) * 50_000  # three messages' worth
    key = store.put(data)
    assert store.get(key) == data
    assert store.get_batch([key, new_key(), key]) == [data, None, data]
    store.put(data[:-1], key=key, replace=True)
    assert store.get(key) == data[:-1]
    with pytest.raises(KeyExists):
        store.put(data, key=key)
    assert store.put(data[:-1], key=key) == key
    assert store.evict(key)


def a_large_batch_is_split(store: Any) -> None:
    objects = [bytes([n]) * 1_500_000 for n in range(8)]
    keys = store.put_batch(objects)
    assert store.get_batch(keys) == objects


RULES = [
    value
    for name, value in list(vars().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and name != "new_key"
]
