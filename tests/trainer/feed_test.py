from toy import Counter

from trainer.feed import Feed, HeldOut, differences, open_iterator


def test_the_position_is_that_of_the_last_batch_used():
    feed = Feed(open_iterator(Counter(), 0), lambda batch: batch)
    assert feed.position == {"n": 0}
    first = feed.take()
    feed.read_ahead()
    feed.read_ahead()
    assert feed.position == {"n": 1}
    assert first.batch["n"][0] == 1
    assert feed.take().batch["n"][0] == 2
    assert feed.position == {"n": 2}


def test_the_end_of_the_data_moves_nothing():
    feed = Feed(open_iterator(Counter(length=1), 0), lambda batch: batch)
    assert feed.take() is not None
    feed.read_ahead()
    assert feed.take() is None
    assert feed.take() is None
    assert feed.position == {"n": 1}


def test_held_out_batches_start_again_with_every_loop():
    held_out = HeldOut(Counter(length=3), 0, lambda batch: batch)
    assert [batch["n"][0] for batch in held_out] == [1, 2, 3]
    assert [batch["n"][0] for batch in held_out] == [1, 2, 3]
    assert list(HeldOut(None, 0, lambda batch: batch)) == []


def test_differences_name_the_place():
    stored, wanted = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2]}, "e": 3}
    assert differences(stored, wanted) == [
        "a.c: stored [1], wanted [2]",
        "d: stored 2, wanted '(absent)'",
        "e: stored '(absent)', wanted 3",
    ]
