import numpy as np

from studio.data.sentences import is_heldout, plural, sentence, vocabulary
from studio.data.spelling import ALPHABET


def test_sentences_are_spoken_letters_and_of_many_kinds():
    said = [sentence(np.random.default_rng(i)) for i in range(400)]
    assert set("".join(said)) <= set(ALPHABET)
    assert len(set(said)) > 330
    assert max(len(text.split()) for text in said) <= 12
    assert {len(text.split()) for text in said} >= set(range(1, 8))


def test_the_held_out_sentences_are_a_twentieth_of_the_longer_ones_and_never_in_training():
    seen = {sentence(np.random.default_rng(i)) for i in range(400)}
    hidden = {sentence(np.random.default_rng(i), heldout=True) for i in range(60)}
    assert not seen & hidden
    assert all(is_heldout(text) and len(text.split()) >= 3 for text in hidden)
    assert not any(is_heldout(word) for word in vocabulary())


def test_every_word_of_a_held_out_sentence_is_a_word_of_training():
    words = {w for i in range(3000) for w in sentence(np.random.default_rng(i)).split()}
    hidden = {
        w for i in range(40) for w in sentence(np.random.default_rng(i), heldout=True).split()
    }
    assert hidden <= words


def test_plurals():
    assert [plural(w) for w in ("apple", "box", "butterfly", "key", "mouse", "leaf")] == [
        "apples",
        "boxes",
        "butterflies",
        "keys",
        "mice",
        "leaves",
    ]
