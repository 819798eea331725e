from hypothesis import given
from hypothesis import strategies as st

from alma_hook.keys import PREFIX, external_id, is_ours

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
payment_keys = st.text(min_size=1, max_size=60)
keys = st.builds(external_id, st.sampled_from(["01CAMPUS_INST", "01OTHER_INST"]), payment_keys)


@given(keys)
def test_our_keys_are_known_by_their_form(key: str) -> None:
    assert is_ours(key)
    assert key.startswith(PREFIX)
    assert len(key) == 16
    assert set(key) <= set(ALPHABET)


@given(payment_keys)
def test_a_payment_has_one_key_for_ever_and_another_at_another_institution(payment_key: str) -> None:
    key = external_id("01CAMPUS_INST", payment_key)
    assert external_id("01CAMPUS_INST", payment_key) == key
    assert external_id("01OTHER_INST", payment_key) != key


def test_the_key_of_a_known_payment_never_changes() -> None:
    # Alma holds these for years: another way of making them would post everything again.
    assert external_id("01CAMPUS_INST", "000100000001") == "SFS3R4SNKJLYN6M7"


@given(keys)
def test_no_single_changed_character_passes_for_ours(key: str) -> None:
    for place, right in enumerate(key):
        for wrong in ALPHABET:
            if wrong != right:
                assert not is_ours(key[:place] + wrong + key[place + 1 :])


@given(keys, st.text(min_size=1, max_size=3))
def test_what_is_longer_shorter_or_in_small_letters_is_not_ours(key: str, more: str) -> None:
    for other in (key + more, more + key, key[1:], key[:-1], key.lower(), f" {key}", f"{key}\n"):
        assert not is_ours(other)


@given(st.none() | st.text() | st.integers(0, 10**12).map(str))
def test_foreign_external_ids_are_not_ours(text: str | None) -> None:
    # The desk's receipts are plain numbers; other programs write what they like.
    assert not is_ours(text)
